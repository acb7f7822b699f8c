// SPDX-License-Identifier: Apache-2.0
// Private to the worker: what it has for one pod.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "common/net/socket.h"
#include "ztunnel/dns/server.h"
#include "ztunnel/proxy/worker.h"

namespace qanat::ztunnel {

struct Worker::PodEntry {
  PodPtr pod;
  // What verdicts about the pod's connections depend on, as of the present snapshot.
  model::Reason identified = model::Reason::kNone;
  model::Identity identity;
  policy::PolicySet policies;
  std::vector<std::pair<Role, std::unique_ptr<net::Acceptor>>> acceptors;
  std::unique_ptr<dns::Server> dns;  // at one worker per pod
};

}  // namespace qanat::ztunnel
