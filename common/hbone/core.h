// SPDX-License-Identifier: Apache-2.0
// Private to common/hbone: the HTTP/2 session that both ends share. core.cc has its life and the
// calling of streams, core_streams.cc the streams, core_flow.cc windows, core_output.cc what goes
// out, core_input.cc and core_headers.cc what comes in. Client and server sessions are thin
// handles; a Core outlives its handle by one round of the loop, so that it may be destroyed from
// its own callbacks.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/hbone/byte_queue.h"
#include "common/hbone/client_session.h"
#include "common/hbone/frame.h"
#include "common/hbone/hpack.h"
#include "common/hbone/patience.h"
#include "common/hbone/saved_session.h"
#include "common/hbone/server_session.h"
#include "common/hbone/stream.h"
#include "common/hbone/stream_table.h"
#include "common/hbone/types.h"
#include "common/net/transport.h"

namespace qanat::hbone {

// Allows bursts and a steady rate; what goes beyond is an attack.
class TokenBucket {
 public:
  TokenBucket(double burst, double per_second) : tokens_(burst), burst_(burst), rate_(per_second) {}
  bool Take(event::TimePoint now);
  double left() const { return tokens_; }
  void SetLeft(double tokens) { tokens_ = tokens < burst_ ? tokens : burst_; }
  void Refund(double tokens) { tokens_ = tokens_ + tokens < burst_ ? tokens_ + tokens : burst_; }

 private:
  double tokens_;
  double burst_;
  double rate_;
  event::TimePoint last_{};
};

// Bytes of the present second and the one before: enough to tell a busy tunnel from an idle one.
class Meter {
 public:
  void Add(event::TimePoint now, uint64_t bytes);
  uint64_t Recent(event::TimePoint now) const;

 private:
  static int64_t Second(event::TimePoint t) {
    return std::chrono::duration_cast<std::chrono::seconds>(t.time_since_epoch()).count();
  }
  int64_t second_ = 0;
  uint64_t present_ = 0, before_ = 0;
};

// A stream is bulk once it has moved so much, its tunnel is busy while its bulk streams move this.
inline constexpr uint64_t kBulkFrom = 16u << 20;
inline constexpr uint64_t kBusyFrom = 1u << 20;

// Content of the PING between a server's two GOAWAYs.
inline constexpr uint64_t kDrainPing = ~uint64_t{0};

class Core final : public event::Deferred, private net::TransportEvents, private FrameSink {
 public:
  enum class Side { kClient, kServer };
  struct Callbacks {
    std::function<void()> on_change;                            // client
    std::function<void(InboundConnect, Responder)> on_connect;  // server
    std::function<void(const CloseReason&)> on_closed;
  };
  Core(Side side, net::TransportPtr transport, const SessionOptions& options, Callbacks callbacks);
  // Goes on with a session (core_handover.cc); its streams' new handles come in their order. Of
  // `options` only the times count.
  Core(Side side, net::TransportPtr transport, const SessionOptions& options, Callbacks callbacks,
       SavedSession saved, std::vector<net::TransportPtr>& handles);
  ~Core() override;

  // ---- for the handles ----
  std::unique_ptr<PendingConnect> Connect(const ConnectRequest& request,
                                          ClientSession::OnResponse done);
  bool CanOpen() const;
  bool settings_seen() const { return state_.settings_seen; }
  bool peer_takes_source() const { return state_.settings_seen && state_.peer.takes_source; }
  bool PeerTakesEarly() const;
  event::TimePoint made() const { return made_; }
  uint64_t bulk() const;  // what bulk streams moved lately, 0: not busy with any
  SessionStats stats() const;
  size_t held() const { return out_charge_.bytes() + (transport_ ? transport_->held() : 0); }
  size_t active() const { return active_; }
  uint32_t peer_max_streams() const;
  bool closed() const { return phase_ != Phase::kOpen; }
  event::EventLoop& loop() { return loop_; }
  void Drain();
  void CloseNow(std::string_view why);
  void Abandon();  // the handle is going: as CloseNow, and no callback to it any more
  net::SocketAddress local_address() const { return ends_->local; }
  net::SocketAddress peer_address() const { return ends_->peer; }
  const net::Transport* transport() const { return transport_.get(); }
  std::shared_ptr<const tls::VerifiedPeer> verified_peer() const {
    return transport_ ? transport_->verified_peer() : nullptr;
  }

