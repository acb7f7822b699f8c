// SPDX-License-Identifier: Apache-2.0
#include "common/tls/tls_handover.h"

#include <algorithm>

#include "common/takeover/fields.h"
#include "common/tls/established.h"
#include "common/tls/own_records.h"

namespace qanat::tls {
namespace {

using takeover::Fields;
using takeover::FieldWriter;
using takeover::kCritical;

// Never changed, never used again.
enum Tag : uint16_t {
  kServer = 1,
  kCipher = 2,
  kReadSecret = 3,
  kWriteSecret = 4,
  kReadSequence = 5,
  kWriteSequence = 6,
  kKeyUpdateOwed = 7,
  kHandshake = 8,
  kPlaintext = 9,
  kReceived = 10,
  kUnsent = 11,
  kSentSmall = 12,
  kPeer = 13,  // once for each certificate, from the leaf to the root
};
constexpr uint16_t kKnown[] = {kServer,       kCipher,        kReadSecret,    kWriteSecret,
                               kReadSequence, kWriteSequence, kKeyUpdateOwed, kHandshake,
                               kPlaintext,    kReceived,      kUnsent,        kSentSmall,
                               kPeer};
constexpr size_t kMaxPath = 16;

std::string_view Text(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::span<const uint8_t> Bytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::vector<uint8_t> Copy(std::string_view text) { return {text.begin(), text.end()}; }

}  // namespace

VerifiedPeerPtr MakeVerifiedPeer(std::vector<Certificate> path) {
  auto out = std::make_shared<VerifiedPeer>();
  out->path = std::move(path);
  out->sans = out->path.front().sans();
  out->not_before = Time::min();
  out->not_after = Time::max();
  for (const Certificate& certificate : out->path) {
    out->not_before = std::max(out->not_before, certificate.not_before());
    out->not_after = std::min(out->not_after, certificate.not_after());
  }
  return out;
}

Result<net::TransportPtr> Import(event::EventLoop& loop, TlsHandover from,
                                 const PeerVerifier* verifier) {
  net::TransportPtr socket = net::MakeSocketTransport(loop, std::move(from.socket));
  return ImportInner(std::move(socket), std::move(from), verifier);
}

Result<net::TransportPtr> ImportInner(net::TransportPtr carrier, TlsHandover from,
                                      const PeerVerifier* verifier) {
  auto layer = std::make_unique<RecordLayer>();
  QANAT_RETURN_IF_ERROR(layer->Import(from.state));
  OwnRecords::Rest rest;
  rest.unopened = from.received;
  rest.plaintext = from.plaintext;
  rest.unsent = std::move(from.unsent);
  rest.sent_small = from.sent_small;
  return MakeEstablished(
      std::make_unique<OwnRecords>(std::move(carrier), std::move(layer), std::move(rest)), nullptr,
      std::move(from.peer), verifier, {});
}

WipedString EncodeTls(const TlsHandover& from) {
  const TlsState& state = from.state;
  FieldWriter writer;
  writer.Number(kServer | kCritical, state.server ? 1 : 0);
  writer.Number(kCipher | kCritical, state.cipher);
  writer.Bytes(kReadSecret | kCritical, Text(state.read_secret.bytes()));
  writer.Bytes(kWriteSecret | kCritical, Text(state.write_secret.bytes()));
  writer.Number(kReadSequence | kCritical, state.read_sequence);
  writer.Number(kWriteSequence | kCritical, state.write_sequence);
  writer.Number(kKeyUpdateOwed | kCritical, state.key_update_owed ? 1 : 0);
  writer.Bytes(kHandshake | kCritical, Text(state.handshake));
  writer.Bytes(kPlaintext | kCritical, Text(from.plaintext));
  writer.Bytes(kReceived | kCritical, Text(from.received));
  writer.Bytes(kUnsent | kCritical, Text(from.unsent));
  writer.Number(kSentSmall, from.sent_small);
  if (from.peer != nullptr) {
    for (const Certificate& one : from.peer->path) {
      writer.Bytes(kPeer | kCritical, Text(one.ToDer()));
    }
  }
  return writer.Take();
}

Result<TlsHandover> DecodeTls(std::string_view bytes) {
  QANAT_ASSIGN_OR_RETURN(const Fields fields, Fields::Parse(bytes, kKnown));
  TlsHandover out;
  TlsState& state = out.state;
  // Without it a key would be used from its beginning, a second time.
  if (!fields.HasNumbers({kReadSequence, kWriteSequence})) {
    return Fail(Code::kInvalidArgument, "a TLS connection without sequence numbers");
  }
  if (!fields.HasNumbers({kServer, kCipher, kKeyUpdateOwed}) ||
      !fields.HasAll({kReadSecret, kWriteSecret, kHandshake, kPlaintext, kReceived, kUnsent})) {
    return Fail(Code::kInvalidArgument, "a TLS connection that is not all there");
  }
  const uint64_t cipher = fields.Number(kCipher);
  state.server = fields.Number(kServer) == 1;
  state.cipher = cipher > 0xffff ? uint16_t{0} : static_cast<uint16_t>(cipher);
  state.read_secret = Secret(Bytes(fields.Bytes(kReadSecret)));
  state.write_secret = Secret(Bytes(fields.Bytes(kWriteSecret)));
  state.read_sequence = fields.Number(kReadSequence);
  state.write_sequence = fields.Number(kWriteSequence);
  state.key_update_owed = fields.Number(kKeyUpdateOwed) == 1;
  state.handshake = Copy(fields.Bytes(kHandshake));
  out.plaintext = Copy(fields.Bytes(kPlaintext));
  out.received = Copy(fields.Bytes(kReceived));
  out.unsent = Copy(fields.Bytes(kUnsent));
  out.sent_small = fields.Number(kSentSmall);
  RecordLayer probe;
  QANAT_RETURN_IF_ERROR(probe.Import(state));
  std::vector<Certificate> path;
  for (const std::string_view der : fields.All(kPeer)) {
    if (path.size() == kMaxPath) return Fail(Code::kInvalidArgument, "a path without end");
    QANAT_ASSIGN_OR_RETURN(Certificate one, Certificate::FromDer(Bytes(der)));
    path.push_back(std::move(one));
  }
  if (!path.empty()) out.peer = MakeVerifiedPeer(std::move(path));
  return out;
}

}  // namespace qanat::tls
