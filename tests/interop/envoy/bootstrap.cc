// SPDX-License-Identifier: Apache-2.0
// Writes what a waypoint would be told over xDS as one static bootstrap for a stock Envoy: routes
// and endpoints are put where the listeners and clusters refer to them, nothing else is changed.
//   interop_envoy_bootstrap OUT.pb NAMESPACE/GATEWAY DIR_OF_CERTIFICATES OVERLAY|- FILE...
#include <google/protobuf/message.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>

#include "controlplane/envoy/translate.h"
#include "controlplane/source/decode.h"
#include "controlplane/source/store.h"
#include "envoy/config/bootstrap/v3/bootstrap.pb.h"
#include "envoy/config/cluster/v3/cluster.pb.h"
#include "envoy/config/endpoint/v3/endpoint.pb.h"
#include "envoy/config/listener/v3/listener.pb.h"
#include "envoy/config/route/v3/route.pb.h"
#include "envoy/extensions/bootstrap/internal_listener/v3/internal_listener.pb.h"
#include "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.pb.h"
#include "envoy/extensions/transport_sockets/tls/v3/secret.pb.h"
#include "envoy/service/discovery/v3/discovery.pb.h"

namespace {

using namespace qanat::controlplane;  // a program of one file
using Hcm = envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
using envoy::config::bootstrap::v3::Bootstrap;

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <typename T>
T Body(const Resource& resource) {
  envoy::service::discovery::v3::Resource wrapper;
  T body;
  if (!wrapper.ParseFromString(*resource.wire) || !wrapper.resource().UnpackTo(&body)) {
    throw std::runtime_error(resource.name + " does not parse");
  }
  return body;
}

template <typename T>
T Find(const ResourceSet& resources, std::string_view type, const std::string& name) {
  const auto& of_type = resources.at(std::string(type));
  const auto found = of_type.find(name);
  if (found == of_type.end())
    throw std::runtime_error(std::string(type) + " " + name + " is missing");
  return Body<T>(found->second);
}

Bootstrap Make(const ResourceSet& resources, const std::string& certificates) {
  Bootstrap bootstrap;
  bootstrap.mutable_node()->set_id("waypoint");
  bootstrap.mutable_node()->set_cluster("waypoint");
  auto* admin = bootstrap.mutable_admin()->mutable_address()->mutable_socket_address();
  admin->set_address("127.0.0.1");
  admin->set_port_value(15000);
  auto* extension = bootstrap.add_bootstrap_extensions();
  extension->set_name("envoy.bootstrap.internal_listener");
  extension->mutable_typed_config()->PackFrom(
      envoy::extensions::bootstrap::internal_listener::v3::InternalListener());
  // As Istio's bootstrap: users' regular expressions may be longer than Envoy's default allows.
  auto* layer = bootstrap.mutable_layered_runtime()->add_layers();
  layer->set_name("static");
  (*layer->mutable_static_layer()->mutable_fields())["re2.max_program_size.error_level"]
      .set_number_value(32768);

  auto* secrets = bootstrap.mutable_static_resources();
  auto* own = secrets->add_secrets();
  own->set_name("default");
  own->mutable_tls_certificate()->mutable_certificate_chain()->set_filename(certificates +
                                                                            "/waypoint.pem");
  own->mutable_tls_certificate()->mutable_private_key()->set_filename(certificates +
                                                                      "/waypoint.key");
  auto* roots = secrets->add_secrets();
  roots->set_name("ROOTCA");
  roots->mutable_validation_context()->mutable_trusted_ca()->set_filename(certificates + "/ca.pem");

  for (const auto& [name, resource] : resources.at(std::string(kListenerType))) {
    auto listener = Body<envoy::config::listener::v3::Listener>(resource);
    for (auto& chain : *listener.mutable_filter_chains()) {
      for (auto& filter : *chain.mutable_filters()) {
        Hcm hcm;
        if (!filter.typed_config().UnpackTo(&hcm) || !hcm.has_rds()) continue;
        const std::string routes = hcm.rds().route_config_name();
        *hcm.mutable_route_config() =
            Find<envoy::config::route::v3::RouteConfiguration>(resources, kRouteType, routes);
        filter.mutable_typed_config()->PackFrom(hcm);
      }
    }
    *bootstrap.mutable_static_resources()->add_listeners() = std::move(listener);
  }
  for (const auto& [name, resource] : resources.at(std::string(kClusterType))) {
    auto cluster = Body<envoy::config::cluster::v3::Cluster>(resource);
    if (cluster.has_eds_cluster_config()) {
      *cluster.mutable_load_assignment() = Find<envoy::config::endpoint::v3::ClusterLoadAssignment>(
          resources, kEndpointType, cluster.eds_cluster_config().service_name());
      cluster.clear_eds_cluster_config();
      cluster.set_type(envoy::config::cluster::v3::Cluster::STATIC);
    }
    *bootstrap.mutable_static_resources()->add_clusters() = std::move(cluster);
  }
  return bootstrap;
}

int Run(int argc, char** argv) {
  if (argc < 6) {
    std::fprintf(stderr, "usage: %s OUT.pb NAMESPACE/GATEWAY CERTIFICATES OVERLAY|- FILE...\n",
                 argv[0]);
    return 2;
  }
  const std::string waypoint = argv[2];
  const size_t slash = waypoint.find('/');
  ObjectStore store;
  const auto add = [&](ObjectStore::Layer layer, const std::string& file) {
    store.Update(layer, file, DecodeFile(file, ReadFile(file)));
  };
  for (int i = 5; i < argc; ++i) add(ObjectStore::Layer::kUser, argv[i]);
  if (std::string(argv[4]) != "-") add(ObjectStore::Layer::kOverlay, argv[4]);
  const auto world = World::Build(store.Assemble().objects, MeshConfig{});
  const WaypointConfig config =
      BuildWaypoint(*world, {waypoint.substr(0, slash), waypoint.substr(slash + 1)});
  std::ofstream out(argv[1], std::ios::binary);
  Make(config.resources, argv[3]).SerializeToOstream(&out);
  return out.good() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
