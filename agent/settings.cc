// SPDX-License-Identifier: Apache-2.0
#include "agent/settings.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <set>
#include <utility>

#include "agent/pods/folder_source.h"
#include "agent/pods/pod_cgroup.h"
#include "bpf/user/mounts.h"

namespace qanat::agent {

std::string StateDir(const Config& config) {
  if (!config.state_dir.empty()) return config.state_dir;
  return (std::filesystem::path(config.status_dir).parent_path() / "agent-state").string();
}

Result<std::string> CgroupRoot(const Config& config) {
  if (!config.cgroup_root.empty()) return config.cgroup_root;
  return bpf::FindCgroup2();
}

std::vector<std::string> PodRoots(const Config& config, const std::string& cgroup_root) {
  if (!config.pods_cgroups.empty()) return config.pods_cgroups;
  auto own = bpf::CgroupOfProcess(static_cast<int>(::getpid()));
  if (own && own->size() > 6 && own->substr(own->size() - 6) == "/agent")
    return {cgroup_root + own->substr(0, own->size() - 6) + "/pods"};
  if (own)
    if (const std::string kubepods = KubepodsOfCgroupPath(*own); !kubepods.empty())
      return {cgroup_root + kubepods};
  std::vector<std::string> roots;
  for (const char* name : {"/kubepods.slice", "/kubepods", "/kubelet/kubepods",
                           "/kubelet.slice/kubelet-kubepods.slice"})
    if (::access((cgroup_root + name).c_str(), F_OK) == 0) roots.push_back(cgroup_root + name);
  return roots;
}

bool InCluster(const Config& config) { return config.pod_source == "kubernetes"; }

Result<std::unique_ptr<PodSource>> MakeFolderSource(event::EventLoop& loop, const Config& config) {
  constexpr std::string_view kFolder = "folder:";
  const std::string& spec = config.pod_source;
  if (spec.rfind(kFolder, 0) == 0 && spec.size() > kFolder.size())
    return std::make_unique<FolderSource>(
        loop, spec.substr(kFolder.size()),
        std::set<std::string>(config.exclude_namespaces.begin(), config.exclude_namespaces.end()));
  return Fail(Code::kInvalidArgument,
              "--pod-source " + spec + ": expected folder:DIR or kubernetes");
}

Result<std::unique_ptr<Cluster>> MakeCluster(event::EventLoop& loop, const Config& config) {
  ClusterOptions options;
  options.kubeconfig = config.kubeconfig;
  options.node_name = config.node_name;
  options.ns = config.ns;
  options.daemonset = config.daemonset;
  options.lib_dir = config.lib_dir;
  options.run_dir = std::filesystem::path(config.cni_socket).parent_path().string();
  options.zds_socket = config.zds_socket;
  options.cni_socket = config.cni_socket;
  options.hold_socket = config.hold_socket;
  options.status_dir = config.status_dir;
  options.state_dir = StateDir(config);
  options.excluded_namespaces = config.exclude_namespaces;
  options.excluded_namespaces.push_back(config.ns);
  if (!config.cni_plugin.empty()) {
    options.install.conf_dir = config.cni_conf_dir;
    options.install.bin_dir = config.cni_bin_dir;
    options.install.plugin = config.cni_plugin;
    options.install.own_list = config.cni_own_list;
    options.install.settings.agent_socket = config.cni_socket;
    options.install.settings.kubeconfig = config.lib_dir + "/cni-kubeconfig";
    options.install.settings.cache = config.lib_dir + "/pods-cache";
    options.install.settings.log_file = options.run_dir + "/cni.log";
    options.install.settings.exclude_namespaces = options.excluded_namespaces;
  }
  return Cluster::Create(loop, std::move(options));
}

Result<net::SocketAddress> ProbeService(const Config& config) {
  if (!config.probe_service.empty()) return net::SocketAddress::Parse(config.probe_service);
  const char* host = std::getenv("KUBERNETES_SERVICE_HOST");
  const char* port = std::getenv("KUBERNETES_SERVICE_PORT");
  if (!host || !port) return net::SocketAddress();
  QANAT_ASSIGN_OR_RETURN(const net::IpAddress ip, net::IpAddress::Parse(host));
  return net::SocketAddress(ip, static_cast<uint16_t>(std::strtoul(port, nullptr, 10)));
}

std::string DnsDir(const Config& config) {
  return (std::filesystem::path(config.zds_socket).parent_path() / "dns").string();
}

}  // namespace qanat::agent
