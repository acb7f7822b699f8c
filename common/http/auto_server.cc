// SPDX-License-Identifier: Apache-2.0
// A server connection that learns from the first bytes whether to speak HTTP/1 or HTTP/2.
#include <algorithm>
#include <array>

#include "common/http/connection.h"
#include "common/http/wire.h"

namespace qanat::http {
namespace {

constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr size_t kMaxMethod = 24;

class AutoServer final : public ServerConnection,
                         private ServerEvents,
                         private net::TransportEvents {
 public:
  AutoServer(net::TransportPtr transport, ServerEvents* events, const Options& options)
      : events_(events),
        options_(options),
        transport_(std::move(transport)),
        deadline_(transport_->loop(), [this] { Close("the first request did not come in time"); }),
        finish_(transport_->loop(),
                [this] { events_->OnConnectionClosed(*this, first_.empty(), detail_); }) {
    deadline_.Set(options.idle_timeout);
    transport_->SetEvents(this);
    transport_->ReadEnable(true);
  }
  ~AutoServer() override {
    if (transport_) transport_->SetEvents(nullptr);
  }

  void Drain() override {
    if (inner_) return inner_->Drain();
    Close("draining");
  }
  void Close(std::string_view why) override {
    if (inner_) return inner_->Close(why);
    if (closed_) return;
    closed_ = true;
    detail_ = why;
    transport_->ReadEnable(false);
    finish_.Start({});
  }
  size_t active_streams() const override { return inner_ ? inner_->active_streams() : 0; }
  Version version() const override { return inner_ ? inner_->version() : Version::kHttp11; }
  net::Transport& transport() override { return inner_ ? inner_->transport() : *transport_; }

 private:
  void OnReadable() override {
    while (!inner_ && !closed_) {
      // No more than the preface is read here, so that the codec's reading starts early.
      std::array<uint8_t, kPreface.size()> buffer;
      const net::IoResult r = transport_->Read({buffer.data(), buffer.size() - first_.size()});
      if (r.kind == net::IoResult::Kind::kWouldBlock) return;
      if (!r.ok()) return Close("the client left before its first request");
      first_.append(reinterpret_cast<const char*>(buffer.data()), r.bytes);
      Decide();
    }
  }
  void OnWritable() override {}
  void Decide() {
    const Detected what = DetectProtocol(first_);
    if (what == Detected::kMore && first_.size() < kPreface.size()) {
      deadline_.Clear();
      return deadline_.Set(options_.header_timeout);
    }
    deadline_.Clear();
    transport_->SetEvents(nullptr);
    // HTTP/1 also answers what is neither: with 400.
    inner_ = what == Detected::kHttp2
                 ? MakeHttp2Server(std::move(transport_), this, options_, std::move(first_))
                 : MakeHttp1Server(std::move(transport_), this, options_, std::move(first_));
  }
  void OnRequest(ServerStream& stream, RequestHead head, bool end) override {
    events_->OnRequest(stream, std::move(head), end);
  }
  void OnConnectionClosed(ServerConnection&, bool clean, std::string_view detail) override {
    events_->OnConnectionClosed(*this, clean, detail);
  }

  ServerEvents* events_;
  const Options options_;
  net::TransportPtr transport_;
  std::string first_;
  std::string detail_;
  Deadline deadline_;
  event::Timer finish_;
  bool closed_ = false;
  ServerConnectionPtr inner_;
};

}  // namespace

std::string_view CloseReasonName(CloseReason reason) {
  switch (reason) {
    case CloseReason::kDone: return "done";
    case CloseReason::kPeerReset: return "peer_reset";
    case CloseReason::kRefused: return "refused";
    case CloseReason::kConnectionLost: return "connection_lost";
    case CloseReason::kProtocolError: return "protocol_error";
    case CloseReason::kTooLarge: return "too_large";
  }
  return "";
}

Detected DetectProtocol(std::string_view first_bytes) {
  if (first_bytes.starts_with(kPreface)) return Detected::kHttp2;
  if (kPreface.starts_with(first_bytes)) return Detected::kMore;
  const size_t method = std::min(first_bytes.find(' '), first_bytes.size());
  if (method == 0 || method > kMaxMethod ||
      !std::all_of(first_bytes.begin(), first_bytes.begin() + static_cast<std::ptrdiff_t>(method),
                   [](char c) { return (c >= 'A' && c <= 'Z') || c == '-' || c == '_'; })) {
    return Detected::kOther;
  }
  return method == first_bytes.size() ? Detected::kMore : Detected::kHttp1;
}

ServerConnectionPtr MakeAutoServer(net::TransportPtr transport, ServerEvents* events,
                                   const Options& options) {
  return std::make_unique<AutoServer>(std::move(transport), events, options);
}

}  // namespace qanat::http
