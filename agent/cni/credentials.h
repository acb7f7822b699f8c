// SPDX-License-Identifier: Apache-2.0
// The kubeconfig of the CNI plugin on the node. Its token is of a service account of the plugin's
// own (it may read pods and namespaces, nothing else) and not bound to our pod: one that was would
// die with the pod, and a node whose agent cannot start could not tell its pods apart any more.
// Lives on the agent's loop; the client outlives it.
#pragma once

#include <string>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/kube/client.h"

namespace qanat::agent::cni {

struct CredentialsOptions {
  std::string path = "/var/lib/qanat/cni-kubeconfig";
  std::string ns = "qanat-system";
  std::string service_account = "qanat-cni";
  std::chrono::seconds lifetime = std::chrono::hours(7 * 24);  // asked for; a server may give less
};

class Credentials {
 public:
  Credentials(event::EventLoop& loop, kube::Client& client, CredentialsOptions options);

  void Start();
  const std::string& problem() const { return problem_; }

 private:
  void Refresh();
  void OnToken(Result<kube::CallResponse> response);
  void UseOwn(const std::string& why);
  void Write(const std::string& token, event::Duration again_in);

  event::EventLoop& loop_;
  kube::Client& client_;
  CredentialsOptions options_;
  std::string problem_;
  std::string written_;
  kube::HandlePtr call_;
  event::Timer refresh_;
};

struct IssuedToken {
  std::string token;
  long expires_unix = 0;  // 0: not said
};
Result<IssuedToken> ParseTokenRequest(std::string_view json);

}  // namespace qanat::agent::cni
