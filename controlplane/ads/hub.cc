// SPDX-License-Identifier: Apache-2.0
#include "controlplane/ads/hub.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/base/log.h"

namespace qanat::controlplane {
namespace {

// A client sends one request per type before it hears from us.
constexpr size_t kMostEarly = 16;
constexpr size_t kMostEarlyBytes = 4 << 20;

std::string_view ShortType(std::string_view type_url) {
  if (type_url == kAddressType) return "wds";
  if (type_url == kAuthorizationType) return "wads";
  if (type_url == kListenerType) return "lds";
  if (type_url == kRouteType) return "rds";
  if (type_url == kClusterType) return "cds";
  if (type_url == kEndpointType) return "eds";
  if (type_url == kSecretType) return "sds";
  return "unknown";
}

std::vector<std::string> TypesOf(bool waypoint) {
  if (!waypoint) return {std::string(kAddressType), std::string(kAuthorizationType)};
  return {std::string(kListenerType), std::string(kRouteType), std::string(kClusterType),
          std::string(kEndpointType)};
}

std::string Get(const NodeInfo& node, const std::string& key) {
  const auto it = node.metadata.find(key);
  return it == node.metadata.end() ? std::string() : it->second;
}

// Log lines are made of what clients say: nothing that could forge another line or field.
std::string Printable(std::string_view text, size_t most) {
  std::string out;
  for (char c : text.substr(0, most)) out += c >= ' ' && c < 127 ? c : '?';
  if (text.size() > most) out += "...";
  return out;
}

}  // namespace

class AdsHub::Connection : public StreamHandler {
 public:
  Connection(AdsHub& hub, StreamWriter& writer, Client client)
      : hub_(hub), writer_(writer), client_(std::move(client)) {
    hub_.connections_.push_back(this);
  }
  ~Connection() override {
    hub_.connections_.remove(this);
    hub_.CountVersions();
  }

  // Messages that come before the answer wait for it.
  void Authenticate(const std::string& authorization) {
    pending_ = hub_.tokens_.Authenticate(
        authorization, hub_.clock_(),
        [this](const Result<TokenClaims>& claims) { Authenticated(claims); });
  }

  void OnMessage(std::string_view bytes) override {
    if (ended_) return;
    if (!authenticated_) {
      early_.emplace_back(bytes);
      early_bytes_ += bytes.size();
      if (early_.size() > kMostEarly || early_bytes_ > kMostEarlyBytes) {
        End({Code::kResourceExhausted, "too many messages before the caller is authenticated"});
      }
      return;
    }
    Result<DeltaRequest> request = DecodeDeltaRequest(bytes);
    if (!request) return End(request.error());
    if (!session_) {
      const Status introduced = Introduce(*request);
      if (!introduced) return End(introduced.error());
    }
    if (request->error) {
      hub_.rejects_.With({std::string(ShortType(request->type_url))})->Add();
      LOG_WARN("ads", "{} rejects {}: {}", client_.id, ShortType(request->type_url),
               Printable(*request->error, 1000));
    }
    if (!session_->OnRequest(*request)) {
      return End(
          {Code::kInvalidArgument, fmt::format("type {} is not served to a {}",
                                               Printable(request->type_url, 200), client_.type)});
    }
    hub_.Pump(*this);
  }

  void OnWritten() override {
    writing_ = false;
    hub_.Pump(*this);
  }

  void OnClosed() override {
    if (session_) LOG_INFO("ads", "{} disconnected", client_.id);
  }

  void End(Error error) {
    if (std::exchange(ended_, true)) return;
    early_.clear();
    hub_.refused_.With({std::string(CodeName(error.code))})->Add();
    LOG_WARN("ads", "stream of {} ({}) ended: {}",
             client_.id.empty() ? authenticated_ ? client_.caller.pod_name : "?" : client_.id,
             client_.peer, error.message);
    writer_.Finish(Fail(std::move(error)));
  }

  void Authenticated(const Result<TokenClaims>& claims) {
    if (ended_) return;
    Result<Caller> caller =
        claims ? Identify(*claims, *hub_.snapshot_->world) : Result<Caller>(Fail(claims.error()));
    if (!caller) return End(caller.error());
    client_.caller = std::move(*caller);
    client_.node = client_.caller.node;
    authenticated_ = true;
    for (const std::string& message : std::exchange(early_, {})) OnMessage(message);
  }

