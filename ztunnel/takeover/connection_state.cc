// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/takeover/connection_state.h"

#include <algorithm>
#include <array>

#include "common/route/outbound.h"
#include "common/takeover/fields.h"
#include "ztunnel/route/described.h"

namespace qanat::ztunnel {
namespace {

using takeover::Fields;
using takeover::FieldWriter;
using takeover::kCritical;

// Never changed, never used again.
enum Tag : uint16_t {
  kPodUid = 1,
  kNetnsCookie = 2,
  kAgeMs = 3,
  kSource = 4,
  kDestination = 5,
  kTarget = 6,
  kSourceWorkload = 7,
  kDestinationWorkload = 8,
  kService = 9,
  kSourceIdentity = 10,
  kDestinationIdentity = 11,
  kMutualTls = 12,
  kTries = 13,
  kOutbound = 14,  // fields of its own
  kUp = 15,        // "
  kDown = 16,      // "
  kTunnelFrom = 17,
  kSourceDescribed = 18,       // fields of its own
  kDestinationDescribed = 19,  // "
};
constexpr uint16_t kKnown[] = {kPodUid,
                               kNetnsCookie,
                               kAgeMs,
                               kSource,
                               kDestination,
                               kTarget,
                               kSourceWorkload,
                               kDestinationWorkload,
                               kService,
                               kSourceIdentity,
                               kDestinationIdentity,
                               kMutualTls,
                               kTries,
                               kOutbound,
                               kUp,
                               kDown,
                               kTunnelFrom,
                               kSourceDescribed,
                               kDestinationDescribed};
enum OutboundTag : uint16_t {
  kOriginal = 1,
  kByNat = 2,
  kKind = 3,
  kViaWaypoint = 4,
  kOnePass = 5,
  kDestinationPod = 6,
  kOnePassWorkload = 7,
  kOnePassTarget = 8,
};
constexpr uint16_t kKnownOutbound[] = {kOriginal,        kByNat,        kKind,
                                       kViaWaypoint,     kOnePass,      kDestinationPod,
                                       kOnePassWorkload, kOnePassTarget};
enum WayTag : uint16_t { kPending = 1, kBytes = 2, kEof = 3, kDone = 4, kQuickAck = 5 };
constexpr uint16_t kKnownWay[] = {kPending, kBytes, kEof, kDone, kQuickAck};

// What of a description goes along; its tags are their places here, from 1 on, so none changes its
// place.
constexpr std::array kTexts = {&Baggage::workload, &Baggage::ns,      &Baggage::cluster,
                               &Baggage::service,  &Baggage::version, &Baggage::region,
                               &Baggage::zone};
constexpr auto kKnownTexts = [] {
  std::array<uint16_t, kTexts.size()> out{};
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<uint16_t>(i + 1);
  return out;
}();

std::string Text(const net::SocketAddress& address) {
  return address.is_set() ? address.ToString() : std::string();
}

Status Read(const Fields& fields, uint16_t tag, net::SocketAddress& out) {
  const std::string text(fields.Bytes(tag));
  if (text.empty()) return {};
  QANAT_ASSIGN_OR_RETURN(out, net::SocketAddress::Parse(text));
  return {};
}

WipedString EncodeWay(const RelayState::Way& way) {
  FieldWriter writer;
  writer.Bytes(kPending | kCritical,
               {reinterpret_cast<const char*>(way.pending.data()), way.pending.size()});
  writer.Number(kBytes, way.bytes);
  writer.Number(kEof | kCritical, way.eof ? 1 : 0);
  writer.Number(kDone | kCritical, way.done ? 1 : 0);
  writer.Number(kQuickAck, way.quick_ack ? 1 : 0);
  return writer.Take();
}

Result<RelayState::Way> DecodeWay(std::string_view bytes) {
  QANAT_ASSIGN_OR_RETURN(const Fields fields, Fields::Parse(bytes, kKnownWay));
  RelayState::Way way;
  const std::string_view pending = fields.Bytes(kPending);
  way.pending.assign(pending.begin(), pending.end());
  way.bytes = fields.Number(kBytes);
  way.eof = fields.Number(kEof) == 1;
  way.done = fields.Number(kDone) == 1;
  way.quick_ack = fields.Number(kQuickAck) == 1;
  // Only what has ended and been written out can have been told to the other side.
  if (!fields.Has(kPending) || !fields.HasNumbers({kEof, kDone}) ||
      (way.done && (!way.eof || !way.pending.empty()))) {
    return Fail(Code::kInvalidArgument, "a direction that cannot be");
  }
  return way;
}

WipedString EncodeOutbound(const SavedConnection::Outbound& from) {
  FieldWriter writer;
  writer.Bytes(kOriginal | kCritical, Text(from.original));
  writer.Number(kByNat | kCritical, from.by_nat ? 1 : 0);
  writer.Number(kKind | kCritical, from.kind);
  writer.Number(kViaWaypoint, from.via_waypoint ? 1 : 0);
  writer.Number(kOnePass | kCritical, from.one_pass ? 1 : 0);
  if (from.one_pass) {
    writer.Bytes(kDestinationPod | kCritical, from.destination_pod);
    writer.Bytes(kOnePassWorkload | kCritical, from.destination);
    writer.Bytes(kOnePassTarget | kCritical, Text(from.target));
  }
  return writer.Take();
}

Result<SavedConnection::Outbound> DecodeOutbound(std::string_view bytes) {
  QANAT_ASSIGN_OR_RETURN(const Fields fields, Fields::Parse(bytes, kKnownOutbound));
  SavedConnection::Outbound out;
  if (!fields.Has(kOriginal) || !fields.HasNumbers({kByNat, kKind, kOnePass})) {
    return Fail(Code::kInvalidArgument, "a route that is not all there");
  }
  QANAT_RETURN_IF_ERROR(Read(fields, kOriginal, out.original));
  out.by_nat = fields.Number(kByNat) == 1;
  out.kind = fields.Number(kKind);
  out.via_waypoint = fields.Number(kViaWaypoint) == 1;
  out.one_pass = fields.Number(kOnePass) == 1;
  out.destination_pod = fields.Bytes(kDestinationPod);
  out.destination = fields.Bytes(kOnePassWorkload);
  QANAT_RETURN_IF_ERROR(Read(fields, kOnePassTarget, out.target));
  if (out.kind > static_cast<uint64_t>(route::Route::Kind::kDoubleHbone) ||
      (out.one_pass && (out.destination_pod.empty() || out.destination.empty()))) {
    return Fail(Code::kInvalidArgument, "a route that cannot be");
  }
  return out;
}

WipedString EncodeDescription(const Baggage& from) {
  FieldWriter writer;
  for (size_t i = 0; i < kTexts.size(); ++i) {
    const std::string& text = from.*kTexts[i];
    if (!text.empty()) writer.Bytes(kKnownTexts[i], text);
  }
  return writer.Take();
}

// Of one end of which there is that uid.
Result<std::optional<Baggage>> DecodeDescription(const Fields& fields, uint16_t tag,
                                                 const std::string& uid) {
  if (!fields.Has(tag)) return std::nullopt;
  QANAT_ASSIGN_OR_RETURN(const Fields texts, Fields::Parse(fields.Bytes(tag), kKnownTexts));
  Baggage out;
  bool fits = uid.empty();
  for (size_t i = 0; i < kTexts.size(); ++i) {
    out.*kTexts[i] = texts.Bytes(kKnownTexts[i]);
    fits = fits && (out.*kTexts[i]).size() <= kMaxBaggageValue;
  }
  if (!fits) return Fail(Code::kInvalidArgument, "a description that cannot be");
  return out;
}

// A workload of this mesh goes by its uid.
std::optional<Baggage> Describe(const model::WorkloadPtr& from) {
  if (from == nullptr || !from->uid.empty()) return std::nullopt;
  Baggage out{.cluster = from->cluster_id,
              .ns = from->ns,
              .workload = from->workload_name,
              .service = from->canonical_name,
              .version = from->canonical_revision,
              .region = from->locality.region,
              .zone = from->locality.zone};
  // The labels of one connection are not worth that the next process refuses it.
  const bool fits = std::all_of(kTexts.begin(), kTexts.end(),
                                [&](auto text) { return (out.*text).size() <= kMaxBaggageValue; });
  return fits ? std::optional(std::move(out)) : std::nullopt;
}

model::WorkloadPtr Find(const std::string& uid, const std::optional<Baggage>& described,
                        const state::MeshSnapshot& snapshot) {
  return described ? Described("", *described) : snapshot.WorkloadByUid(uid);
}

template <typename T>
std::string Uid(const T& workload) {
  return workload == nullptr ? std::string() : std::string(workload->uid);
}

SharedIdentity ToIdentity(const std::string& text) {
  return text.empty() ? SharedIdentity() : Share(model::Identity::Parse(text));
}

}  // namespace

SavedFlow SaveFlow(const Flow& flow) {
  SavedFlow out;
  out.source = flow.source;
  out.tunnel = flow.tunnel;
  out.destination = flow.destination;
  out.target = flow.target;
  out.source_workload = Uid(flow.source_workload);
  out.destination_workload = Uid(flow.destination_workload);
  out.source_described = Describe(flow.source_workload);
  out.destination_described = Describe(flow.destination_workload);
  if (flow.service != nullptr) out.service = flow.service->ns + "/" + flow.service->hostname;
  if (flow.source_identity) out.source_identity = flow.source_identity->ToString();
  if (flow.destination_identity) out.destination_identity = flow.destination_identity->ToString();
  out.mutual_tls = flow.mutual_tls;
  out.tries = flow.tries;
  return out;
}

void RestoreFlow(const SavedFlow& saved, const state::MeshSnapshot& snapshot, Flow& flow) {
  flow.source = saved.source;
  flow.tunnel = saved.tunnel;
  flow.destination = saved.destination;
  flow.target = saved.target;
  flow.source_workload = Find(saved.source_workload, saved.source_described, snapshot);
  flow.destination_workload =
      Find(saved.destination_workload, saved.destination_described, snapshot);
  if (!saved.service.empty()) flow.service = snapshot.ServiceByKey(saved.service);
  flow.source_identity = ToIdentity(saved.source_identity);
  flow.destination_identity = ToIdentity(saved.destination_identity);
  flow.mutual_tls = saved.mutual_tls;
  flow.tries = static_cast<unsigned>(saved.tries);
}

takeover::Parcel EncodeConnection(const SavedConnection& saved, const RelayState::Way& up,
                                  const RelayState::Way& down, Fd downstream, Fd upstream) {
  FieldWriter writer;
  const SavedFlow& flow = saved.flow;
  writer.Bytes(kPodUid | kCritical, saved.pod_uid);
  writer.Number(kNetnsCookie | kCritical, saved.netns_cookie);
  writer.Number(kAgeMs, static_cast<uint64_t>(saved.age.count()));
  writer.Bytes(kSource | kCritical, Text(flow.source));
  if (flow.tunnel.is_set()) writer.Bytes(kTunnelFrom, Text(flow.tunnel));
  writer.Bytes(kDestination | kCritical, Text(flow.destination));
  writer.Bytes(kTarget | kCritical, Text(flow.target));
  writer.Bytes(kSourceWorkload, flow.source_workload);
  writer.Bytes(kDestinationWorkload, flow.destination_workload);
  if (flow.source_described) {
    writer.Bytes(kSourceDescribed, EncodeDescription(*flow.source_described));
  }
  if (flow.destination_described) {
    writer.Bytes(kDestinationDescribed, EncodeDescription(*flow.destination_described));
  }
  writer.Bytes(kService, flow.service);
  writer.Bytes(kSourceIdentity | kCritical, flow.source_identity);
  writer.Bytes(kDestinationIdentity | kCritical, flow.destination_identity);
  writer.Number(kMutualTls, flow.mutual_tls ? 1 : 0);
  writer.Number(kTries, flow.tries);
  if (saved.outbound) writer.Bytes(kOutbound | kCritical, EncodeOutbound(*saved.outbound));
  writer.Bytes(kUp | kCritical, EncodeWay(up));
  writer.Bytes(kDown | kCritical, EncodeWay(down));
  takeover::Parcel parcel{writer.Take(), {}};
  parcel.fds.push_back(std::move(downstream));
  parcel.fds.push_back(std::move(upstream));
  return parcel;
}

Result<ImportedConnection> DecodeConnection(takeover::Parcel parcel) {
  QANAT_ASSIGN_OR_RETURN(const Fields fields, Fields::Parse(parcel.state, kKnown));
  if (parcel.fds.size() != 2) return Fail(Code::kInvalidArgument, "two sockets are needed");
  ImportedConnection out;
  SavedConnection& saved = out.saved;
  SavedFlow& flow = saved.flow;
  if (!fields.HasNumbers({kNetnsCookie}) ||
      !fields.HasAll({kPodUid, kSource, kDestination, kTarget, kSourceIdentity,
                      kDestinationIdentity, kUp, kDown})) {
    return Fail(Code::kInvalidArgument, "a connection that is not all there");
  }
  saved.pod_uid = fields.Bytes(kPodUid);
  saved.netns_cookie = fields.Number(kNetnsCookie);
  saved.age = std::chrono::milliseconds(fields.Number(kAgeMs) & 0xffffffffff);
  QANAT_RETURN_IF_ERROR(Read(fields, kSource, flow.source));
  QANAT_RETURN_IF_ERROR(Read(fields, kTunnelFrom, flow.tunnel));
  QANAT_RETURN_IF_ERROR(Read(fields, kDestination, flow.destination));
  QANAT_RETURN_IF_ERROR(Read(fields, kTarget, flow.target));
  flow.source_workload = fields.Bytes(kSourceWorkload);
  flow.destination_workload = fields.Bytes(kDestinationWorkload);
  QANAT_ASSIGN_OR_RETURN(flow.source_described,
                         DecodeDescription(fields, kSourceDescribed, flow.source_workload));
  QANAT_ASSIGN_OR_RETURN(
      flow.destination_described,
      DecodeDescription(fields, kDestinationDescribed, flow.destination_workload));
  flow.service = fields.Bytes(kService);
  flow.source_identity = fields.Bytes(kSourceIdentity);
  flow.destination_identity = fields.Bytes(kDestinationIdentity);
  flow.mutual_tls = fields.Number(kMutualTls) == 1;
  flow.tries = fields.Number(kTries, 1);
  if (fields.Has(kOutbound)) {
    QANAT_ASSIGN_OR_RETURN(saved.outbound, DecodeOutbound(fields.Bytes(kOutbound)));
  }
  QANAT_ASSIGN_OR_RETURN(out.relay.up, DecodeWay(fields.Bytes(kUp)));
  QANAT_ASSIGN_OR_RETURN(out.relay.down, DecodeWay(fields.Bytes(kDown)));
  if (saved.pod_uid.empty()) return Fail(Code::kInvalidArgument, "a connection of no pod");
  out.relay.downstream = std::move(parcel.fds[0]);
  out.relay.upstream = std::move(parcel.fds[1]);
  return out;
}

}  // namespace qanat::ztunnel
