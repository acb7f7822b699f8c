// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/app.h"

#include <fmt/format.h>

#include <future>

#include "common/base/log.h"
#include "common/xds/node.h"
#include "ztunnel/route/identify.h"

namespace qanat::ztunnel {

class App::AddressHandler final : public xds::ResourceHandler {
 public:
  explicit AddressHandler(App& app) : app_(app) {}
  Status OnResource(std::string_view name, std::string_view, std::string_view bytes) override {
    return app_.mesh_state_.UpsertAddress(name, bytes);
  }
  void OnRemoved(std::string_view name) override { app_.mesh_state_.RemoveAddress(name); }
  void OnBatchEnd() override { app_.Publish(); }

 private:
  App& app_;
};

class App::AuthorizationHandler final : public xds::ResourceHandler {
 public:
  explicit AuthorizationHandler(App& app) : app_(app) {}
  Status OnResource(std::string_view name, std::string_view, std::string_view bytes) override {
    Status status = app_.mesh_state_.UpsertAuthorization(name, bytes);
    if (!status) LOG_WARN("xds", "policy {}: {}", name, status.error().message);
    return status;
  }
  void OnRemoved(std::string_view name) override { app_.mesh_state_.RemoveAuthorization(name); }
  void OnBatchEnd() override { app_.Publish(); }

