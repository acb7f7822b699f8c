// SPDX-License-Identifier: Apache-2.0
// Verifies service account tokens by asking the API server (TokenReview, audience istio-ca). A good
// answer counts for a minute, at most until the token expires; callers with one token share one
// question. What is no such token at all is refused without asking. On the control plane's loop.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <string>

#include "common/event/event_loop.h"
#include "common/kube/client.h"
#include "controlplane/ca/caller.h"

namespace qanat::controlplane {

struct TokenReviewOptions {
  std::chrono::milliseconds timeout{5000};
  std::chrono::seconds keep{60};
  size_t most_kept = 20000;
  size_t most_running = 256;
};

class TokenReviewAuthenticator final : public Authenticator {
 public:
  // `before_answer` runs before an answer that had to be waited for: the source catches up, so that
  // the pod of the token is known if the API server has told of it.
  TokenReviewAuthenticator(kube::Client& client, std::function<void()> before_answer,
                           TokenReviewOptions options = {});
  ~TokenReviewAuthenticator() override;
  PendingPtr Authenticate(std::string_view authorization, tls::Time now, Done done) override;

 private:
  struct Kept {
    TokenClaims claims;
    event::TimePoint until;
  };
  class Waiter;
  struct Review {
    kube::HandlePtr call;
    tls::Time expiry;
    std::list<Waiter*> waiters;
  };
  void Answer(std::string hash, Result<kube::CallResponse> response);
  void Abandon(const std::string& hash);
  void Keep(const std::string& hash, const TokenClaims& claims, tls::Time expiry, tls::Time now);

  kube::Client& client_;
  const std::function<void()> before_answer_;
  const TokenReviewOptions options_;
  std::map<std::string, Kept> kept_;       // by the token's hash: tokens themselves are not kept
  std::map<std::string, Review> running_;  // by the token's hash
};

// What an authenticated review says; kUnauthenticated when it is not, or not of a pod's token.
Result<TokenClaims> ClaimsOfReview(std::string_view json);

}  // namespace qanat::controlplane
