// SPDX-License-Identifier: Apache-2.0
// Serves RpcService with the gRPC library over TLS. Only grpc_server.cc includes the library; what
// it serves is written against rpc.h. The library's threads do nothing but post to the loop.
#pragma once

#include <memory>
#include <string>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "controlplane/ads/rpc.h"

namespace qanat::controlplane {

struct GrpcServerOptions {
  std::string listen = "[::]:15012";
  std::string key_pem;
  std::string chain_pem;
  size_t max_message_bytes = 64 << 20;
};

class GrpcServer {
 public:
  // On the loop's thread. Serves at once.
  static Result<std::unique_ptr<GrpcServer>> Start(event::EventLoop& loop, RpcService& service,
                                                   const GrpcServerOptions& options);
  // On the loop's thread, not from inside a handler: ends every call with UNAVAILABLE, waits for
  // the library while running the loop.
  ~GrpcServer();
  int port() const;

  // Routes the library's own log lines to ours. Once, at the start of main().
  static void InitLogging();

 private:
  class Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::controlplane