 private:
  App& app_;
};

App::App(event::EventLoop& loop, Config config, std::function<void()> stopped)
    : loop_(loop),
      stopped_(std::move(stopped)),
      metrics_(registry_),
      drain_poll_(loop, [this] { CheckDrained(); }) {
  environment_.mesh = {config.network, config.control_plane.cluster_id};
  environment_.config = std::move(config);
  environment_.metrics = &metrics_;
  environment_.post_main = [&loop,
                            alive = std::weak_ptr<bool>(alive_)](std::function<void()> task) {
    loop.Post([alive, task = std::move(task)] {
      if (!alive.expired()) task();
    });
  };
  environment_.want_certificate = [this](const model::Identity& identity) {
    environment_.post_main([this, identity] { WantCertificate(identity); });
  };
  environment_.reread_addresses = [this](const std::string& uid) {
    environment_.post_main([this, uid] {
      if (pods_) pods_->RereadAddresses(uid);
    });
  };
  registry_.AddProcessMetrics();
  snapshot_ = mesh_state_.Publish();
}

App::~App() {
  zds_.reset();
  xds_.reset();
  if (!workers_.empty()) {
    std::promise<void> gone;
    workers_.front()->loop().Post([this, &gone] {
      readiness_server_.reset();
      gone.set_value();
    });
    gone.get_future().wait();
  }
  for (auto& worker : workers_) worker->Stop();
}

Status App::Start() {
  const Config& config = environment_.config;
  for (unsigned i = 0; i < config.workers; ++i) {
    workers_.push_back(std::make_unique<Worker>(i, environment_));
  }
  QANAT_RETURN_IF_ERROR(StartAdmin());
  QANAT_RETURN_IF_ERROR(StartReadiness());

  ca_channel_ = std::make_unique<grpc::Channel>(loop_, config.control_plane.Ca());
  identity::CaOptions ca_options;
  ca_options.validity = config.secret_ttl;
  ca_options.tls12 = config.tls12;
  ca_client_ = identity::MakeGrpcCaClient(*ca_channel_, ca_options);
  clock_ = identity::MakeClock(loop_);
  secrets_ = std::make_unique<identity::SecretManager>(
      *clock_, *ca_client_,
      [this](const model::Identity& id, identity::CertificatePtr certificate) {
        OnCertificate(id, certificate);
      });

  pods_ = std::make_unique<Pods>(loop_, environment_, workers_, [this] {
    RefreshCertificates();
    UpdateReadiness();
  });
  zds_ = std::make_unique<zds::Client>(loop_, config.inpod_uds, *pods_);
  registry_.AddCallback(metrics::Kind::kCounter, "qanat_zds_protocol_errors",
                        "Messages of the node agent that were not understood", [this] {
                          const double errors =
                              zds_ ? static_cast<double>(zds_->counters().protocol_errors) : 0;
                          return std::vector<metrics::Sample>{{{}, errors}};
                        });
  if (config.control_plane.xds_address.empty()) {
    StartZds();
  } else {
    StartXds();
  }
  LOG_INFO("app", "qanat-ztunnel {} on node \"{}\": {} workers, admin {}, metrics {}, readiness {}",
           QANAT_VERSION, config.node_name, config.workers, admin_address_.ToString(),
           metrics_address_.ToString(), readiness_address_.ToString());
  return {};
}

void App::StartXds() {
  const Config& config = environment_.config;
  xds_channel_ = std::make_unique<grpc::Channel>(loop_, config.control_plane.Xds());

  xds::Node node;
  node.id = xds::NodeId("ztunnel", config.instance_ip, config.pod_name, config.pod_namespace);
  node.metadata = {{"NAME", config.pod_name},
                   {"NAMESPACE", config.pod_namespace},
                   {"INSTANCE_IPS", config.instance_ip},
                   {"NODE_NAME", config.node_name},
                   {"CLUSTER_ID", config.control_plane.cluster_id},
                   {"NETWORK", config.network}};
  node.build_version = QANAT_VERSION;
  xds::AddEnvironmentMetadata(config.environment, node);

  xds::DeltaObserver observer;
  observer.on_terminated = [this](std::string_view reason) {
    metrics_.xds_terminations.With({std::string(reason)})->Add();
  };
  observer.on_message = [this](std::string_view url, size_t bytes) {
    metrics_.xds_messages.With({std::string(url)})->Add();
    metrics_.xds_bytes.With({std::string(url)})->Add(bytes);
  };
  observer.on_nack = [](std::string_view url, std::string_view errors) {
    LOG_WARN("xds", "refused resources of {}: {}", url, errors);
  };
  observer.on_connected = [this] { secrets_->RetryNow(); };
  observer.on_synced = [this] { StartZds(); };
  address_handler_ = std::make_unique<AddressHandler>(*this);
  authorization_handler_ = std::make_unique<AuthorizationHandler>(*this);
  xds_ = std::make_unique<xds::DeltaClient>(loop_, *xds_channel_, std::move(node),
                                            std::move(observer));
  xds_->AddType(xds::kAddressType, xds::DeltaClient::Subscription::kWildcard,
                address_handler_.get());
  xds_->AddType(xds::kAuthorizationType, xds::DeltaClient::Subscription::kWildcard,
                authorization_handler_.get());
  xds_->Start();
}

// Pods are taken over only when the mesh is known (stock ztunnel): until then an earlier proxy may
// still serve them, and nothing could be decided here.
void App::StartZds() {
  if (zds_ && !draining_) zds_->Start();
  UpdateReadiness();
}

void App::Publish() {
  auto snapshot = mesh_state_.Publish();
  if (snapshot == snapshot_) return;
  snapshot_ = snapshot;
  for (auto& worker : workers_) {
    worker->loop().Post([raw = worker.get(), snapshot] { raw->SetSnapshot(snapshot); });
  }
  RefreshCertificates();
}

// ---- certificates

void App::RefreshCertificates() {
  if (!secrets_ || !pods_) return;
  std::set<model::Identity> wanted;
  for (const auto& [uid, entry] : pods_->entries()) {
    const Identified found = IdentifyPod(*snapshot_, environment_.mesh, *entry.pod);
    if (entry.pod->addresses.empty()) pods_->RereadAddresses(uid);
    if (found.workload == nullptr) {
      if (found.reason == model::Reason::kAddressMismatch) pods_->RereadAddresses(uid);
      continue;
    }
    wanted.insert(found.workload->identity());
  }
  for (const model::Identity& id : wanted) {
    if (!wanted_identities_.contains(id)) secrets_->Request(id, identity::Priority::kWarmup);
  }
  // One that is briefly not identified keeps its certificate as long as a pod could use it.
  for (const model::Identity& id : wanted_identities_) {
    const bool used =
        std::any_of(pods_->entries().begin(), pods_->entries().end(), [&](const auto& item) {
          return item.second.pod->ns == id.ns && item.second.pod->service_account == id.sa;
        });
    if (used) {
      wanted.insert(id);
    } else {
      secrets_->Forget(id);
    }
  }
  wanted_identities_ = std::move(wanted);
}

void App::OnCertificate(const model::Identity& id, const identity::CertificatePtr& certificate) {
  for (auto& worker : workers_) {
    worker->loop().Post(
        [raw = worker.get(), id, certificate] { raw->SetCertificate(id, certificate); });
  }
}

void App::WantCertificate(const model::Identity& id) {
  wanted_identities_.insert(id);
  secrets_->Request(
      id, identity::Priority::kRealTime, [this, id](Result<identity::CertificatePtr> result) {
        if (result) return OnCertificate(id, *result);
        metrics_.certificate_failures.Get().Add();
        LOG_WARN("ca", "no certificate for {}: {}", id.ToString(), result.error().message);
        for (auto& worker : workers_) {
          worker->loop().Post([raw = worker.get(), id, error = result.error()] {
            raw->CertificateFailed(id, error);
          });
        }
      });
}

// ---- readiness and the end

void App::UpdateReadiness() {
  std::string pending;
  const auto add = [&pending](std::string_view what) {
    pending.append(pending.empty() ? "" : ", ").append(what);
  };
  if (draining_) add("draining");
  if (xds_ && !xds_->synced()) add("xds");
  if (!zds_ || !zds_->snapshot_received()) add("zds");
  if (pods_ && pods_->HasPending()) add("pending pods");
  workers_.front()->loop().Post([this, pending] { not_ready_ = pending; });
}

Status App::StartReadiness() {
  QANAT_ASSIGN_OR_RETURN(const auto address,
                         net::SocketAddress::Parse(environment_.config.readiness_address));
  // On a data-plane thread on purpose: one that is stuck is not ready.
  std::promise<Result<net::SocketAddress>> bound;
  workers_.front()->loop().Post([this, address, &bound] {
    readiness_server_ = std::make_unique<admin::Server>(workers_.front()->loop());
    readiness_server_->Route("GET", "/healthz/ready", [this](const admin::Request&) {
      if (not_ready_.empty()) return admin::Text(200, "ready\n");
      return admin::Text(500, fmt::format("not ready, pending: {}\n", not_ready_));
    });
    net::ListenOptions options;
    options.address = address;
    options.dual_stack = address.ip().is_v6() && address.ip().is_unspecified();
    bound.set_value(readiness_server_->Listen(options));
  });
  QANAT_ASSIGN_OR_RETURN(readiness_address_, bound.get_future().get());
  return {};
}

void App::Drain() {
  if (draining_) return Finish();
  draining_ = true;
  LOG_INFO("app", "draining: no new connections, the others have {} ms",
           environment_.config.termination_deadline.count());
  pods_->Stop();
  UpdateReadiness();
  for (auto& worker : workers_) {
    worker->loop().Post([raw = worker.get()] { raw->StartDrain(); });
  }
  drain_deadline_ = event::Clock::now() + environment_.config.termination_deadline;
  drain_poll_.Start(std::chrono::milliseconds(50));
}

void App::CheckDrained() {
  Gather<size_t>([](Worker& worker) { return worker.user_connections(); },
                 [this](std::vector<size_t> counts) {
                   size_t left = 0;
                   for (const size_t count : counts) left += count;
                   if (left == 0) return Finish();
                   if (event::Clock::now() >= drain_deadline_) {
                     LOG_WARN("app", "deadline: {} connections are closed", left);
                     return Finish();
                   }
                   drain_poll_.Start(std::chrono::milliseconds(50));
                 });
}

void App::Finish() {
  drain_poll_.Stop();
  Gather<int>(
      [](Worker& worker) {
        worker.CloseAll(model::Reason::kDraining);
        return 0;
      },
      [this](const std::vector<int>&) {
        if (auto stopped = std::exchange(stopped_, {})) stopped();
      });
}

}  // namespace qanat::ztunnel
