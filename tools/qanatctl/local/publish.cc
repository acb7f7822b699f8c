// SPDX-License-Identifier: Apache-2.0
// The supervisor's outputs: overlay files, the agents' pod files, service rules and DNS records
// (mesh.json: mesh_state.cc). Everything is rendered whole and written only where it differs from
// the last time.
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/base/log.h"
#include "tools/qanatctl/local/dns.h"
#include "tools/qanatctl/local/files.h"
#include "tools/qanatctl/local/supervisor.h"

namespace qanat::local {
namespace {

uint16_t TargetPort(const ServicePort& port, const PodStatus& pod) {
  if (port.target_name.empty()) return port.target;
  for (const auto& [container, ports] : pod.containers) {
    for (const ContainerPort& p : ports) {
      if (p.name == port.target_name && p.protocol == port.protocol) return p.port;
    }
  }
  return 0;
}

// A program of ours on a node, as the pod that it would be in a cluster.
PodStatus ProgramPod(const NodePlan& node, const std::string& name, const std::string& account,
                     const std::string& uid, bool ready) {
  PodStatus pod;
  pod.facts.ns = "qanat-system";
  pod.facts.name = name;
  pod.facts.uid = uid;
  pod.facts.node = node.name;
  pod.facts.service_account = account;
  pod.facts.host_ip = UnderlayV4(node.index).ToString();
  pod.facts.pod_ips = {pod.facts.host_ip, UnderlayV6(node.index).ToString()};
  pod.facts.labels = {{"app", account}, {"istio.io/dataplane-mode", "none"}};
  pod.host_network = true;
  pod.owner = {"apps/v1", "DaemonSet", account};
  pod.phase = "Running";
  pod.initialized = true;
  pod.ready = ready;
  pod.created = "2026-01-01T00:00:00Z";
  pod.containers = {{account == "ztunnel" ? "istio-proxy" : "agent", {}}};
  return pod;
}

}  // namespace

void Supervisor::WriteIfChanged(const std::string& path, const std::string& content) {
  auto [it, fresh] = written_.try_emplace(path);
  if (!fresh && it->second == content) return;
  if (Status done = WriteFile(path, content); !done) {
    LOG_WARN("publish", "{}", done.error().message);
    written_.erase(it);
    return;
  }
  it->second = content;
}

std::vector<net::IpAddress> Supervisor::ServiceIps(const ServiceSpec& service) const {
  std::vector<net::IpAddress> out;
  if (service.headless || service.external_name) return out;
  // Take() is idempotent; whether it works was reported when the plan was taken over.
  auto host = const_cast<ServiceAddresses&>(service_addresses_)
                  .Take(service.ns + "/" + service.name, service.wanted_ip);
  if (!host) return out;
  if (service.want_v4) out.push_back(ServiceV4(*host));
  if (service.want_v6) out.push_back(ServiceV6(*host));
  return out;
}

void Supervisor::Publish() {
  PublishFiles();
  PublishServices();
  WriteIfChanged(options_.names.MeshJson(), MeshState());
}

void Supervisor::PublishFiles() {
  std::map<std::string, std::string> overlay;
  for (const NodePlan& node : plan_.nodes) {
    overlay["node-" + node.name + ".yaml"] = RenderNodeOverlay(node);
  }
  if (options_.mesh) {
    // The control plane believes a token if its pod is there.
    for (const auto& [name, node] : nodes_) {
      for (const PodStatus& pod :
           {ProgramPod(node->plan, "ztunnel-" + name, "ztunnel", node->ztunnel_uid,
                       node->ztunnel && node->ztunnel->ready()),
            ProgramPod(node->plan, "agent-" + name, "qanat-agent", node->agent_uid,
                       node->agent && node->agent->ready())}) {
        overlay["pod-qanat-system-" + pod.facts.name + ".yaml"] = RenderPodOverlay(pod);
      }
    }
  }
  for (const ServiceSpec& service : plan_.services) {
    if (service.external_name) continue;
    const bool ours =
        std::any_of(plan_.gateways.begin(), plan_.gateways.end(), [&](const GatewayPlan& gateway) {
          return gateway.ns == service.ns && gateway.name == service.name;
        });
    overlay["service-" + service.ns + "-" + service.name + ".yaml"] =
        RenderServiceOverlay(service, ServiceIps(service), ours);
    if (!ours) continue;
    for (const GatewayPlan& gateway : plan_.gateways) {
      if (gateway.ns == service.ns && gateway.name == service.name) {
        overlay["gateway-" + gateway.ns + "-" + gateway.name + ".yaml"] =
            RenderGatewayOverlay(gateway, ServiceIps(service));
      }
    }
  }
  std::set<std::string> agent_files;
  for (const auto& [key, pod] : pods_) {
    if (!pod->has_network() || pod->state() == Pod::State::kGone) continue;
    const PodStatus& status = pod->status();
    overlay["pod-" + status.facts.ns + "-" + status.facts.name + ".yaml"] =
        RenderPodOverlay(status);
    auto ns = plan_.namespaces.find(status.facts.ns);
    static const StringMap none;
    const std::string path =
        options_.names.NodePods(status.facts.node) + "/" + status.facts.uid + ".json";
    PodStatus for_agent = status;
    for_agent.phase = "Running";  // the agent enrols before the first container starts
    const auto& spec = pod->plan().spec.spec;
    WriteIfChanged(
        path, RenderAgentPod(for_agent, spec ? *spec : Json::object(),
                             ns == plan_.namespaces.end() ? none : ns->second, pod->netns_path()));
    agent_files.insert(path);
  }
  std::set<std::string> current;
  for (const auto& [name, content] : overlay) {
    const std::string path = options_.names.OverlayDir() + "/" + name;
    WriteIfChanged(path, content);
    current.insert(path);
  }
  for (const std::string& old : overlay_files_) {
    if (current.contains(old)) continue;
    (void)RemoveFile(old);
    written_.erase(old);
  }
  overlay_files_ = std::move(current);
  for (auto it = written_.begin(); it != written_.end();) {
    const bool pod_file = it->first.find("/pods/") != std::string::npos &&
                          it->first.starts_with(options_.names.RunDir() + "/nodes/");
    if (pod_file && !agent_files.contains(it->first)) {
      (void)RemoveFile(it->first);
      it = written_.erase(it);
    } else {
      ++it;
    }
  }
}

void Supervisor::PublishServices() {
  std::vector<ServiceRoute> routes;
  std::vector<DnsRecord> records;
  for (const ServiceSpec& service : plan_.services) {
    if (service.external_name) continue;
    const std::string domain = fmt::format("{}.{}.svc.cluster.local", service.name, service.ns);
    const std::vector<net::IpAddress> cluster_ips = ServiceIps(service);
    std::vector<const Pod*> backends;
    for (const auto& [key, pod] : pods_) {
      if (pod->plan().ns != service.ns || service.selector.empty() || !pod->has_network() ||
          !SelectorMatches(service.selector, pod->status().facts.labels) ||
          pod->state() == Pod::State::kEnding) {
        continue;
      }
      if (pod->ready() || service.publish_not_ready) backends.push_back(pod.get());
    }
    for (const ServicePort& port : service.ports) {
      if (port.protocol != "TCP" && port.protocol != "UDP") continue;
      for (const net::IpAddress& ip : cluster_ips) {
        ServiceRoute route;
        route.ip = ip;
        route.port = port.port;
        route.udp = port.protocol == "UDP";
        for (const Pod* pod : backends) {
          const uint16_t target = TargetPort(port, pod->status());
          for (const net::IpAddress& pod_ip : pod->ips()) {
            if (target != 0 && pod_ip.is_v6() == ip.is_v6()) {
              route.endpoints.emplace_back(pod_ip, target);
            }
          }
        }
        routes.push_back(std::move(route));
      }
    }
    DnsRecord record{domain, cluster_ips};
    if (service.headless) {
      for (const Pod* pod : backends) {
        std::vector<net::IpAddress> ips;
        for (const net::IpAddress& ip : pod->ips()) {
          if (ip.is_v4() ? service.want_v4 : service.want_v6) ips.push_back(ip);
        }
        record.ips.insert(record.ips.end(), ips.begin(), ips.end());
        const PodStatus& status = pod->status();
        if (!status.hostname.empty() && status.subdomain == service.name) {
          records.push_back({status.hostname + "." + domain, ips});
        }
      }
    }
    if (!record.ips.empty()) records.push_back(std::move(record));
  }
  const std::string hosts = RenderHostsRecords(records);
  for (auto& [name, node] : nodes_) {
    const std::string path = options_.names.NodeDir(name) + "/hosts";
    const std::string before = written_[path];
    WriteIfChanged(path, hosts);
    if (before != hosts && node->dns) node->dns->program().Signal(SIGHUP);
    std::vector<net::IpAddress> local;
    for (const auto& [key, pod] : pods_) {
      if (pod->status().facts.node != name) continue;
      for (const net::IpAddress& ip : pod->ips()) local.push_back(ip);
    }
    std::string rules = RenderProxyRules(routes, local);
    if (rules != node->rules) {
      node->rules = std::move(rules);
      node->rules_pending = true;
    }
    ApplyRules(*node);
  }
}

void Supervisor::ApplyRules(NodeRuntime& node) {
  if (!node.rules_pending || node.nft) return;
  node.rules_pending = false;
  SpawnSpec spec;
  spec.argv = {"nft", "-f", "-"};
  spec.env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  spec.netns = Names::NetnsPath(options_.names.NodeNetns(node.plan.name));
  spec.cgroup = cgroup_root_ + "/" + node.plan.name + "/dns";
  spec.log = options_.names.LogsDir() + "/services-" + node.plan.name + ".log";
  spec.input = node.rules;
  NodeRuntime* n = &node;
  auto process = Process::Start(loop_, spec, [this, n](ExitInfo info) {
    n->nft_error = info.ok() ? "" : "nft ended with " + info.ToString();
    if (!info.ok()) LOG_ERROR("services", "{}: {}", n->plan.name, n->nft_error);
    loop_.Post([this, n] {
      n->nft.reset();
      ApplyRules(*n);
    });
  });
  if (!process) {
    node.nft_error = process.error().message;
    LOG_ERROR("services", "{}: {}", node.plan.name, node.nft_error);
    return;
  }
  node.nft = std::move(*process);
}

}  // namespace qanat::local
