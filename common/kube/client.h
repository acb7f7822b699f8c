// SPDX-License-Identifier: Apache-2.0
// A client of the Kubernetes API: calls multiplexed over one HTTP/2 connection (HTTP/1.1 where the
// server knows nothing else), made when a call needs it and made anew after it is lost. A call that
// the server certainly did not act on (GOAWAY, refused stream) and a GET whose connection was lost
// are repeated; 429 waits as told. Everything lives on one loop; callbacks come from the loop,
// never from inside a call of the user's, and may destroy handles and the client itself.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/kube/config.h"
#include "common/kube/resource.h"

namespace qanat::kube {

// What runs. Destroying it cancels without further callbacks, also from inside a callback.
class Handle {
 public:
  virtual ~Handle() = default;
};
using HandlePtr = std::unique_ptr<Handle>;

struct WatchRequest {
  std::string path;  // without query
  Query query;       // watch=true is added
  // Nothing may take longer than this until the answer's head; the stream itself ends after
  // `lifetime` at the latest. Give the server a shorter timeoutSeconds.
  std::chrono::milliseconds head_timeout{30000};
  std::chrono::milliseconds lifetime{660000};
  size_t max_line_bytes = 16 << 20;
};

struct WatchEnd {
  bool in_order = false;  // the server ended it as watches end
  int http_status = 0;    // of a refusal, else 0
  Error error;            // when not in order
};

struct ClientOptions {
  // Name, TCP and TLS together; an API server that is starting takes its time for a handshake.
  std::chrono::milliseconds connect_timeout{10000};
  std::chrono::milliseconds backoff_first{200};
  std::chrono::milliseconds backoff_max{5000};
  std::chrono::milliseconds ping_interval{30000};  // HTTP/2
  std::chrono::milliseconds ping_timeout{10000};
};

class Client {
 public:
  using Done = std::function<void(Result<CallResponse>)>;
  using OnLine = std::function<void(std::string_view json)>;
  using OnEnd = std::function<void(const WatchEnd&)>;

  Client(event::EventLoop& loop, ClientConfig config, ClientOptions options = {});
  ~Client();  // running calls are dropped without callbacks; their handles may live on
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // `done` is called once. Errors (see status.h): kUnauthenticated, kPermissionDenied, kNotFound,
  // kAlreadyExists, kFailedPrecondition (conflict, or 410 Gone), kInvalidArgument, kUnavailable,
  // kDeadlineExceeded; each message says what was asked where, and the remedy.
  [[nodiscard]] HandlePtr Call(CallRequest request, Done done);
  // `on_line` per line of the stream, valid during the call; `on_end` once, last.
  [[nodiscard]] HandlePtr Watch(WatchRequest request, OnLine on_line, OnEnd on_end);

  // Calls `back` when the server answers again after it could not be reached, for who waits to try
  // again. Ends with the handle.
  [[nodiscard]] HandlePtr OnBack(std::function<void()> back);

  event::EventLoop& loop() const;
  const ClientConfig& config() const;
  bool connected() const;
  // The last reason why no connection could be made; "" while connected. For status pages.
  std::string connection_error() const;

  struct Impl;  // shared with the handles
 private:
  std::shared_ptr<Impl> impl_;
};

// For command line tools and the CNI plugin: runs a loop of its own until the answer is there.
Result<CallResponse> CallBlocking(const ClientConfig& config, CallRequest request);

}  // namespace qanat::kube