  // Whether it could stand still now, and who then holds its streams (in the order of
  // SavedSession::streams); a header block that has begun or a stream without an answer prevents
  // it.
  std::optional<std::vector<const net::Transport*>> Freezable() const;
  // Needs Freezable(). The session is over for everybody here, and nobody is told.
  SavedSession Export(net::TransportPtr& transport);

  // ---- for streams and responders ----
  net::TransportPtr Accept(const std::shared_ptr<Stream>& stream, const Headers& headers);
  void Reject(const std::shared_ptr<Stream>& stream, int status, const Headers& headers);
  net::IoResult Write(Stream& stream, std::span<const iovec> from);
  void EndStream(Stream& stream);
  void ResetStream(Stream& stream, H2Error code);
  void Consumed(Stream& stream, size_t bytes);  // read or dropped by its user
  void Kick(Stream& stream);  // call its events soon, if there is something to tell
  bool Writable(const Stream& stream) const;
  void HandleGone(Stream& stream);

 private:
  // Of what is common to beginning and going on.
  struct Bare {};
  Core(Bare, Side side, net::TransportPtr transport, const SessionOptions& options,
       Callbacks callbacks);

  // kClosing: streams have been told; our last bytes go out and the peer's end is awaited.
  enum class Phase { kOpen, kClosing, kOver };
  struct Failing {
    std::shared_ptr<Stream> stream;
    ClientSession::ConnectFailure failure;
  };

  // core.cc, core_streams.cc, core_output.cc
  void OnReadable() override;
  void OnWritable() override;
  void Wake();
  void Flush();
  void FlushSoon();
  void FlushPatiently();
  void FlushDue();
  bool MayLinger();
  void EndLinger();
  void WakeSoon();
  void Fail(H2Error code, std::string message);
  void BeginClose(CloseReason reason);
  void Over();
  void EndAllStreams(const CloseReason& reason);
  void ConnectionLost(net::IoResult::Kind kind);
  void Retire(Stream& stream);
  void FailPending(Stream& stream, Error error, bool retry_safe);
  void CheckDrained();
  event::Duration UntilPing() const;
  void SendPing();
  void PingExpired();
  void KickWriters();
  void TryShutdown();
  void RememberReset(uint32_t id);
  bool RecentlyReset(uint32_t id) const;
  size_t WriteDirect(Stream& stream, std::span<const iovec> from, size_t size);
  size_t PutEarly(Stream& stream, const ConnectRequest& request);
  std::shared_ptr<Stream> NewStream(uint32_t id);
  std::shared_ptr<Stream> Hold(uint32_t id) const;
  void Forget(Stream& stream);
  net::TransportPtr MakeHandle(const std::shared_ptr<Stream>& stream);

  // core_flow.cc
  void Received(size_t bytes);
  void GiveBack(Stream& stream, size_t bytes);
  uint32_t Grow(Stream& stream);
  uint32_t Shrink(Stream& stream, uint32_t credit);
  void SampleRtt(event::TimePoint now);
  bool RttAnswer(uint64_t opaque);
  bool ShedLargest();
  void ShrinkWindows();
  void Moved(Stream& stream, size_t bytes);
  bool PaidWindowUpdate();
  void WatchHeaders();

  // core_input.cc, core_headers.cc
  H2Error OnFrameStart(const FrameHeader& header) override;
  H2Error OnData(const FrameHeader& header, std::span<const uint8_t> piece) override;
  H2Error OnFrameEnd(const FrameHeader& header, std::span<const uint8_t> payload) override;
  H2Error StartData(const FrameHeader& header);
  H2Error StartHeaders(const FrameHeader& header);
  H2Error EndData(const FrameHeader& header);
  H2Error EndHeaders(const FrameHeader& header, std::span<const uint8_t> payload);
  H2Error HeaderBlock(uint32_t id, bool end_stream);
  H2Error Request(uint32_t id, Headers headers, bool too_large, bool end_stream);
  H2Error Response(Stream& stream, Headers headers, bool end_stream);
  H2Error SettingsFrame(const FrameHeader& header, std::span<const uint8_t> payload);
  H2Error PingFrame(const FrameHeader& header, std::span<const uint8_t> payload);
  H2Error GoawayFrame(std::span<const uint8_t> payload);
  H2Error WindowFrame(uint32_t id, uint32_t increment);
  H2Error ResetFrame(uint32_t id, uint32_t code);
  void RemoteEnded(Stream& stream);
  bool Busywork();  // false: too much of it
  H2Error Because(H2Error code, std::string why, Abuse abuse = Abuse::kNone);
  H2Error Calm(Abuse abuse, std::string why);  // ENHANCE_YOUR_CALM
  H2Error PeerCausedReset(Stream& stream, H2Error code, std::string why);
  std::unique_ptr<Stream::Views> LendViews();
  void TakeBack(std::unique_ptr<Stream::Views> views);
  void DeliverTouched();

