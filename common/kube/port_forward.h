// SPDX-License-Identifier: Apache-2.0
// A TCP connection to a port inside a pod's network namespace, loopback included, through the API
// server: the portforward subresource over WebSocket (v4.channel.k8s.io). This is how qanatctl
// reaches admin ports that listen on loopback only. Needs RBAC for pods/portforward. Lives on the
// loop.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/kube/config.h"

namespace qanat::kube {

struct PodPort {
  std::string ns;
  std::string pod;
  uint16_t port = 0;
};

// Sends `request`, takes what comes back until `enough` says so or the pod ends the connection.
// `done` is called once, never from the constructor, and may destroy this; destroying it cancels.
class PodExchange {
 public:
  // With all bytes so far; `ended`: there will be no more.
  using Enough = std::function<bool(std::string_view bytes, bool ended)>;
  using Done = std::function<void(Result<std::string>)>;
  PodExchange(event::EventLoop& loop, const ClientConfig& config, PodPort to, std::string request,
              std::chrono::milliseconds timeout, Enough enough, Done done);
  ~PodExchange();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// For the command line: runs a loop of its own.
Result<std::string> ExchangeWithPod(const ClientConfig& config, const PodPort& to,
                                    std::string request, std::chrono::milliseconds timeout,
                                    PodExchange::Enough enough);

}  // namespace qanat::kube
