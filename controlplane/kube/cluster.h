// SPDX-License-Identifier: Apache-2.0
// Everything that a control plane has when it lives in (or beside) a Kubernetes cluster: the
// client, the source, the check of tokens, the authority's Secret, the election and, while this
// replica leads, its duties. On the control plane's loop.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/kube/client.h"
#include "common/kube/config.h"
#include "common/metrics/registry.h"
#include "controlplane/kube/ca_secret.h"
#include "controlplane/kube/duties.h"
#include "controlplane/kube/kube_source.h"
#include "controlplane/kube/leader_election.h"
#include "controlplane/kube/token_review_authenticator.h"

namespace qanat::controlplane {

struct ClusterOptions {
  std::string ns = "qanat-system";     // where the Secret and the Lease are
  std::string ca_secret = "qanat-ca";  //
  std::string identity;                // of this replica, for the Lease
  WaypointSettings waypoint;
};

class Cluster {
 public:
  Cluster(event::EventLoop& loop, kube::ClientConfig config, ClusterOptions options,
          metrics::Registry& registry);
  ~Cluster();

  KubeSource& source() { return source_; }
  Authenticator& authenticator() { return authenticator_; }

  // `done` once, when there is one; `replaced` when it should no longer be used: see
  // CaSecretLoader.
  void LoadAuthority(CaOptions options, CaSecretLoader::Done done, std::function<void()> replaced);
  // What keeps this control plane from serving; "" when nothing of ours does.
  std::string WaitingFor() const;

  // Takes part in the election from now on. `state` is asked while this replica leads.
  void Lead(std::string root_pem, std::function<DutyState()> state);
  void Changed();  // of the state
  std::vector<Issue> issues() const;
  // At shutdown; `done` is called in any case, within a second.
  void Release(std::function<void()> done);

 private:
  event::EventLoop& loop_;
  const ClusterOptions options_;
  metrics::Registry& registry_;
  kube::Client client_;
  KubeSource source_;
  TokenReviewAuthenticator authenticator_;
  std::unique_ptr<CaSecretLoader> loader_;
  std::unique_ptr<LeaderElection> election_;
  std::unique_ptr<Duties> duties_;
  metrics::Gauge& leading_;
};

}  // namespace qanat::controlplane
