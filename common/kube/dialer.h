// SPDX-License-Identifier: Apache-2.0
// One connection to the API server: name, TCP, TLS with the server's certificate checked against
// the configured CA and its name. Owned by who wants the connection; lives on the loop.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/kube/config.h"
#include "common/net/transport.h"

namespace qanat::kube {

struct Dialed {
  net::TransportPtr transport;
  std::string alpn;  // "h2", "http/1.1"; "" without TLS
};

class Dialer {
 public:
  using Done = std::function<void(Result<Dialed>)>;
  // Calls `done` once, never from inside the constructor; it may destroy the Dialer. Destroying it
  // before that cancels. Errors name address, cause and remedy.
  Dialer(event::EventLoop& loop, const ClientConfig& config, std::vector<std::string> alpn,
         std::chrono::milliseconds timeout, Done done);
  ~Dialer();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::kube
