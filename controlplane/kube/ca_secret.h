// SPDX-License-Identifier: Apache-2.0
// The certificate authority's key in the cluster: the plug-in Secret `cacerts` if there is one,
// else our own (type istio.io/ca-root), made once by whichever replica is first. Never overwritten.
// Asks until it has an answer; each failure is logged once with its remedy. Looks again now and
// then: replicas that were started before and after a change must not sign by different roots for
// long. On the control plane's loop.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "common/event/event_loop.h"
#include "common/kube/client.h"
#include "controlplane/ca/authority.h"

namespace qanat::controlplane {

class CaSecretLoader {
 public:
  using Done = std::function<void(CertificateAuthority)>;
  // `done` is called once, never from inside this. `replaced`, once, later: another authority has
  // taken the place of the one that was handed out, and it is good; it counts after a restart.
  CaSecretLoader(event::EventLoop& loop, kube::Client& client, std::string ns, std::string secret,
                 CaOptions options, Done done, std::function<void()> replaced = {},
                 std::chrono::milliseconds look_again = std::chrono::minutes(1));

  // Why there is no authority yet, or what is wrong with the Secret since; "" when all is well.
  const std::string& problem() const { return problem_; }
  bool loaded() const { return loaded_.has_value(); }

 private:
  void AskPlugin();
  void AskOwn();
  void MakeOwn();
  void Take(const std::string& name, std::string_view json);
  void Failed(const std::string& what, const Error& error);
  void Complain(std::string problem);

  event::EventLoop& loop_;
  kube::Client& client_;
  const std::string ns_;
  const std::string secret_;
  const CaOptions options_;
  const Done done_;
  const std::function<void()> replaced_;
  const std::chrono::milliseconds look_again_;
  std::optional<CaFiles> loaded_;  // what was handed out
  kube::HandlePtr call_;
  event::Timer retry_;
  std::chrono::milliseconds delay_{500};
  std::string problem_;
  bool told_ = false;  // that the authority was replaced
};

// The PEM files of a Secret as the API server gives it. `where` is for messages.
Result<CaFiles> CaFilesOfSecret(std::string_view json, const std::string& where);

}  // namespace qanat::controlplane
