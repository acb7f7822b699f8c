// SPDX-License-Identifier: Apache-2.0
#include "waypoint/app.h"

#include <fmt/format.h>

#include <set>
#include <utility>

#include "common/base/log.h"
#include "waypoint/admin/pages.h"

namespace qanat::waypoint {
namespace {

std::string_view UrlOf(ConfigStore::Type type) {
  switch (type) {
    case ConfigStore::Type::kListener: return xds::kListenerType;
    case ConfigStore::Type::kRoute: return xds::kRouteType;
    case ConfigStore::Type::kCluster: return xds::kClusterType;
    case ConfigStore::Type::kEndpoint: return xds::kEndpointType;
  }
  return {};
}

Result<net::SocketAddress> Serve(admin::Server& server, const std::string& text) {
  QANAT_ASSIGN_OR_RETURN(const auto address, net::SocketAddress::Parse(text));
  net::ListenOptions options;
  options.address = address;
  options.dual_stack = address.ip().is_v6() && address.ip().is_unspecified();
  return server.Listen(options);
}

}  // namespace

// One resource type of the stream.
class App::Handler final : public xds::ResourceHandler {
 public:
  Handler(ConfigStore& store, ConfigStore::Type type) : store_(store), type_(type) {}
  Status OnResource(const KeptText& name, std::string_view version,
                    std::string_view bytes) override {
    return store_.Apply(type_, name, version, bytes);
  }
  void OnRemoved(std::string_view name) override { store_.Remove(type_, name); }
  void OnBatchEnd() override { store_.BatchEnd(type_); }