  const Side side_;
  const SessionOptions options_;
  const size_t max_header_list_;
  net::TransportPtr transport_;
  event::EventLoop& loop_;
  const std::shared_ptr<const Ends> ends_;
  std::shared_ptr<Callbacks> callbacks_;  // shared: a callback may end the session that holds it
  Phase phase_ = Phase::kOpen;
  bool stopped_ = false;  // phase_ != kOpen, as the frame reader wants it
  CloseReason reason_;

  ConnectionState state_;
  HpackEncoder encoder_;
  HpackDecoder decoder_;
  FrameReader reader_;
  size_t preface_have_ = 0;
  // A header block that is being put together.
  uint32_t block_stream_ = 0;
  bool block_end_stream_ = false;
  unsigned block_frames_ = 0;
  std::vector<uint8_t> block_;
  bool headers_open_ = false;  // between the start of a header block and its end
  std::string why_;            // detail of the error that a frame handler returned
  Abuse abuse_ = Abuse::kNone;
  uint32_t data_seen_ = 0;     // of the present DATA frame, without padding
  bool discard_data_ = false;  // the present DATA frame is for a stream that is over

  StreamTable streams_;
  size_t active_ = 0;         // not retired
  uint32_t next_writer_ = 0;  // who is asked first for bytes, so that all get their turn
  std::vector<std::shared_ptr<Stream>> ready_, calling_;
  std::vector<std::shared_ptr<Stream>> touched_, delivering_;
  std::vector<std::unique_ptr<Stream::Views>> views_;  // empty ones, to be lent
  std::vector<Failing> failing_;
  // Streams that we reset lately: what the peer had already sent for them is no error.
  std::vector<uint32_t> recently_reset_;
  size_t recently_reset_next_ = 0;

  // Flow control (core_flow.cc).
  size_t unread_ = 0;       // of all streams
  size_t growth_left_ = 0;  // how much streams' windows may still grow
  uint64_t shed_ = 0;
  std::chrono::nanoseconds rtt_{0};
  event::TimePoint rtt_asked_{};
  uint64_t rtt_ping_ = 0;
  bool rtt_waiting_ = false;
  Meter bulk_;
  bool was_busy_ = false;
  uint32_t paid_updates_ = 0;  // WINDOW_UPDATEs that our DATA explains
  bool dribble_ = false;       // the peer has us send too many tiny frames

  // What waits to go out (core_output.cc): is there something that does not wait for company, who
  // of those that may do, and whether they do, by whose patience.
  bool urgent_ = false;
  unsigned patient_ = 0;
  std::vector<uint32_t> patient_answers_;
  Patience end_patience_, answer_patience_;
  Patience* lingering_ = nullptr;
  event::TimePoint linger_until_{};

  ByteQueue out_;
  MemoryCharge out_charge_{loop_.memory()};
  bool transport_full_ = false;
  bool transport_ended_ = false;  // our FIN is out
  bool change_pending_ = false;

  TokenBucket resets_{500, 250};
  TokenBucket busywork_{1000, 200};

  event::Timer wake_;
  event::Timer flush_;
  event::Timer ping_;           // next one
  event::Timer ping_deadline_;  // answer to the last one, or the end of the final phase
  std::unique_ptr<event::Timer> headers_deadline_;  // of a header block that came in part
  uint64_t ping_sent_ = 0;
  event::TimePoint made_ = event::TimePoint::min();  // min: by another process
  event::Duration handshake_time_{};
  event::TimePoint last_input_{};  // when the peer was last heard
  bool drain_ping_ = false;        // server: the PING between the two GOAWAYs is on its way
};

}  // namespace qanat::hbone
