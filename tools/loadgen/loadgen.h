// SPDX-License-Identifier: Apache-2.0
// The servers and the loads of qanat-loadgen. One thread; each call blocks until it is done.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/result.h"
#include "common/net/address.h"

namespace qanat::loadgen {

struct Load {
  std::string mode;  // bulk, rr, connect, http, idle
  net::SocketAddress to;
  int connections = 1;
  double seconds = 2;
  double warmup = 0.3;  // not measured
  size_t size = 1;      // rr: bytes each way
  double rate = 0;      // http: requests a second over all connections; 0 = as fast as it goes
  std::string host;     // http: Host header
  std::string path = "/";
};

// One line of JSON: rates, percentiles in microseconds, errors.
Result<std::string> RunLoad(const Load& load);

// Serves echo on port, sink on port + 1, HTTP/1.1 on port + 2 until SIGTERM.
Status RunServer(uint16_t port);

}  // namespace qanat::loadgen
