// SPDX-License-Identifier: Apache-2.0
// Who calls: a service account token, verified by an Authenticator (its signature, audience and
// times), then checked against the World: the pod of the token must still be there, with that
// service account, on that node. On the control plane's loop.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/tls/x509.h"
#include "controlplane/ca/pending.h"
#include "controlplane/model/world.h"

namespace qanat::controlplane {

inline constexpr std::string_view kTokenAudience = "istio-ca";  // stock: of projected tokens
inline constexpr size_t kLongestToken = 16384;

// What a token says whose signature is good.
struct TokenClaims {
  std::string ns;
  std::string service_account;
  std::string pod_name;
  std::string pod_uid;
  std::string node;  // "" where the API server does not say
};

class Authenticator {
 public:
  using Done = std::function<void(Result<TokenClaims>)>;
  virtual ~Authenticator() = default;
  // `authorization` is the header's value, "Bearer ...". `done` is called once, perhaps before this
  // returns (then nullptr is returned). kUnauthenticated: this token will not do; kUnavailable:
  // nobody can be asked just now, try again.
  [[nodiscard]] virtual PendingPtr Authenticate(std::string_view authorization, tls::Time now,
                                                Done done) = 0;
};

// The token of the header; an error that says what to send.
Result<std::string_view> BearerToken(std::string_view authorization);

struct Caller {
  std::string ns;
  std::string service_account;
  std::string pod_name;
  std::string pod_uid;
  std::string node;      // of the pod, as the World has it
  std::string identity;  // spiffe://...
};

Result<Caller> Identify(const TokenClaims& claims, const World& world);
// The caller's pod is still what the token says: asked again for streams that live on.
Status StillThere(const Caller& caller, const World& world);

}  // namespace qanat::controlplane
