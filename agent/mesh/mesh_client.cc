// SPDX-License-Identifier: Apache-2.0
#include "agent/mesh/mesh_client.h"

#include <utility>

#include "common/base/log.h"
#include "common/grpc/channel.h"
#include "common/state/mesh_state.h"
#include "common/xds/delta_client.h"

namespace qanat::agent {
namespace {

// A control plane that does not answer for that long is gone; age() has told so all the time.
constexpr auto kPingTimeout = std::chrono::seconds(10);

grpc::ChannelOptions ChannelTo(const grpc::ControlPlane& at, std::chrono::milliseconds ping) {
  grpc::ChannelOptions options = at.Xds();
  options.ping_interval = ping;
  options.ping_timeout = kPingTimeout;
  options.ping_while_busy = true;
  return options;
}

xds::Node NodeOf(const MeshOptions& options) {
  xds::Node node = xds::ToNode(options.node);
  // Ours lists it apart from the proxies; for others it is one of them.
  node.metadata["QANAT_PROGRAM"] = "agent";
  xds::AddEnvironmentMetadata(options.environment, node);
  return node;
}

}  // namespace

struct MeshClient::Impl {
  Impl(event::EventLoop& loop, MeshOptions o, SnapshotHolder& h, metrics::Registry& registry,
       std::chrono::milliseconds ping)
      : options(std::move(o)),
        holder(h),
        terminations(registry.AddCounter("istio_xds_connection_terminations",
                                         "xDS streams that ended", {"reason"})),
        messages(registry.AddCounter("istio_xds_message", "xDS messages received", {"url"})),
        bytes(registry.AddCounter("istio_xds_message_bytes", "Bytes of xDS messages received",
                                  {"url"})),
        rejects(registry.AddCounter("qanat_xds_rejects",
                                    "xDS messages of which something was refused", {"url"})),
        channel(loop, ChannelTo(options.control_plane, ping)),
        client(loop, channel, NodeOf(options), Observer()) {}

  class Addresses final : public xds::ResourceHandler {
   public:
    explicit Addresses(Impl& impl) : impl_(impl) {}
    Status OnResource(const KeptText& name, std::string_view, std::string_view wire) override {
      return impl_.mesh.UpsertAddress(name, wire);
    }
    void OnRemoved(std::string_view name) override { impl_.mesh.RemoveAddress(name); }
    void OnBatchEnd() override { impl_.Publish(); }

   private:
    Impl& impl_;
  };

  class Policies final : public xds::ResourceHandler {
   public:
    explicit Policies(Impl& impl) : impl_(impl) {}
    Status OnResource(const KeptText& name, std::string_view, std::string_view wire) override {
      Status status = impl_.mesh.UpsertAuthorization(name, wire);
      if (!status) LOG_WARN("mesh", "policy {}: {}", name, status.error().message);
      return status;
    }
    void OnRemoved(std::string_view name) override { impl_.mesh.RemoveAuthorization(name); }
    void OnBatchEnd() override { impl_.Publish(); }

   private:
    Impl& impl_;
  };

  xds::DeltaObserver Observer() {
    xds::DeltaObserver observer;
    observer.on_terminated = [this](std::string_view reason) {
      terminations.With({std::string(reason)})->Add();
    };
    observer.on_message = [this](std::string_view url, size_t size) {
      messages.With({std::string(url)})->Add();
      bytes.With({std::string(url)})->Add(size);
    };
    observer.on_nack = [this](std::string_view url, std::string_view) {
      rejects.With({std::string(url)})->Add();
    };
    observer.on_synced = [this] {
      holder.Set(mesh.Publish());
      LOG_INFO("mesh", "{} has told the mesh: {} workloads, {} services",
               options.control_plane.xds_address, holder.snapshot()->workload_count(),
               holder.snapshot()->service_count());
    };
    observer.may_acknowledge = [this] { return !may_acknowledge || may_acknowledge(); };
    return observer;
  }

  // A response is complete. It is acknowledged when this returns, if it may be.
  void Publish() {
    if (client.synced()) holder.Set(mesh.Publish());
  }

  std::optional<event::Duration> Age() const {
    if (!client.current()) return std::nullopt;
    const auto heard = channel.last_heard();
    if (!heard) return std::nullopt;
    return event::Clock::now() - *heard;
  }

  const MeshOptions options;
  SnapshotHolder& holder;
  std::function<bool()> may_acknowledge;
  metrics::Family<metrics::Counter>& terminations;
  metrics::Family<metrics::Counter>& messages;
  metrics::Family<metrics::Counter>& bytes;
  metrics::Family<metrics::Counter>& rejects;
  state::MeshState mesh;
  Addresses addresses{*this};
  Policies policies{*this};
  grpc::Channel channel;
  xds::DeltaClient client;
};

MeshClient::MeshClient(event::EventLoop& loop, MeshOptions options, SnapshotHolder& holder,
                       metrics::Registry& registry, std::chrono::milliseconds ping)
    : impl_(std::make_unique<Impl>(loop, std::move(options), holder, registry, ping)) {}
MeshClient::~MeshClient() = default;

void MeshClient::Start() {
  constexpr auto kAll = xds::DeltaClient::Subscription::kWildcard;
  impl_->client.AddType(xds::kAddressType, kAll, &impl_->addresses);
  impl_->client.AddType(xds::kAuthorizationType, kAll, &impl_->policies);
  impl_->client.Start();
}

void MeshClient::SetMayAcknowledge(std::function<bool()> may) {
  impl_->may_acknowledge = std::move(may);
}

void MeshClient::Acknowledge() { impl_->client.Acknowledge(); }

std::optional<event::Duration> MeshClient::age() const { return impl_->Age(); }

MeshClient::State MeshClient::state() const {
  const xds::DeltaClient& client = impl_->client;
  return {.address = impl_->options.control_plane.xds_address,
          .connected = client.connected(),
          .current = client.current(),
          .age = impl_->Age(),
          .ping = impl_->channel.ping_interval(),
          .addresses = client.resource_count(xds::kAddressType),
          .policies = client.resource_count(xds::kAuthorizationType),
          .last_error = client.last_error()};
}

}  // namespace qanat::agent