 private:
  ConfigStore& store_;
  ConfigStore::Type type_;
};

App::App(event::EventLoop& loop, Settings settings, std::function<void()> stopped)
    : loop_(loop),
      settings_(std::move(settings)),
      stopped_(std::move(stopped)),
      proxy_(loop, settings_.proxy, registry_),
      store_({[this](ConfigStore::Type type, const std::set<std::string>& names) {
                if (xds_) xds_->SetNames(UrlOf(type), names);
              },
              [this](SnapshotPtr snapshot) { proxy_.SetSnapshot(std::move(snapshot)); }}) {}

App::~App() {
  xds_.reset();
  secrets_.reset();
  ca_client_.reset();
}

Status App::Start() {
  registry_.AddProcessMetrics();
  QANAT_RETURN_IF_ERROR(StartServers());
  auto bound = proxy_.Start();
  if (!bound) return Fail(bound.error());
  hbone_address_ = *bound;
  StartCa();
  StartXds();
  LOG_INFO(
      "app", "qanat-waypoint {} as {}: {} workers, HBONE {}, admin {}, metrics {}, readiness {}",
      QANAT_VERSION, settings_.proxy.identity, settings_.proxy.workers, hbone_address_.ToString(),
      admin_address_.ToString(), metrics_address_.ToString(), readiness_address_.ToString());
  return {};
}

void App::StartCa() {
  ca_channel_ = std::make_unique<grpc::Channel>(loop_, settings_.control_plane.Ca());
  identity::CaOptions ca;
  ca.validity = settings_.secret_ttl;
  ca.impersonate = false;  // the token says who we are
  ca_client_ = identity::MakeGrpcCaClient(*ca_channel_, ca);
  clock_ = identity::MakeClock(loop_);
  secrets_ = std::make_unique<identity::SecretManager>(
      *clock_, *ca_client_, [this](const model::Identity&, identity::CertificatePtr certificate) {
        OnCertificate(certificate);
      });
  secrets_->Request({settings_.trust_domain, settings_.pod_namespace, settings_.service_account},
                    identity::Priority::kRealTime, [](Result<identity::CertificatePtr> result) {
                      if (!result) {
                        LOG_WARN("ca", "no certificate yet: {}; it is tried again",
                                 result.error().message);
                      }
                    });
}

void App::OnCertificate(const identity::CertificatePtr& certificate) {
  certificate_ = certificate;
  proxy_.SetCertificates(certificate ? certificate->server : nullptr,
                         certificate ? certificate->client : nullptr);
  if (certificate) {
    LOG_INFO("ca", "certificate {} for {}", certificate->chain.front().serial,
             settings_.proxy.identity);
  }
}

void App::StartXds() {
  xds_channel_ = std::make_unique<grpc::Channel>(loop_, settings_.control_plane.Xds());

  xds::Node node;
  node.id = xds::NodeId("waypoint", settings_.instance_ip, settings_.pod_name,
                        settings_.pod_namespace, settings_.domain);
  node.cluster = settings_.proxy.workload_name + "." + settings_.pod_namespace;
  node.build_version = QANAT_VERSION;
  node.metadata = {{"NAME", settings_.pod_name},
                   {"NAMESPACE", settings_.pod_namespace},
                   {"SERVICE_ACCOUNT", settings_.service_account},
                   {"INSTANCE_IPS", settings_.instance_ip},
                   {"NODE_NAME", settings_.node_name},
                   {"CLUSTER_ID", settings_.control_plane.cluster_id},
                   {"NETWORK", settings_.network},
                   {"WORKLOAD_NAME", settings_.proxy.workload_name}};
  if (!settings_.gateway_name.empty()) {
    // istiod finds a waypoint's Gateway by this label of its pod.
    node.metadata_json["LABELS"] = fmt::format("{{\"gateway.networking.k8s.io/gateway-name\":{}}}",
                                               log::JsonQuote(settings_.gateway_name));
  }
  xds::AddEnvironmentMetadata(settings_.environment, node);

  auto& terminations = registry_.AddCounter("istio_xds_connection_terminations",
                                            "Ends of the xDS stream, by reason", {"reason"});
  auto& messages = registry_.AddCounter("istio_xds_message", "xDS responses, by type", {"url"});
  auto& bytes =
      registry_.AddCounter("istio_xds_message_bytes", "Bytes of xDS responses, by type", {"url"});
  auto& rejects =
      registry_.AddCounter("qanat_waypoint_xds_rejects", "xDS responses refused, by type", {"url"});
  xds::DeltaObserver observer;
  observer.on_terminated = [&terminations](std::string_view reason) {
    terminations.With({std::string(reason)})->Add();
  };
  observer.on_message = [&messages, &bytes](std::string_view url, size_t size) {
    messages.With({std::string(url)})->Add();
    bytes.With({std::string(url)})->Add(size);
  };
  observer.on_nack = [&rejects](std::string_view url, std::string_view errors) {
    rejects.With({std::string(url)})->Add();
    LOG_WARN("xds", "refused resources of {}: {}", url, errors);
  };
  observer.on_connected = [this] { secrets_->RetryNow(); };
  xds_ = std::make_unique<xds::DeltaClient>(loop_, *xds_channel_, std::move(node),
                                            std::move(observer));
  using Mode = xds::DeltaClient::Subscription;
  using Type = ConfigStore::Type;
  // Clusters and endpoints before the listeners and routes that send requests to them.
  for (auto [type, mode] :
       {std::pair{Type::kCluster, Mode::kWildcard}, std::pair{Type::kEndpoint, Mode::kByName},
        std::pair{Type::kListener, Mode::kWildcard}, std::pair{Type::kRoute, Mode::kByName}}) {
    handlers_.push_back(std::make_unique<Handler>(store_, type));
    xds_->AddType(UrlOf(type), mode, handlers_.back().get());
  }
  xds_->Start();
}

Status App::StartServers() {
  admin_ = std::make_unique<admin::Server>(loop_);
  AdminSources sources;
  sources.settings = &settings_;
  sources.store = &store_;
  sources.proxy = &proxy_;
  sources.certificate = [this] { return certificate_; };
  sources.secrets = [this] { return secrets_.get(); };
  sources.xds = [this] { return xds_.get(); };
  sources.not_ready = [this] { return NotReady(); };
  sources.drain = [this] { Drain(); };
  AddAdminPages(*admin_, std::move(sources));
  admin_->AddMetricsRoutes(registry_);
  metrics_server_ = std::make_unique<admin::Server>(loop_);
  metrics_server_->AddMetricsRoutes(registry_);
  readiness_ = std::make_unique<admin::Server>(loop_);
  readiness_->Route("GET", "/healthz/ready", [this](const admin::Request&) {
    std::string why = NotReady();
    return why.empty() ? admin::Text(200, "ready\n")
                       : admin::Text(503, "not ready, pending: " + why + "\n");
  });
  auto admin = Serve(*admin_, settings_.admin_address);
  if (!admin) return Fail(admin.error().Annotate("admin"));
  admin_address_ = *admin;
  auto metrics = Serve(*metrics_server_, settings_.metrics_address);
  if (!metrics) return Fail(metrics.error().Annotate("metrics"));
  metrics_address_ = *metrics;
  auto readiness = Serve(*readiness_, settings_.readiness_address);
  if (!readiness) return Fail(readiness.error().Annotate("readiness"));
  readiness_address_ = *readiness;
  return {};
}

std::string App::NotReady() const {
  std::string out;
  auto add = [&out](std::string_view what) { out.append(out.empty() ? "" : ", ").append(what); };
  if (draining_) add("draining");
  if (!certificate_) add("certificate");
  if (!store_.complete()) add("configuration");
  return out;
}

void App::Drain() {
  if (draining_) {
    if (auto stopped = std::exchange(stopped_, nullptr)) stopped();
    return;
  }
  draining_ = true;
  LOG_INFO("app", "draining: no new connections, the others have {} ms",
           settings_.proxy.drain_timeout.count());
  proxy_.Drain([this] {
    if (auto stopped = std::exchange(stopped_, nullptr)) stopped();
  });
}

}  // namespace qanat::waypoint
