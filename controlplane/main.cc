// SPDX-License-Identifier: Apache-2.0
// qanat-controlplane: flags, then App.
#include <absl/synchronization/mutex.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "common/base/log.h"
#include "controlplane/ads/grpc_server.h"
#include "controlplane/app.h"

namespace {

// Two programs on one host are two replicas.
std::string HostName() {
  char name[256] = "";
  if (::gethostname(name, sizeof name - 1) != 0) return fmt::format("pid-{}", ::getpid());
  return fmt::format("{}-{}", name, ::getpid());
}

}  // namespace

int main(int argc, char** argv) {
  // Debian's abseil looks for deadlocks in every lock, also in release builds, and aborts the
  // process for a lock order that the gRPC library is known to use.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);

  qanat::controlplane::AppOptions options;
  qanat::controlplane::ClusterOptions& cluster = options.cluster;
  cluster.waypoint.image = "localhost/qanat/waypoint:" QANAT_VERSION;
  std::vector<std::string> trusted;
  int64_t default_ttl = options.ca.default_ttl.count();
  int64_t max_ttl = options.ca.max_ttl.count();
  std::string log_format = "text";
  std::string log_level = "info";
  CLI::App cli(
      "The control plane of a Qanat mesh: xDS for node proxies and waypoints, and the "
      "certificate authority.");
  cli.set_version_flag("--version", "qanat-controlplane " QANAT_VERSION);
  cli.add_option("--source", options.source,
                 "where objects come from: folder:DIR (watched), or kubernetes")
      ->required();
  cli.add_option("--overlay", options.overlay,
                 "directory with what a cluster would fill in: pods' addresses, ClusterIPs, ...");
  cli.add_option("--ca-dir", options.ca.directory,
                 "with a folder: directory of root-key.pem and root-cert.pem; made if absent");
  cli.add_option("--token-jwks", options.token_jwks,
                 "with a folder: public keys of the service account tokens (JWKS; read again when "
                 "it changes)");
  cli.add_option("--kubeconfig", options.kubeconfig,
                 "with kubernetes: how to reach the API server (default: the pod's own service "
                 "account)");
  cli.add_option("--namespace", cluster.ns, "with kubernetes: where Secret and Lease are")
      ->envname("POD_NAMESPACE")
      ->capture_default_str();
  cli.add_option("--ca-secret", cluster.ca_secret,
                 "with kubernetes: Secret of the certificate authority's key (ca-cert.pem, "
                 "ca-key.pem); made if absent. A Secret `cacerts` beside it counts instead")
      ->capture_default_str();
  cli.add_option("--leader-identity", cluster.identity,
                 "with kubernetes: name of this replica in the Lease (default: the host's name)")
      ->envname("POD_NAME");
  cli.add_option("--waypoint-image", cluster.waypoint.image,
                 "with kubernetes: image of the waypoints that Gateways ask for")
      ->capture_default_str();
  cli.add_option("--waypoint-xds-address", cluster.waypoint.xds_address,
                 "with kubernetes: where waypoints find this control plane (default "
                 "https://qanat-controlplane.NAMESPACE.svc:15012)");
  cli.add_option("--waypoint-ca-address", cluster.waypoint.ca_address,
                 "with kubernetes: where waypoints ask for certificates (default: the same)");
  cli.add_option("--trust-domain", options.mesh.trust_domain, "of every identity")
      ->capture_default_str();
  cli.add_option("--cluster-id", options.mesh.cluster_id, "name of this cluster")
      ->capture_default_str();
  cli.add_option("--network", options.mesh.network, "network id of the pods' addresses");
  cli.add_option("--cluster-domain", options.mesh.domain, "DNS domain of services")
      ->capture_default_str();
  cli.add_option("--root-namespace", options.mesh.root_namespace,
                 "namespace whose policies count for the whole mesh")
      ->capture_default_str();
  cli.add_option("--trusted-node-account", trusted,
                 "NAMESPACE/ACCOUNT of node proxies, who may ask for identities of pods on their "
                 "node; repeatable (default qanat-system/ztunnel, istio-system/ztunnel)");
  cli.add_option("--cert-ttl", default_ttl, "seconds of a certificate that asks for none")
      ->capture_default_str()
      ->check(CLI::Range(60, 90 * 86400));
  cli.add_option("--max-cert-ttl", max_ttl, "seconds that no certificate exceeds")
      ->capture_default_str()
      ->check(CLI::Range(60, 90 * 86400));
  cli.add_option("--listen", options.listen, "ADS and certificates (gRPC over TLS)")
      ->capture_default_str();
  cli.add_option("--http", options.http, "/ready and /debug pages")->capture_default_str();
  cli.add_option("--metrics", options.metrics, "/metrics")->capture_default_str();
  cli.add_option("--san", options.sans,
                 "further name or address in the serving certificate; repeatable");
  cli.add_flag("--debug-from-anywhere", options.debug_from_anywhere,
               "answer /debug pages to other hosts too (they show the whole configuration)");
  cli.add_option("--log-format", log_format, "text or json")
      ->check(CLI::IsMember({"text", "json"}));
  cli.add_option("--log-level", log_level, "info, or info,ads=debug,ca=warn")
      ->envname("QANAT_LOG")
      ->capture_default_str();
  CLI11_PARSE(cli, argc, argv);

  qanat::log::Init("controlplane",
                   log_format == "json" ? qanat::log::Format::kJson : qanat::log::Format::kText);
  if (const qanat::Status levels = qanat::log::SetLevels(log_level); !levels) {
    fmt::print(stderr, "--log-level: {}\n", levels.error().message);
    return 2;
  }
  qanat::controlplane::GrpcServer::InitLogging();
  options.ca.trust_domain = options.mesh.trust_domain;
  options.ca.default_ttl = std::chrono::seconds(default_ttl);
  options.ca.max_ttl = std::chrono::seconds(max_ttl);
  if (!trusted.empty()) options.trusted_nodes = {trusted.begin(), trusted.end()};
  if (cluster.identity.empty()) cluster.identity = HostName();
  qanat::controlplane::WaypointSettings& waypoint = cluster.waypoint;
  if (waypoint.xds_address.empty()) {
    waypoint.xds_address = fmt::format("https://qanat-controlplane.{}.svc:15012", cluster.ns);
  }
  if (waypoint.ca_address.empty()) waypoint.ca_address = waypoint.xds_address;
  auto app = qanat::controlplane::App::Create(std::move(options));
  if (!app) {
    LOG_ERROR("app", "cannot start: {}", app.error().message);
    return 1;
  }
  return (*app)->Run();
}
