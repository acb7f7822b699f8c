// SPDX-License-Identifier: Apache-2.0
// App's part that hears the control plane: what a resource leads to, and how the stream is begun.
// Main thread.
#include "common/base/log.h"
#include "common/route/on_demand.h"
#include "common/xds/node.h"
#include "ztunnel/app.h"

namespace qanat::ztunnel {

class App::AddressHandler final : public xds::ResourceHandler {
 public:
  explicit AddressHandler(App& app) : app_(app) {}
  Status OnResource(const KeptText& name, std::string_view version,
                    std::string_view bytes) override {
    touched_.push_back(name);
    Status status = app_.mesh_state_.UpsertAddress(name, bytes);
    if (status && app_.saved_) app_.saved_->Put(SavedState::Type::kAddress, name, version, bytes);
    return status;
  }
  void OnRemoved(std::string_view name) override {
    touched_.emplace_back(name);
    app_.mesh_state_.RemoveAddress(name);
    if (app_.on_demand_) app_.on_demand_->OnRemoved(name);
    if (app_.saved_) app_.saved_->Remove(SavedState::Type::kAddress, name);
  }
  void OnBatchEnd() override {
    if (app_.saved_) app_.saved_->BatchEnd();
    app_.Publish(std::exchange(touched_, {}));
  }

 private:
  App& app_;
  std::vector<KeptText> touched_;
};

class App::AuthorizationHandler final : public xds::ResourceHandler {
 public:
  explicit AuthorizationHandler(App& app) : app_(app) {}
  Status OnResource(const KeptText& name, std::string_view version,
                    std::string_view bytes) override {
    bool applied = false;
    Status status = app_.mesh_state_.UpsertAuthorization(name, bytes, &applied);
    if (!status) LOG_WARN("xds", "policy {}: {}", name, status.error().message);
    // What is in force is saved, understood or not.
    if (applied && app_.saved_) {
      app_.saved_->Put(SavedState::Type::kAuthorization, name, version, bytes, !status);
    }
    return status;
  }
  void OnRemoved(std::string_view name) override {
    app_.mesh_state_.RemoveAuthorization(name);
    if (app_.saved_) app_.saved_->Remove(SavedState::Type::kAuthorization, name);
  }
  void OnBatchEnd() override {
    if (app_.saved_) app_.saved_->BatchEnd();
    app_.Publish({});
  }

 private:
  App& app_;
};

void App::StartXds() {
  const Config& config = environment_.config;
  xds_channel_ = std::make_unique<grpc::Channel>(loop_, config.control_plane.Xds());

  xds::Node node = xds::ToNode({.pod_name = config.pod_name,
                                .pod_namespace = config.pod_namespace,
                                .node_name = config.node_name,
                                .cluster_id = config.control_plane.cluster_id,
                                .network = config.network,
                                .instance_ip = config.instance_ip});
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
  observer.on_synced = [this] { OnSynced(); };
  address_handler_ = std::make_shared<AddressHandler>(*this);
  authorization_handler_ = std::make_shared<AuthorizationHandler>(*this);
  xds_ = std::make_unique<xds::DeltaClient>(loop_, *xds_channel_, std::move(node),
                                            std::move(observer));
  const bool on_demand = environment_.config.xds_on_demand;
  if (on_demand) {
    on_demand_ = std::make_unique<OnDemand>(*xds_, mesh_state_, [this](std::string_view name) {
      return route::IsKnown(*snapshot_, name);
    });
  }
  xds_->AddType(xds::kAddressType,
                on_demand ? xds::DeltaClient::Subscription::kOnDemand
                          : xds::DeltaClient::Subscription::kWildcard,
                address_handler_.get(), std::exchange(held_addresses_, {}));
  xds_->AddType(xds::kAuthorizationType, xds::DeltaClient::Subscription::kWildcard,
                authorization_handler_.get(), std::exchange(held_policies_, {}));
  xds_->Start();
}

// The pods of this node, by the addresses that their namespaces have, and what stands around them.
void App::PrefetchNames() {
  if (!on_demand_ || !pods_) return;
  for (const auto& [uid, entry] : pods_->entries()) {
    std::vector<std::string> names;
    for (const auto& ip : entry.pod->addresses) {
      names.push_back(route::NameOf(environment_.mesh.network, ip));
    }
    on_demand_->Prefetch(names);
    const route::Identified found = route::IdentifyPod(*snapshot_, environment_.mesh, *entry.pod);
    if (found.workload) on_demand_->Prefetch(route::MissingAround(*snapshot_, *found.workload));
  }
}

}  // namespace qanat::ztunnel
