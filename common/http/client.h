// SPDX-License-Identifier: Apache-2.0
// A small HTTP/1.1 client for our own admin and debug endpoints: one request per connection, over
// TCP or a unix socket, the whole answer in memory. The asynchronous form lives on the caller's
// loop; the blocking one is for the command line.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/http/message.h"
#include "common/net/address.h"
#include "common/netns/netns.h"

namespace qanat::http {

struct FetchRequest {
  net::SocketAddress address;  // or:
  std::string unix_path;
  std::string method = "GET";
  std::string path = "/";
  std::string host = "localhost";
  HeaderList headers;
  std::string body;
  std::chrono::milliseconds timeout{5000};  // for everything
  size_t max_response_bytes = 256 << 20;
  const netns::NetNs* netns = nullptr;  // where the socket is made; nullptr: the caller's
};

struct FetchResponse {
  int status = 0;
  HeaderList headers;
  std::string body;
};

// Calls `done` once, never from inside the constructor; destroying it cancels.
class Fetch {
 public:
  using Done = std::function<void(Result<FetchResponse>)>;
  Fetch(event::EventLoop& loop, FetchRequest request, Done done);
  ~Fetch();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Runs a loop of its own until the answer is there. Any status is a success of the call.
Result<FetchResponse> FetchBlocking(FetchRequest request);

// A stream socket on a path: a leftover file of a dead server is replaced; a live one is an error.
Result<Fd> ListenUnix(const std::string& path, unsigned mode);
Result<Fd> ConnectUnix(const std::string& path);

}  // namespace qanat::http
