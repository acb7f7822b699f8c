// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/sniffer.h"

namespace qanat::waypoint {
namespace {

// Longer than HTTP/2's preface and than any method: by then the detector has decided.
constexpr size_t kMost = 1024;

}  // namespace

Sniffer::Sniffer(WorkerContext& context, Owner& owner, net::TransportPtr transport, Done done)
    : owner_(owner),
      transport_(std::move(transport)),
      done_(std::move(done)),
      timer_(context.loop, [this] { Decide(http::Detected::kOther); }) {
  transport_->SetEvents(this);
  transport_->ReadEnable(true);
  timer_.Start(context.settings.sniff_timeout);
}

void Sniffer::OnReadable() {
  uint8_t buffer[kMost];
  net::IoResult got = transport_->Read({buffer, kMost - bytes_.size()});
  switch (got.kind) {
    case net::IoResult::Kind::kOk: break;
    case net::IoResult::Kind::kWouldBlock: return;
    // A client that ends its direction before saying anything may still want to listen.
    case net::IoResult::Kind::kEof: return Decide(http::Detected::kOther);
    case net::IoResult::Kind::kReset:
    case net::IoResult::Kind::kError:
      timer_.Stop();
      transport_->Abort();
      owner_.Release(this);
      return;
  }
  bytes_.append(reinterpret_cast<char*>(buffer), got.bytes);
  http::Detected protocol = http::DetectProtocol(bytes_);
  if (protocol == http::Detected::kMore && bytes_.size() < kMost) return;
  Decide(protocol == http::Detected::kMore ? http::Detected::kOther : protocol);
}

void Sniffer::Decide(http::Detected protocol) {
  timer_.Stop();
  transport_->SetEvents(nullptr);
  transport_->ReadEnable(false);
  Done done = std::move(done_);
  done(protocol, std::move(transport_), std::move(bytes_));
  owner_.Release(this);
}

}  // namespace qanat::waypoint
