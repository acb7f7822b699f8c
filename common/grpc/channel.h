// SPDX-License-Identifier: Apache-2.0
// A gRPC client: unary and bidirectional calls with messages as bytes, over our own HTTP/2 and TLS.
// A channel is one endpoint with at most one connection, made when a call needs it and made anew
// after it is lost. Everything lives on one loop; the name is resolved on a helper thread.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/http/message.h"
#include "common/netns/netns.h"

namespace qanat::grpc {

enum class StatusCode : uint8_t {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};
std::string_view StatusCodeName(StatusCode code);

struct CallStatus {
  StatusCode code = StatusCode::kOk;
  std::string message;
  // The failure is of the connection (name, connect, TLS, transport), not an answer of the server.
  bool connection_error = false;
  bool ok() const { return code == StatusCode::kOk; }
  std::string ToString() const;  // "UNAVAILABLE: connect to 10.0.0.1:15012: Connection refused"
  Error ToError() const;
};

using Metadata = std::vector<std::pair<std::string, std::string>>;  // names in lower case

struct ChannelOptions {
  std::string endpoint;  // "https://host:port", "http://host:port", [v6]; no scheme means https
  // Trust roots for https: a path (read again for every connection), literal PEM, or "SYSTEM".
  std::string root_ca;
  // Also accepted as the server's DNS name (ALT_XDS_HOSTNAME); "" = only the endpoint's host.
  std::string alternative_server_name;
  // Called for every call; an error fails the call with UNAUTHENTICATED before anything is sent.
  std::function<Result<Metadata>()> metadata;
  std::chrono::milliseconds connect_timeout{5000};  // name, TCP and TLS together
  std::chrono::milliseconds ping_interval{30000};
  std::chrono::milliseconds ping_timeout{10000};
  bool ping_while_busy = false;  // also while messages arrive: what last_heard() is for
  // A server that calls our PINGs too many (gRPC servers do: GOAWAY ENHANCE_YOUR_CALM) gets them at
  // half the rate, and not more often than this. Stock control planes allow one each 15 s.
  std::chrono::milliseconds calm_ping_interval{20000};
  size_t max_message_bytes = 200 << 20;
  uint32_t stream_window = 1 << 20;
  uint32_t connection_window = 2 << 20;
  std::chrono::milliseconds idle_timeout{0};  // close the connection when no call used it. 0 = keep
  uint32_t mark = 0;                          // SO_MARK
  const netns::NetNs* netns = nullptr;        // of the socket; names resolve in the caller's
  std::string user_agent;                     // "" = qanat/<version>
};

class CallEvents {
 public:
  virtual void OnInitialMetadata(const http::HeaderList&) {}
  // A message arrives in pieces as the network delivers them; see MessageCallEvents for whole ones.
  virtual void OnMessageBegin(size_t size) = 0;
  virtual void OnMessageData(std::string_view piece) = 0;
  virtual void OnMessageEnd() = 0;
  virtual void OnWritable() {}
  // Last event, exactly once, never from inside a call of the user's.
  virtual void OnClosed(const CallStatus& status) = 0;

 protected:
  ~CallEvents() = default;
};

// Collects the pieces.
class MessageCallEvents : public CallEvents {
 public:
  virtual void OnMessage(std::string message) = 0;
  void OnMessageBegin(size_t size) final;
  void OnMessageData(std::string_view piece) final;
  void OnMessageEnd() final;

 protected:
  ~MessageCallEvents() = default;

 private:
  std::string message_;
};

// One call. Destroying it cancels, without further events (also from inside an event).
class Call {
 public:
  virtual ~Call() = default;
  virtual void Send(std::string_view message) = 0;  // kept until the connection is there
  virtual void HalfClose() = 0;
  virtual void PauseReading(bool pause) = 0;
  virtual size_t buffered() const = 0;
};
using CallPtr = std::unique_ptr<Call>;

struct CallOptions {
  std::string method;                     // "/package.Service/Method"
  Metadata metadata;                      // besides the channel's
  std::chrono::milliseconds deadline{0};  // from now; 0 = none
};

class Channel {
 public:
  using UnaryDone = std::function<void(Result<std::string>)>;
  using UnaryStatusDone = std::function<void(CallStatus, std::string)>;

  Channel(event::EventLoop& loop, ChannelOptions options);
  ~Channel();  // all calls must be gone

  // Never fails at once: errors come by OnClosed. No retries: callers have a Backoff.
  CallPtr Start(CallOptions options, CallEvents* events);
  // One message each way. Keep the handle; destroying it cancels.
  CallPtr Unary(CallOptions options, std::string_view request, UnaryStatusDone done);

  const ChannelOptions& options() const;
  event::EventLoop& loop() const;
  bool connected() const;
  // When the latest PING was sent that the server has answered: it was there at that time or
  // later. Nothing: none was, on the present connection. Where the server has asked for fewer PINGs
  // (and ping_while_busy says that it matters) its kernel's latest acknowledgement counts too,
  // which is asked for as often as it was to be pinged, as long as PINGs are answered at their own
  // rate.
  std::optional<event::TimePoint> last_heard() const;
  // Of the connections from now on: the option's until a server called that too often.
  std::chrono::milliseconds ping_interval() const;
  // Ends the connection; calls get UNAVAILABLE. The next call connects anew.
  void Disconnect(std::string_view why);

  struct Impl;  // shared with the calls
 private:
  std::shared_ptr<Impl> impl_;
};

// A provider for ChannelOptions::metadata: "authorization: Bearer <file or literal>", the file read
// per call and trimmed, and "clusterid". A missing file is an error that names it.
std::function<Result<Metadata>()> TokenMetadata(std::string token_file_or_literal,
                                                std::string cluster_id, Metadata extra = {});

}  // namespace qanat::grpc