  // The first request says who it is. It must be who its token says it is.
  Status Introduce(const DeltaRequest& request) {
    if (!request.node) {
      return Fail(Code::kInvalidArgument, "the first request of a stream must carry the node");
    }
    const std::optional<NodeId> id = ParseNodeId(request.node->id);
    if (!id) {
      return Fail(Code::kInvalidArgument,
                  "node.id is not of the form TYPE~IP~POD.NAMESPACE~NAMESPACE.svc.DOMAIN");
    }
    client_.id = Printable(fmt::format("{}.{}", id->pod, id->ns), 200);
    client_.type = id->type;
    // It hears what its node's proxy hears, and is listed as what it is.
    if (id->type == "ztunnel" && Get(*request.node, "QANAT_PROGRAM") == "agent") {
      client_.type = "agent";
    }
    client_.version = Printable(Get(*request.node, "ISTIO_VERSION"), 60);
    const std::string said_ns = Get(*request.node, "NAMESPACE");
    const std::string said_account = Get(*request.node, "SERVICE_ACCOUNT");
    if (id->ns != client_.caller.ns || (!said_ns.empty() && said_ns != client_.caller.ns) ||
        (!said_account.empty() && said_account != client_.caller.service_account)) {
      return Fail(Code::kPermissionDenied,
                  fmt::format("the node says that it is {}/{}, its token says {}/{}",
                              Printable(id->ns, 100), Printable(said_account, 100),
                              client_.caller.ns, client_.caller.service_account));
    }
    if (id->type == "waypoint" || id->type == "router") {
      is_waypoint_ = true;
      // Which Gateway's configuration it may see is a matter of its pod, not of what it says.
      const Pod* pod = hub_.snapshot_->world->FindPodByUid(client_.caller.pod_uid);
      const std::string* label =
          pod == nullptr ? nullptr : pod->meta.Label("gateway.networking.k8s.io/gateway-name");
      if (label == nullptr) {
        return Fail(Code::kPermissionDenied,
                    fmt::format("pod {}/{} belongs to no Gateway: it lacks the label "
                                "gateway.networking.k8s.io/gateway-name",
                                client_.caller.ns, client_.caller.pod_name));
      }
      key_ = {client_.caller.ns, *label};
      client_.waypoint = key_.ToString();
    } else if (id->type != "ztunnel") {
      return Fail(
          Code::kUnimplemented,
          fmt::format("nodes of type {} are not served: this mesh has ztunnels and waypoints",
                      Printable(id->type, 40)));
    }
    session_ = std::make_unique<AdsSession>(TypesOf(is_waypoint_));
    session_->SetSource(hub_.SourceFor(*this));
    LOG_INFO("ads", "{} {} connected from {}{}{}", client_.type, client_.id, client_.peer,
             is_waypoint_ ? " for gateway " : "", client_.waypoint);
    hub_.CountVersions();
    return {};
  }

