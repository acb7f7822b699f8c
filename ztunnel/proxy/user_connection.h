// SPDX-License-Identifier: Apache-2.0
// What an outbound and an inbound connection share: the pod is identified, something is decided,
// the other end is reached, bytes are relayed, and all of it ends as one flow in log and metrics.
// Owned by its worker, on the worker's thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/fd.h"
#include "common/net/socket.h"
#include "common/route/identify.h"
#include "common/takeover/session.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/proxy/relay.h"
#include "ztunnel/takeover/connection_state.h"
#include "ztunnel/takeover/tunnel_state.h"
#include "ztunnel/telemetry/series_cache.h"
#include "ztunnel/telemetry/worker_metrics.h"

namespace qanat::ztunnel {

class UserConnection : public Connection, private Relay::Owner {
 public:
  ~UserConnection() override;

  bool Waiting() const override { return state_ == State::kIdentifying; }
  void Close(model::Reason reason, const std::string& detail) override;
  std::optional<ConnectionInfo> Describe() const override;
  size_t held() const override { return relay_ ? relay_->held() : 0; }
  void LookAtIdleness(event::TimePoint now) override;
  UserConnection* user() override { return this; }

  // ---- hand-over of a connection that is relayed between two sockets. Between Freeze() and the
  // call that follows it nothing of it moves; should its process die then, its peers see a reset.

  bool CanFreeze() const { return state_ == State::kRelaying && relay_ && relay_->CanFreeze(); }
  std::optional<takeover::Parcel> Freeze();
  void Thaw();
  // It is another process's: ends here without a sign to anybody. False: it does not stand still.
  bool Forget();
  // In the other process: what it was, then (when it is ours) Run().
  void Restore(const SavedConnection& saved);
  void Run(RelayState state);

  // ---- the same of a stream of a tunnel that moves as a whole (tunnel_mover.h), which keeps the
  // socket while it stands still

  bool CanFreezeStream() const {
    return state_ == State::kRelaying && relay_ && relay_->CanFreezeStream();
  }
  SavedTunnel::Stream FreezeStream();
  void RunStream(SavedTunnel::Stream state, net::TransportPtr stream, tls::VerifiedPeerPtr proven);
  void LoseStream();  // there is no tunnel for it any more, here or where it was

 protected:
  enum class State : uint8_t { kIdentifying, kCertificate, kConnecting, kRelaying, kFrozen, kOver };
  static constexpr std::chrono::seconds kIdentifyTimeout{5};  // as stock ztunnel

  // `fd` is the captured client's socket; none for a stream of a tunnel.
  UserConnection(Worker& worker, PodPtr pod, Fd fd, Reporter reporter, net::SocketAddress peer);

  // False: the pod has as many connections as it may, or memory is full; this one was refused.
  bool Admit();
  // Calls Decide() once it is known which workload the pod is, Refuse() if that takes too long.
  void TryIdentify();
  // On demand: asks for these names and looks again when more is known, for as long as it may take
  // to identify. False: there is nothing to ask for.
  bool AwaitNames(std::vector<std::string> names, event::Duration most = kIdentifyTimeout);
  // With `near`, whose other end is on this machine, `done` may be called from inside.
  void BeginConnect(const net::ConnectOptions& options, bool near, net::Connector::Done done);
  void StartRelay(net::TransportPtr client, net::TransportPtr other, RelayEarly early = {});
  // What the client sees of a refusal: its connect() has succeeded long ago, and a reset tells it
  // that this was no orderly end.
  void ResetClient();
  // Reports the flow and releases the connection; the first call counts.
  void End(model::Reason reason, std::string error, bool opened);

  // Part of the time since the decision that was not the way to the other end.
  void SpentOn(SetupPhase phase, event::Duration time);

  virtual void Decide(const model::WorkloadPtr& workload) = 0;
  virtual void Refuse(model::Reason reason, std::string detail) = 0;
  // It is relayed from now on, for as long as may be: what was for the way there only goes.
  virtual void OnRelaying() = 0;
  virtual void OnEnd(const FlowEnd& end) = 0;  // lets go of what is its own
  virtual void SaveMore(SavedConnection&) const = 0;
  virtual void RestoreMore(const SavedConnection&) = 0;
  virtual void SetProven(tls::VerifiedPeerPtr) = 0;  // the other end of its tunnel
  virtual const char* PathName() const = 0;          // for ConnectionInfo

  // Until it is known who the pod is.
  struct Unidentified {
    Unidentified(event::EventLoop& loop, event::Timer::Handler give_up)
        : timer(loop, std::move(give_up)) {}
    route::Identified why;
    event::Timer timer;
  };
  // Until it is relayed.
  struct Beginning {
    std::unique_ptr<Unidentified> unidentified;
    event::TimePoint decided{};
    event::Duration spent_elsewhere{0};
    std::unique_ptr<net::Connector> connector;
  };

  State state_ = State::kIdentifying;
  Fd fd_;
  Flow flow_;
  const std::shared_ptr<PodLoad> load_;  // before what is charged to it
  std::unique_ptr<Beginning> beginning_ = std::make_unique<Beginning>();  // null from then on
  std::unique_ptr<Relay> relay_;

 private:
  void OnRelayEnd(const Relay::Result& result) override { End(result.reason, result.error, true); }
  void WaitForMore(route::Identified why, event::Duration most = kIdentifyTimeout);
  const Series& MakeRelay(net::TransportPtr client, net::TransportPtr other);
  void ForgetStream();
  SavedConnection Save() const;
  void CloseNowIfAsked();

  event::TimePoint started_ = event::Clock::now();
  // When it was last seen to be half closed with these bytes.
  event::TimePoint silent_since_{};
  uint64_t silent_at_ = 0;
  const net::Transport* stream_ = nullptr;  // of a tunnel, as long as it is relayed
  std::unique_ptr<RelayState> frozen_;
  std::unique_ptr<std::pair<model::Reason, std::string>> close_later_;  // asked for while frozen
};

}  // namespace qanat::ztunnel
