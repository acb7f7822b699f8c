// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/telemetry.h"

#include <cstring>
#include <map>

#include "agent/telemetry/labels.h"

namespace qanat::agent::telemetry {
namespace {

constexpr auto kBusy = std::chrono::milliseconds(10);
constexpr auto kIdle = std::chrono::milliseconds(200);
constexpr auto kSweep = std::chrono::minutes(1);
// Pairs that were seen since the mesh changed, and pods that were. Beyond it all are asked anew.
constexpr size_t kMostKnown = 8192;

const std::vector<double>& Bounds() {
  static const std::vector<double> bounds{0.000064, 0.000256, 0.001024, 0.004096,
                                          0.016384, 0.065536, 0.262144, 1.048576};
  return bounds;
}

double Seconds(uint64_t microseconds) { return static_cast<double>(microseconds) / 1e6; }

}  // namespace

// Where the records of a pair go.
struct Telemetry::Target {
  Series* series = nullptr;
  std::shared_ptr<metrics::Histogram> connect, srtt, response;
};

bool Telemetry::CacheKey::operator==(const CacheKey& other) const {
  return serial == other.serial && peer == other.peer && path == other.path &&
         std::memcmp(&far, &other.far, sizeof far) == 0;
}

size_t Telemetry::CacheHash::operator()(const CacheKey& key) const {
  uint64_t hash = (uint64_t{key.serial} << 32 | key.peer) * 0x9e3779b97f4a7c15u;
  for (uint32_t word : key.far.word) hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
  return static_cast<size_t>(hash ^ (hash >> 29) ^ key.path);
}

Telemetry::Telemetry(event::EventLoop& loop, World world, metrics::Registry& registry)
    : world_(std::move(world)),
      direct_(registry),
      connect_(registry.AddHistogram("qanat_tcp_connect_seconds",
                                     "Time that the handshakes of applications' connections took",
                                     Bounds(), Names())),
      srtt_(registry.AddHistogram("qanat_tcp_srtt_seconds",
                                  "Smoothed round trip time of an application's connection at its "
                                  "end",
                                  Bounds(), Names())),
      response_(registry.AddHistogram("qanat_tcp_response_seconds",
                                      "What a server's program took for the last answer of a "
                                      "connection",
                                      Bounds(), Names())),
      tick_us_(TickMicroseconds()),
      timer_(loop, [this] { Read(); }),
      sweep_(loop, [this] { Sweep(); }) {}

Telemetry::~Telemetry() = default;

Result<std::unique_ptr<Telemetry>> Telemetry::Open(event::EventLoop& loop,
                                                   const std::string& map_dir, World world,
                                                   metrics::Registry& registry) {
  std::unique_ptr<Telemetry> telemetry(new Telemetry(loop, std::move(world), registry));
  QANAT_ASSIGN_OR_RETURN(
      auto ring, bpf::Ring::OpenPinned(map_dir + "/records",
                                       [t = telemetry.get()](const void* data, size_t size) {
                                         if (size != sizeof(qanat_record)) return;
                                         qanat_record record;
                                         std::memcpy(&record, data, sizeof record);
                                         t->Take(record);
                                       }));
  telemetry->ring_ = std::make_unique<bpf::Ring>(std::move(ring));
  return telemetry;
}

void Telemetry::Start() {
  timer_.Start(kIdle);
  sweep_.Start(kSweep);
}

void Telemetry::Read() {
  if (state::SnapshotPtr now = world_.snapshot(); now != snapshot_) {
    snapshot_ = std::move(now);
    known_.clear();
  }
  const uint64_t before = records_;
  ring_->Consume();
  timer_.Start(records_ == before ? kIdle : kBusy);
}

void Telemetry::Take(const qanat_record& record) {
  ++records_;
  const Figures figures = FiguresOf(record, tick_us_);
  Known& known = KnownOf(record, figures);
  Target& target = *known.target;
  target.series->Add(record, figures);
  target.series->used = event::Clock::now();
  if (figures.established) {
    if (!figures.server) target.connect->Observe(Seconds(figures.connect_us));
    if (figures.srtt_us != 0) target.srtt->Observe(Seconds(figures.srtt_us));
    if (figures.server && figures.details) target.response->Observe(Seconds(figures.response_us));
  }
  if (figures.path == Path::kDirect) direct_.Tell(record, figures, known.ends);
}

Telemetry::Known& Telemetry::KnownOf(const qanat_record& record, const Figures& figures) {
  const CacheKey key{record.serial, record.peer_serial,
                     figures.server ? record.tuple.src : record.tuple.dst,
                     uint32_t{record.path} << 1 | (figures.server ? 1u : 0u)};
  if (auto found = known_.find(key); found != known_.end()) return found->second;
  if (known_.size() >= kMostKnown) known_.clear();
  Known& known = known_[key];
  known.ends =
      EndsOf(record, PodOf(record.serial), PodOf(record.peer_serial), snapshot_, world_.network);
  const Ends& ends = known.ends;
  auto& [wanted, series] =
      table_.For({ends.source_principal, ends.destination_principal,
                  ends.service ? ends.service->hostname : "", figures.path, figures.server},
                 event::Clock::now());
  const metrics::LabelValues values = ValuesOf(wanted);
  known.target = std::make_shared<Target>(
      Target{&series, connect_.With(values), srtt_.With(values), response_.With(values)});
  return known;
}

const Pod* Telemetry::PodOf(uint32_t serial) {
  if (serial == 0) return nullptr;
  if (const Pod* pod = world_.pod(serial)) {
    if (pods_.size() >= kMostKnown) pods_.clear();
    pods_.insert_or_assign(serial, *pod);
    return pod;
  }
  const auto gone = pods_.find(serial);  // its last connections close with it
  return gone == pods_.end() ? nullptr : &gone->second;
}

std::vector<LiveDirect> Telemetry::Live() {
  std::vector<LiveDirect> live;
  std::map<uint32_t, std::map<uint64_t, TcpSocket>> sockets;  // by pod, by cookie
  for (const auto& [tuple, value] : world_.flows()) {
    qanat_record record{};
    record.tuple = tuple;
    record.path = QANAT_PATH_DIRECT;
    const Pod* source = world_.pod(value.src_serial);
    const Ends ends =
        EndsOf(record, source, world_.pod(value.dst_serial), world_.snapshot(), world_.network);
    LiveDirect one;
    one.flow = FlowOf(record, ends);
    if (source != nullptr) one.pod_uid = source->uid;
    auto [of_pod, first] = sockets.try_emplace(value.src_serial);
    if (first)
      if (auto all = world_.sockets(value.src_serial))
        for (TcpSocket& socket : *all) of_pod->second.emplace(socket.cookie, std::move(socket));
    if (const auto end = of_pod->second.find(value.client); end != of_pod->second.end()) {
      one.bytes_up = end->second.bytes_sent;
      one.bytes_down = end->second.bytes_received;
    }
    live.push_back(std::move(one));
  }
  return live;
}

uint64_t RecordsLost(const bpf::NodeMaps& maps) {
  const auto counters = maps.CountersOf(0);
  return counters ? counters->value[QANAT_CNT_RECORDS_LOST] : 0;
}

std::vector<std::pair<qanat_tuple, qanat_flow>> LiveFlows(const bpf::NodeMaps& maps) {
  std::vector<std::pair<qanat_tuple, qanat_flow>> flows;
  for (const qanat_tuple& tuple : maps.flows.Keys())
    if (auto flow = maps.flows.Lookup(tuple); flow && *flow) flows.emplace_back(tuple, **flow);
  return flows;
}

void Telemetry::Sweep() {
  sweep_.Start(kSweep);
  const bool went = table_.Sweep(event::Clock::now(), [this](const SeriesKey& key) {
    for (auto* family : {&connect_, &srtt_, &response_}) family->Remove(ValuesOf(key));
  });
  if (went) known_.clear();
}

}  // namespace qanat::agent::telemetry