  AdsHub& hub_;
  StreamWriter& writer_;
  Client client_;
  PendingPtr pending_;
  bool authenticated_ = false;
  std::vector<std::string> early_;
  size_t early_bytes_ = 0;
  std::unique_ptr<AdsSession> session_;
  bool is_waypoint_ = false;
  WaypointKey key_;
  bool writing_ = false;
  bool ended_ = false;
  uint64_t counted_generation_ = 0;
};

AdsHub::AdsHub(Authenticator& tokens, TranslateWaypoint translate, WallClock clock,
               metrics::Registry& registry)
    : tokens_(tokens),
      translate_(std::move(translate)),
      clock_(std::move(clock)),
      clients_(registry.AddGauge("pilot_xds", "Connected proxies, by version.", {"version"})),
      // Gauges by type, counters by nature: stock names end without the _total of a counter.
      pushes_(
          registry.AddGauge("pilot_xds_pushes", "Messages sent to proxies, by type.", {"type"})),
      rejects_(registry.AddGauge("pilot_total_xds_rejects", "Messages that proxies rejected.",
                                 {"type"})),
      refused_(registry.AddCounter("qanat_ads_refused", "Streams ended by us, by code.", {"code"})),
      convergence_(registry.AddHistogram(
          "pilot_proxy_convergence_time",
          "Seconds from a change of the sources to its first message to a proxy.",
          {.1, .5, 1, 3, 5, 10, 20, 30})),
      sizes_(registry.AddHistogram("pilot_xds_config_size_bytes", "Size of messages, by type.",
                                   {1, 10000, 1000000, 4000000, 10000000, 40000000}, {"type"})) {}

AdsHub::~AdsHub() = default;

void AdsHub::CountVersions() {
  std::map<std::string, int64_t> count;
  for (const Connection* connection : connections_) {
    if (connection->session_) {
      ++count[connection->client_.version.empty() ? "unknown" : connection->client_.version];
    }
  }
  clients_.RemoveIf([&](const metrics::LabelValues& values) { return !count.contains(values[0]); });
  for (const auto& [version, number] : count) clients_.With({version})->Set(number);
}

std::unique_ptr<StreamHandler> AdsHub::OnStream(const CallInfo& call, StreamWriter& writer) {
  if (!snapshot_) {
    writer.Finish(Fail(Code::kUnavailable, "the sources have not been read yet: try again"));
    return nullptr;
  }
  Client client;
  client.peer = call.peer;
  client.connected_at = clock_();
  auto connection = std::make_unique<Connection>(*this, writer, std::move(client));
  connection->Authenticate(call.authorization);
  return connection;
}

const WaypointConfig& AdsHub::Waypoint(const WaypointKey& key) {
  auto it = waypoints_.find(key);
  if (it == waypoints_.end()) {
    CachedWaypoint cached;
    cached.config = translate_(*snapshot_->world, key);
    cached.resources = std::make_shared<const ResourceSet>(cached.config.resources);
    it = waypoints_.emplace(key, std::move(cached)).first;
  }
  return it->second.config;
}

SessionSource AdsHub::SourceFor(const Connection& connection) {
  if (!connection.is_waypoint_) return {mesh_resources_, snapshot_};
  Waypoint(connection.key_);
  return {waypoints_.at(connection.key_).resources, snapshot_};
}

void AdsHub::Publish(std::shared_ptr<const ConfigSnapshot> snapshot, event::TimePoint changed_at) {
  snapshot_ = std::move(snapshot);
  mesh_resources_ = std::shared_ptr<const ResourceSet>(snapshot_, &snapshot_->resources);
  changed_at_ = changed_at;
  waypoints_.clear();
  for (Connection* connection : connections_) {
    if (!connection->session_) continue;
    if (const Status there = StillThere(connection->client_.caller, *snapshot_->world); !there) {
      connection->End(there.error());
      continue;
    }
    connection->session_->SetSource(SourceFor(*connection));
    Pump(*connection);
  }
}

void AdsHub::Pump(Connection& connection) {
  if (connection.writing_ || connection.ended_ || !connection.session_) return;
  std::optional<AdsSession::Message> message = connection.session_->Next();
  if (!message) return;
  const std::string type(ShortType(message->type_url));
  pushes_.With({type})->Add();
  sizes_.With({type})->Observe(static_cast<double>(message->bytes.size()));
  if (connection.counted_generation_ != 0 &&
      connection.counted_generation_ < snapshot_->generation) {
    const std::chrono::duration<double> took = event::Clock::now() - changed_at_;
    convergence_.Get().Observe(took.count());
  }
  connection.counted_generation_ = snapshot_->generation;
  LOG_DEBUG("ads", "{} to {}: {} resources, {} removed, {} bytes", type, connection.client_.id,
            message->resources, message->removed, message->bytes.size());
  connection.writing_ = true;
  connection.writer_.Write(std::move(message->bytes));
}

std::vector<AdsHub::Client> AdsHub::Clients() const {
  std::vector<Client> out;
  for (const Connection* connection : connections_) {
    if (!connection->authenticated_) continue;
    Client client = connection->client_;
    client.session = connection->session_.get();
    client.generation = snapshot_ ? snapshot_->generation : 0;
    out.push_back(std::move(client));
  }
  return out;
}

}  // namespace qanat::controlplane
