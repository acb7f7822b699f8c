// SPDX-License-Identifier: Apache-2.0
// What the two sides of an HTTP/1 connection share: its one exchange as a stream, used again for
// each message, and the input that waits while the exchange is busy. Part of the connection.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "common/http/connection.h"
#include "common/http/http1_encode.h"
#include "common/http/http1_parser.h"
#include "common/http/wire.h"

namespace qanat::http {

// Base is Stream or ServerStream. "Incoming" is the message that is read, "outgoing" the one that
// is written.
template <typename Base>
class Http1Exchange : public Base {
 public:
  Http1Exchange(Wire& wire, const Options& options) : wire_(wire), options_(options) {}

  void SetEvents(StreamEvents* e) final { events = e; }
  void PauseReading(bool pause) final {
    paused = pause;
    wire_.Kick();
  }
  size_t buffered() const final { return wire_.pending(); }
  bool Overfull() const final { return overfull_; }
  uint64_t id() const final { return number; }

  // For the connection.
  void Begin(StreamEvents* user) {
    ++number;
    events = user;
    active = true;
    incoming_done = outgoing_done = paused = overfull_ = false;
    body = {};
  }
  // A kBody or kEnd of the parser, to the user.
  void Deliver(Http1Parser& parser, Http1Parser::Event event) {
    if (event == Http1Parser::Event::kBody) {
      for (size_t i = 0; i < parser.body().size(); ++i) {
        const bool last = i + 1 == parser.body().size() && parser.complete();
        if (last) incoming_done = true;
        if (active && events != nullptr) events->OnData(parser.body()[i], last);
      }
      return;
    }
    if (std::exchange(incoming_done, true) || !active || events == nullptr) return;
    if (parser.trailers().empty()) {
      events->OnData({}, true);
    } else {
      events->OnTrailers(std::move(parser.trailers()));
    }
  }
  void CheckHighMark() {
    if (wire_.pending() > options_.high_watermark) overfull_ = true;
  }
  void CheckLowMark(bool connection_ended) {
    if (!overfull_ || wire_.pending() > options_.low_watermark) return;
    overfull_ = false;
    if (active && events != nullptr && !connection_ended) events->OnWritable();
  }
  void End(CloseReason reason, std::string_view detail) {
    active = false;
    if (StreamEvents* e = std::exchange(events, nullptr)) e->OnClosed(reason, detail);
  }
  // Ended by the user: no event follows.
  void Forget() {
    active = false;
    events = nullptr;
  }

  StreamEvents* events = nullptr;
  uint64_t number = 0;
  bool active = false;
  bool incoming_done = false;
  bool outgoing_done = false;
  bool paused = false;
  BodyWriter body;  // of the outgoing message

 protected:
  ~Http1Exchange() = default;

 private:
  Wire& wire_;
  const Options& options_;
  bool overfull_ = false;
};

// Bytes that were read and not yet parsed. `parse` takes a string_view& and consumes from its
// front.
class Http1Input {
 public:
  // Reading goes on until this much waits, so that a peer that leaves is noticed.
  static constexpr size_t kMost = 64 * 1024;

  template <typename Parse>
  void Add(std::string_view bytes, Parse parse) {
    if (queue_.empty()) {
      parse(bytes);
      queue_.Append(bytes);
    } else {
      queue_.Append(bytes);
      Again(parse);
    }
  }
  template <typename Parse>
  void Again(Parse parse) {
    std::string_view view = queue_.view();
    const size_t before = view.size();
    parse(view);
    queue_.Consume(before - view.size());
  }
  void Append(std::string_view bytes) { queue_.Append(bytes); }
  std::string_view view() const { return queue_.view(); }
  size_t size() const { return queue_.size(); }
  bool empty() const { return queue_.empty(); }
  void Clear() { queue_.Clear(); }

 private:
  ByteQueue queue_;
};

}  // namespace qanat::http
