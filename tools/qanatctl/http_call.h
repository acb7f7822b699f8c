// SPDX-License-Identifier: Apache-2.0
// One HTTP/1.1 exchange with a deadline, for probes, readiness of programs, the agent's socket and
// the admin ports. The socket is made in a given network namespace; everything after that happens
// on the loop. Answers are bounded; there is no keep-alive and no redirect.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/net/address.h"
#include "common/netns/netns.h"

namespace qanat::ctl {

struct HttpRequest {
  std::string method = "GET";
  std::string path = "/";
  std::string host;  // Host header
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
};

struct HttpResponse {
  int status = 0;
  std::string body;
};

struct HttpTarget {
  net::SocketAddress address;
  std::string unix_path;  // instead of `address`
  const netns::NetNs* netns = nullptr;
};

// Pure: nullopt while bytes are missing (`ended`: the peer has closed). Understands
// Content-Length, chunked and read-to-the-end bodies.
Result<std::optional<HttpResponse>> ParseHttpResponse(std::string_view bytes, bool ended);

class HttpCall {
 public:
  using Done = std::function<void(Result<HttpResponse>)>;
  // `done` is called once, on the loop, never from the constructor; destroying the call cancels.
  HttpCall(event::EventLoop& loop, const HttpTarget& target, const HttpRequest& request,
           std::chrono::milliseconds timeout, Done done);
  // Only connects: ok when the connection is established (a tcpSocket probe).
  static std::unique_ptr<HttpCall> Connect(event::EventLoop& loop, const HttpTarget& target,
                                           std::chrono::milliseconds timeout, Done done);
  ~HttpCall();

 private:
  HttpCall(event::EventLoop& loop, Done done) : loop_(loop), done_(std::move(done)) {}
  void Start(const HttpTarget& target, std::chrono::milliseconds timeout);
  void OnEvents(uint32_t events);
  void Finish(Result<HttpResponse> result);

  event::EventLoop& loop_;
  Done done_;
  bool connect_only_ = false;
  bool connected_ = false;
  std::string out_;
  size_t sent_ = 0;
  std::string in_;
  Fd fd_;
  std::string where_;
  std::optional<Result<HttpResponse>> early_;
  std::unique_ptr<event::IoWatch> watch_;
  std::unique_ptr<event::Timer> timer_;
};

// Blocking, for commands: runs its own loop until the answer is there.
Result<HttpResponse> HttpDo(const HttpTarget& target, const HttpRequest& request,
                            std::chrono::milliseconds timeout);

}  // namespace qanat::ctl
