// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/takeover/tunnel_state.h"

#include <fcntl.h>

#include <algorithm>
#include <utility>

#include "common/takeover/fields.h"

namespace qanat::ztunnel {
namespace {

using takeover::Fields;
using takeover::FieldWriter;
using takeover::kCritical;

// Never changed, never used again. The first is none of a connection between two sockets
// (connection_state.cc), so that who knows only those refuses a tunnel.
enum Tag : uint16_t { kTunnel = 100 };
enum PartTag : uint16_t {
  kPodUid = 1,
  kNetnsCookie = 2,
  kInbound = 3,   // fields of its own
  kOutbound = 4,  // "
  kTls = 5,
  kSession = 6,
  kStream = 7,
  kInner = 8,  // fields of its own
};
constexpr uint16_t kKnown[] = {kPodUid, kNetnsCookie, kInbound, kOutbound,
                               kTls,    kSession,     kStream,  kInner};
enum InboundTag : uint16_t { kPeer = 1, kLocal = 2, kOwnIdentity = 3, kPeerIdentity = 4 };
constexpr uint16_t kKnownInbound[] = {kPeer, kLocal, kOwnIdentity, kPeerIdentity};
enum OutboundTag : uint16_t {
  kSourceIdentity = 1,
  kDestinationIdentity = 2,  // once for each
  kDestination = 3,
  kSourceIp = 4,
  kLeaving = 5,
  kShared = 6,  // in place of kSourceIp
};
constexpr uint16_t kKnownOutbound[] = {
    kSourceIdentity, kDestinationIdentity, kDestination, kSourceIp, kLeaving, kShared};
enum InnerTag : uint16_t {
  kThrough = 1,      // the id of a stream of the tunnel outside
  kFarIdentity = 2,  // once for each
  kAuthority = 3,
  kInnerLeaving = 4,
  kInnerTls = 5,
  kInnerSession = 6,
};
constexpr uint16_t kKnownInner[] = {kThrough,      kFarIdentity, kAuthority,
                                    kInnerLeaving, kInnerTls,    kInnerSession};

WipedString EncodeInbound(const SavedTunnel::Inbound& from) {
  FieldWriter writer;
  writer.Bytes(kPeer | kCritical, from.peer.ToString());
  writer.Bytes(kLocal | kCritical, from.local.ToString());
  writer.Bytes(kOwnIdentity | kCritical, from.own_identity);
  writer.Bytes(kPeerIdentity | kCritical, from.peer_identity);
  return writer.Take();
}

Result<SavedTunnel::Inbound> DecodeInbound(std::string_view bytes) {
  QANAT_ASSIGN_OR_RETURN(const Fields fields, Fields::Parse(bytes, kKnownInbound));
  SavedTunnel::Inbound out;
  QANAT_ASSIGN_OR_RETURN(out.peer, net::SocketAddress::Parse(std::string(fields.Bytes(kPeer))));
  QANAT_ASSIGN_OR_RETURN(out.local, net::SocketAddress::Parse(std::string(fields.Bytes(kLocal))));
  if (!fields.HasAll({kOwnIdentity, kPeerIdentity})) {
    return Fail(Code::kInvalidArgument, "a tunnel of nobody");
  }
  out.own_identity = fields.Bytes(kOwnIdentity);
  out.peer_identity = fields.Bytes(kPeerIdentity);
  return out;
}

WipedString EncodeOutbound(const SavedTunnel::Outbound& from) {
  FieldWriter writer;
  writer.Bytes(kSourceIdentity | kCritical, from.key.source_identity);
  for (const std::string& one : from.key.destination_identities) {
    writer.Bytes(kDestinationIdentity | kCritical, one);
  }
  writer.Bytes(kDestination | kCritical, from.key.destination.ToString());
  if (from.key.shared) {
    writer.Number(kShared | kCritical, 1);
  } else {
    writer.Bytes(kSourceIp | kCritical, from.key.source_ip.ToString());
  }
  writer.Number(kLeaving | kCritical, from.leaving ? 1 : 0);
  return writer.Take();
}

Result<SavedTunnel::Outbound> DecodeOutbound(std::string_view bytes) {
  QANAT_ASSIGN_OR_RETURN(const Fields fields, Fields::Parse(bytes, kKnownOutbound));
  SavedTunnel::Outbound out;
  if (!fields.HasAll({kSourceIdentity, kDestinationIdentity}) || !fields.HasNumbers({kLeaving})) {
    return Fail(Code::kInvalidArgument, "a tunnel of nobody");
  }
  out.key.source_identity = fields.Bytes(kSourceIdentity);
  for (const std::string_view one : fields.All(kDestinationIdentity)) {
    out.key.destination_identities.emplace_back(one);
  }
  QANAT_ASSIGN_OR_RETURN(out.key.destination,
                         net::SocketAddress::Parse(std::string(fields.Bytes(kDestination))));
  out.key.shared = fields.Number(kShared) == 1;
  if (!out.key.shared) {
    QANAT_ASSIGN_OR_RETURN(out.key.source_ip,
                           net::IpAddress::Parse(std::string(fields.Bytes(kSourceIp))));
  }
  out.leaving = fields.Number(kLeaving) == 1;
  return out;
}

WipedString EncodeInner(const SavedTunnel::Inner& from) {
  FieldWriter writer;
  writer.Number(kThrough | kCritical, from.stream);
  for (const std::string& one : from.key.destination_identities) {
    writer.Bytes(kFarIdentity | kCritical, one);
  }
  writer.Bytes(kAuthority | kCritical, from.key.through_authority);
  writer.Number(kInnerLeaving | kCritical, from.leaving ? 1 : 0);
  writer.Bytes(kInnerTls | kCritical, tls::EncodeTls(from.tls));
  writer.Bytes(kInnerSession | kCritical, hbone::EncodeSession(from.session));
  return writer.Take();
}

// In the tunnel with that key.
Result<SavedTunnel::Inner> DecodeInner(std::string_view bytes, const hbone::PoolKey& outside) {
  QANAT_ASSIGN_OR_RETURN(const Fields fields, Fields::Parse(bytes, kKnownInner));
  SavedTunnel::Inner out;
  if (!fields.HasAll({kFarIdentity, kAuthority}) || !fields.HasNumbers({kThrough, kInnerLeaving})) {
    return Fail(Code::kInvalidArgument, "an inner tunnel to nobody");
  }
  const uint64_t stream = fields.Number(kThrough);
  out.stream = stream > UINT32_MAX ? 0 : static_cast<uint32_t>(stream);
  out.key = outside;
  out.key.through_identities = std::exchange(out.key.destination_identities, {});
  for (const std::string_view one : fields.All(kFarIdentity)) {
    out.key.destination_identities.emplace_back(one);
  }
  out.key.through_authority = fields.Bytes(kAuthority);
  out.leaving = fields.Number(kInnerLeaving) == 1;
  QANAT_ASSIGN_OR_RETURN(out.tls, tls::DecodeTls(fields.Bytes(kInnerTls)));
  QANAT_ASSIGN_OR_RETURN(out.session, hbone::DecodeSession(fields.Bytes(kInnerSession)));
  if (out.key.through_authority.empty() || out.session.server || out.tls.state.server ||
      out.tls.peer == nullptr) {
    return Fail(Code::kInvalidArgument, "an inner tunnel that cannot be");
  }
  return out;
}

// How many connections there are to be; none, where two inner tunnels go through one stream, or one
// through none.
std::optional<size_t> CountStreams(const SavedTunnel& tunnel) {
  size_t through = 0;
  for (const hbone::SavedStream& stream : tunnel.session.streams) {
    if (tunnel.InnerOf(stream.state.id) < tunnel.inner.size()) ++through;
  }
  if (through != tunnel.inner.size()) return std::nullopt;
  size_t count = tunnel.session.streams.size() - through;
  for (const SavedTunnel::Inner& inner : tunnel.inner) count += inner.session.streams.size();
  return count;
}

}  // namespace

size_t SavedTunnel::InnerOf(uint32_t stream) const {
  const auto at = std::find_if(inner.begin(), inner.end(),
                               [stream](const Inner& one) { return one.stream == stream; });
  return static_cast<size_t>(at - inner.begin());
}

bool HoldsTunnel(const takeover::Parcel& parcel) {
  const uint16_t known[] = {kTunnel};
  const auto fields = Fields::Parse(parcel.state, known);
  return fields.has_value() && fields->Has(kTunnel);
}

Result<takeover::Parcel> EncodeTunnel(const SavedTunnel& from) {
  takeover::Parcel parcel;
  const auto copy = [&parcel](const Fd& fd) -> Status {
    Fd copied(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
    if (!copied) return FailErrno("a copy of a socket");
    parcel.fds.push_back(std::move(copied));
    return {};
  };
  FieldWriter writer;
  writer.Bytes(kPodUid | kCritical, from.pod_uid);
  writer.Number(kNetnsCookie | kCritical, from.netns_cookie);
  if (from.inbound) writer.Bytes(kInbound | kCritical, EncodeInbound(*from.inbound));
  if (from.outbound) writer.Bytes(kOutbound | kCritical, EncodeOutbound(*from.outbound));
  writer.Bytes(kTls | kCritical, tls::EncodeTls(from.tls));
  writer.Bytes(kSession | kCritical, hbone::EncodeSession(from.session));
  QANAT_RETURN_IF_ERROR(copy(from.tls.socket));
  for (const SavedTunnel::Stream& stream : from.streams) {
    writer.Bytes(kStream | kCritical,
                 EncodeConnection(stream.connection, stream.up, stream.down, Fd(), Fd()).state);
    QANAT_RETURN_IF_ERROR(copy(stream.socket));
  }
  for (const SavedTunnel::Inner& inner : from.inner) {
    writer.Bytes(kInner | kCritical, EncodeInner(inner));
  }
  FieldWriter whole;
  whole.Bytes(kTunnel | kCritical, writer.Take());
  parcel.state = whole.Take();
  return parcel;
}

Result<SavedTunnel> DecodeTunnel(takeover::Parcel parcel) {
  const uint16_t known[] = {kTunnel};
  QANAT_ASSIGN_OR_RETURN(const Fields whole, Fields::Parse(parcel.state, known));
  QANAT_ASSIGN_OR_RETURN(const Fields fields, Fields::Parse(whole.Bytes(kTunnel), kKnown));
  SavedTunnel out;
  if (!fields.Has(kPodUid) || !fields.HasNumbers({kNetnsCookie})) {
    return Fail(Code::kInvalidArgument, "a tunnel that is not all there");
  }
  out.pod_uid = fields.Bytes(kPodUid);
  out.netns_cookie = fields.Number(kNetnsCookie);
  if (fields.Has(kInbound)) {
    QANAT_ASSIGN_OR_RETURN(out.inbound, DecodeInbound(fields.Bytes(kInbound)));
  }
  if (fields.Has(kOutbound)) {
    QANAT_ASSIGN_OR_RETURN(out.outbound, DecodeOutbound(fields.Bytes(kOutbound)));
    out.outbound->key.source_netns = out.netns_cookie;
  }
  QANAT_ASSIGN_OR_RETURN(out.tls, tls::DecodeTls(fields.Bytes(kTls)));
  QANAT_ASSIGN_OR_RETURN(out.session, hbone::DecodeSession(fields.Bytes(kSession)));
  const std::vector<std::string_view> streams = fields.All(kStream);
  for (const std::string_view one : fields.All(kInner)) {
    if (!out.outbound || out.outbound->key.shared) {
      return Fail(Code::kInvalidArgument, "an inner tunnel where there cannot be any");
    }
    QANAT_ASSIGN_OR_RETURN(SavedTunnel::Inner inner, DecodeInner(one, out.outbound->key));
    out.inner.push_back(std::move(inner));
  }
  const bool server = out.inbound.has_value();
  const bool shared = out.outbound && out.outbound->key.shared;
  if (out.pod_uid.empty() != shared ||
      (shared && (out.netns_cookie != 0 || !out.session.state.peer.takes_source)) ||
      server == out.outbound.has_value() || out.session.server != server ||
      out.tls.state.server != server || out.tls.peer == nullptr ||
      CountStreams(out) != streams.size() || parcel.fds.size() != 1 + streams.size()) {
    return Fail(Code::kInvalidArgument, "a tunnel that cannot be");
  }
  out.tls.socket = std::move(parcel.fds[0]);
  for (size_t i = 0; i < streams.size(); ++i) {
    takeover::Parcel one{WipedString(streams[i]), std::vector<Fd>(2)};
    QANAT_ASSIGN_OR_RETURN(ImportedConnection connection, DecodeConnection(std::move(one)));
    if (connection.saved.outbound.has_value() == server ||
        (!shared && (connection.saved.pod_uid != out.pod_uid ||
                     connection.saved.netns_cookie != out.netns_cookie))) {
      return Fail(Code::kInvalidArgument, "a stream of another tunnel");
    }
    // It is judged by who its tunnel's certificate says it is.
    if (server && connection.saved.flow.source_identity != out.inbound->peer_identity) {
      return Fail(Code::kPermissionDenied, "a stream of somebody else than its tunnel");
    }
    out.streams.push_back({std::move(connection.saved), std::move(connection.relay.up),
                           std::move(connection.relay.down), std::move(parcel.fds[1 + i])});
  }
  return out;
}

}  // namespace qanat::ztunnel
