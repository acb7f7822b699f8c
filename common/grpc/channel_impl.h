// SPDX-License-Identifier: Apache-2.0
// The inside of a channel: how the connection comes to be, and the calls that wait for it or run on
// it. One loop.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "common/grpc/channel.h"
#include "common/grpc/endpoint.h"
#include "common/grpc/resolver.h"
#include "common/http/connection.h"
#include "common/net/socket.h"
#include "common/tls/tls_transport.h"

namespace qanat::grpc {

class CallImpl;

struct Channel::Impl final : std::enable_shared_from_this<Channel::Impl>,
                             private http::ClientEvents {
  Impl(event::EventLoop& loop, ChannelOptions options);

  void Add(CallImpl* call);     // waits until a connection takes it
  void Remove(CallImpl* call);  // no longer waiting
  void Disconnect(std::string_view why);
  void Shutdown();
  std::optional<event::TimePoint> last_heard() const;
  bool connected() const { return connection_ != nullptr && !connection_->Finished(); }

  event::EventLoop& loop_;
  const ChannelOptions options_;
  Result<Endpoint> endpoint_;
  std::chrono::milliseconds ping_interval_;  // of the next connection; grows only

 private:
  // http::ClientEvents
  void OnCapacity(http::ClientConnection&) override { Schedule(); }
  void OnPingAnswered(http::ClientConnection& connection, event::TimePoint sent) override {
    if (&connection == connection_.get()) last_heard_ = sent;
  }
  void OnCalmDown(http::ClientConnection& connection) override;
  void OnConnectionClosed(http::ClientConnection& connection, bool clean,
                          std::string_view detail) override;

  // PINGs are too few to say how old it is what was heard: the kernel's probes say it.
  bool Probes() const {
    return options_.ping_while_busy && ping_interval_ > options_.ping_interval;
  }
  void Schedule() {
    if (!pump_.armed()) pump_.Start({});
  }
  void Pump();
  void BeginConnect();
  void TryNextAddress();
  void OnTcp(Result<Fd> fd);
  void OnReady(net::TransportPtr transport);
  void ConnectFailed(const Error& error);
  void DropAttempt();
  void FailWaiting(const CallStatus& status);

  Resolver resolver_;
  std::list<CallImpl*> waiting_;
  http::ClientConnectionPtr connection_;
  std::optional<event::TimePoint> last_heard_;  // of connection_
  event::TimePoint ready_at_{};                 // ... when it stood
  // Connections that take no new streams and still have some.
  std::list<http::ClientConnectionPtr> old_;
  event::Timer pump_;
  event::Timer connect_timer_;
  event::Timer idle_timer_;

  // The attempt under way.
  bool connecting_ = false;
  std::string phase_;  // for the message of a timeout
  std::vector<net::IpAddress> addresses_;
  size_t next_address_ = 0;
  std::unique_ptr<Resolver::Query> query_;
  std::unique_ptr<net::Connector> connector_;
  std::unique_ptr<tls::TlsHandshake> handshake_;
  std::optional<Error> last_error_;
  bool shut_down_ = false;
};

// One call: gRPC framing over one HTTP/2 stream.
class CallImpl final : public Call, private http::StreamEvents {
 public:
  CallImpl(std::shared_ptr<Channel::Impl> channel, CallOptions options, CallEvents* events);
  ~CallImpl() override;

  void Send(std::string_view message) override;
  void HalfClose() override;
  void PauseReading(bool pause) override;
  size_t buffered() const override;

  // From the channel's pump, so that the user may be called. False: no capacity after all.
  bool Attach(http::ClientConnection& connection);
  void Close(const CallStatus& status);
  bool closed() const { return closed_; }

 private:
  enum class Reading { kPrefix, kMessage };

  void OnResponse(http::ResponseHead head, bool end) override;
  void OnData(std::string_view data, bool end) override;
  void OnTrailers(http::HeaderList trailers) override;
  void OnWritable() override;
  void OnClosed(http::CloseReason reason, std::string_view detail) override;
  bool ReadPrefix(std::string_view& data);
  void Finish(const http::HeaderList& trailers);

  std::shared_ptr<Channel::Impl> channel_;
  const CallOptions options_;
  CallEvents* events_;
  event::Timer deadline_;
  http::Stream* stream_ = nullptr;
  std::string pending_;  // framed messages from before the connection
  bool half_closed_ = false;
  bool waiting_ = true;
  bool paused_ = false;
  bool closed_ = false;
  Reading reading_ = Reading::kPrefix;
  std::string prefix_;
  size_t left_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace qanat::grpc
