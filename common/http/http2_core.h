// SPDX-License-Identifier: Apache-2.0
// One HTTP/2 connection on nghttp2, server or client: sessions in memory, bytes by Wire. What
// differs between the sides is in http2_server.cc and http2_client.cc. Owned by its user through
// the Connection interface; one loop.
#pragma once

#include <nghttp2/nghttp2.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/http/connection.h"
#include "common/http/wire.h"

namespace qanat::http {

class Http2Core;

// Both sides' stream. The server half of the interface does nothing on a client.
class Http2Stream final : public ServerStream {
 public:
  Http2Stream(Http2Core& core, int32_t stream_id) : core_(core), id_(stream_id) {}
  void SetEvents(StreamEvents* events) override { events_ = events; }
  void SendInformational(int status, const HeaderList& headers) override;
  void SendResponse(const ResponseHead& head, bool end) override;
  void SendData(std::string_view data, bool end) override;
  void SendTrailers(const HeaderList& trailers) override;
  void Reset(ResetCode code) override;
  void PauseReading(bool pause) override;
  size_t buffered() const override { return out_.size(); }
  bool Overfull() const override { return overfull_; }
  Version version() const override { return Version::kHttp2; }
  uint64_t id() const override { return static_cast<uint64_t>(id_); }

 private:
  friend class Http2Core;
  Http2Core& core_;
  int32_t id_;
  StreamEvents* events_ = nullptr;
  ByteQueue out_;
  size_t withheld_ = 0;  // received and not credited because the reader is paused
  bool paused_ = false;
  bool overfull_ = false;
  bool headers_sent_ = false;  // final ones
  bool end_queued_ = false;    // the user has ended the direction
  HeaderList send_trailers_;
  bool head_request_ = false;  // the method is HEAD: no body whatever the user sends
  bool deferred_ = false;      // nghttp2 waits for ResumeData
  bool ended_remote_ = false;
  bool ended_local_ = false;  // END_STREAM has been given to the wire
  bool head_done_ = false;    // received head delivered
  bool too_large_ = false;
  bool bad_head_ = false;
  // The head that is being received.
  RequestHead request_;
  ResponseHead response_;
  HeaderList trailers_;
  size_t head_bytes_ = 0;
  size_t head_count_ = 0;
};

class Http2Core : protected Wire::Owner {
 public:
  // `initial`: bytes already read; handled from the loop.
  Http2Core(bool server, net::TransportPtr transport, const Options& options, std::string initial);
  virtual ~Http2Core();
  Http2Core(const Http2Core&) = delete;
  Http2Core& operator=(const Http2Core&) = delete;

 protected:
  friend class Http2Stream;
  // The sides.
  virtual void OnHead(Http2Stream& stream, bool end) = 0;  // request() of a server's stream
  virtual void OnCapacity() {}
  virtual void OnPingAnswered(event::TimePoint) {}
  virtual void OnCalmDown() {}
  virtual void OnConnectionClosed(bool clean, std::string_view detail) = 0;

  Http2Stream* OpenRequest(const RequestHead& head, bool end, StreamEvents* events);
  void StartDrain();
  RequestHead& request(Http2Stream& s) { return s.request_; }

  const Options options_;
  const bool server_;
  Wire wire_;
  nghttp2_session* session_ = nullptr;
  std::map<int32_t, std::unique_ptr<Http2Stream>> streams_;
  bool draining_ = false;
  bool goaway_received_ = false;
  bool failed_ = false;
  std::string detail_;

 private:
  // Wire::Owner
  void OnBytes(std::string_view bytes) override;
  void OnEnd(bool orderly, std::string_view detail) override;
  void OnFlush() override;
  void OnSettled() override;

  // called by streams
  void Submit(Http2Stream& s, const std::vector<nghttp2_nv>& nv, bool end);
  void StreamReset(Http2Stream& s, ResetCode code);
  void Consume(int32_t id, size_t n);
  void ResumeData(Http2Stream& s);

  void StartSession();
  void Fail(std::string_view detail);
  Http2Stream* Find(int32_t id);
  void Deliver(Http2Stream& s, const nghttp2_frame& frame);
  void HeadComplete(Http2Stream& s, bool end);
  bool CheckRequest(Http2Stream& s);
  void Close(int32_t id, CloseReason reason, std::string_view detail);
  void RejectHead(Http2Stream& s);
  CloseReason ReasonOf(uint32_t error_code) const;
  void PingTick();

  static Http2Core& Self(void* p) { return *static_cast<Http2Core*>(p); }
  static int OnBeginHeaders(nghttp2_session*, const nghttp2_frame* frame, void* self);
  static int OnHeader(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name,
                      size_t name_size, const uint8_t* value, size_t value_size, uint8_t flags,
                      void* self);
  static int OnFrameRecv(nghttp2_session*, const nghttp2_frame* frame, void* self);
  static int OnFrameSend(nghttp2_session*, const nghttp2_frame* frame, void* self);
  static int OnInvalidFrame(nghttp2_session*, const nghttp2_frame* frame, int error, void* self);
  static int OnDataChunk(nghttp2_session*, uint8_t flags, int32_t id, const uint8_t* data,
                         size_t size, void* self);
  static int OnStreamClose(nghttp2_session*, int32_t id, uint32_t error_code, void* self);
  static ssize_t ReadData(nghttp2_session*, int32_t id, uint8_t* buffer, size_t size,
                          uint32_t* flags, nghttp2_data_source* source, void* self);
  static int SendDataFrame(nghttp2_session*, nghttp2_frame* frame, const uint8_t* head,
                           size_t length, nghttp2_data_source* source, void* self);

  std::string initial_;
  std::vector<std::unique_ptr<Http2Stream>> graveyard_;  // until the round ends
  std::vector<int32_t> writable_;                        // streams that may write again
  Deadline header_deadline_;
  Deadline idle_deadline_;
  Deadline ping_deadline_;
  event::Timer drain_timer_;
  bool ping_outstanding_ = false;
  event::TimePoint ping_sent_{};
  bool goaway_sent_ = false;
  bool capacity_changed_ = false;
  bool ended_ = false;
  bool reported_ = false;
};

}  // namespace qanat::http
