// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/pod_spawn.h"

#include <fmt/format.h>

#include <cstdlib>

#include "tools/qanatctl/local/dns.h"
#include "tools/qanatctl/local/pod_files.h"

namespace qanat::local {

Result<SpawnSpec> ContainerSpawn(const PodWorld& world, const PodPlan& plan, const PodFacts& facts,
                                 const std::vector<net::IpAddress>& ips, const PodPlaces& places,
                                 Container& container) {
  const std::string hostname = plan.spec.hostname.empty() ? plan.name : plan.spec.hostname;
  Command command =
      MakeCommand(container.spec, facts, hostname, world.plan->config_maps, world.plan->secrets);
  if (!command.problems.empty()) {
    return Fail(Code::kInvalidArgument, command.problems.front());
  }
  container.env = command.env;
  SpawnSpec spec;
  spec.argv = std::move(command.argv);
  spec.env = std::move(command.env);
  spec.netns = places.netns;
  spec.cgroup = container.cgroup;
  spec.log = container.log;
  Sandbox sandbox;
  sandbox.scratch = places.dir + "/root-" + container.spec.name;
  sandbox.hostname = hostname;
  sandbox.working_dir = container.spec.working_dir;
  sandbox.uid = container.spec.run_as_user;
  sandbox.gid = container.spec.run_as_group;
  sandbox.capabilities = container.spec.capabilities;
  sandbox.mounts.push_back({places.dir + "/serviceaccount", kAccountDir, true});
  for (const VolumeMount& mount : container.spec.mounts) {
    std::string source = places.dir + "/volumes/" + mount.volume;
    for (const Volume& volume : plan.spec.volumes) {
      if (volume.name == mount.volume && volume.kind == Volume::Kind::kHostPath) {
        source = volume.source;
      }
    }
    if (!mount.sub_path.empty()) source += "/" + mount.sub_path;
    sandbox.mounts.push_back({source, mount.path, mount.read_only});
  }
  const std::string fqdn =
      plan.spec.subdomain.empty()
          ? ""
          : fmt::format("{}.{}.{}.svc.cluster.local", hostname, plan.spec.subdomain, plan.ns);
  sandbox.files.push_back({"/etc/resolv.conf", RenderResolvConf(plan.spec.dns, plan.ns)});
  sandbox.files.push_back({"/etc/hosts", RenderPodHosts(hostname, fqdn, ips)});
  sandbox.files.push_back({"/etc/hostname", hostname + "\n"});
  spec.sandbox = std::move(sandbox);
  return spec;
}

// Waypoints run outside a sandbox: they are the mesh's own program and read the CA's root and their
// token below the run directory.
SpawnSpec WaypointSpawn(const PodWorld& world, const PodPlan& plan, const PodFacts& facts,
                        const PodPlaces& places, const Container& container) {
  const std::string root = world.names.CaDir() + "/root-cert.pem";
  const std::string control = fmt::format("https://{}:15012", UnderlayV4(kFabricHost).ToString());
  SpawnSpec spec;
  spec.argv = {world.bin_dir + "/qanat-waypoint"};
  spec.env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
              "POD_NAME=" + plan.name,
              "POD_NAMESPACE=" + plan.ns,
              "POD_UID=" + facts.uid,
              "SERVICE_ACCOUNT=" + plan.spec.service_account,
              "INSTANCE_IP=" + facts.pod_ips.front(),
              "NODE_NAME=" + facts.node,
              "GATEWAY_NAME=" + plan.gateway,
              "XDS_ADDRESS=" + control,
              "CA_ADDRESS=" + control,
              "XDS_ROOT_CA=" + root,
              "CA_ROOT_CA=" + root,
              "AUTH_TOKEN=" + places.dir + "/token",
              "TRUST_DOMAIN=cluster.local",
              "CLUSTER_ID=Kubernetes",
              "NETWORK=",
              std::string("LOG_FORMAT=") + (world.json_logs ? "json" : "plain")};
  for (const char* name : {"RUST_LOG", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS",
                           "TSAN_OPTIONS", "SECRET_TTL"}) {
    if (const char* value = getenv(name)) spec.env.push_back(fmt::format("{}={}", name, value));
  }
  spec.netns = places.netns;
  spec.cgroup = container.cgroup;
  spec.log = container.log;
  return spec;
}

}  // namespace qanat::local
