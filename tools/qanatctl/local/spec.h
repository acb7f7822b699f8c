// SPDX-License-Identifier: Apache-2.0
// What the local mode understands of a Kubernetes object, as plain values: the parts of a pod that
// a kubelet, a scheduler, kube-proxy and a DNS server would act on. Everything else in the YAML is
// the control plane's business and passes by untouched.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/kube/pod_dns.h"
#include "tools/qanatctl/local/objects.h"

namespace qanat::local {

using StringMap = std::map<std::string, std::string>;
using Json = nlohmann::json;

struct EnvVar {
  enum class Source : uint8_t { kValue, kField, kConfigMap, kSecret };
  std::string name;
  Source source = Source::kValue;
  std::string value;  // for kValue
  std::string path;   // fieldPath, or the map's key
  std::string map;    // ConfigMap's or Secret's name
  bool optional = false;
};

struct ProbeSpec {
  enum class Kind : uint8_t { kHttp, kTcp, kExec };
  Kind kind = Kind::kHttp;
  uint16_t port = 0;
  std::string path = "/";
  std::string host;  // empty: the pod's address
  std::vector<std::pair<std::string, std::string>> headers;
  std::vector<std::string> command;
  int initial_delay_s = 0;
  int period_s = 10;
  int timeout_s = 1;
  int success_threshold = 1;
  int failure_threshold = 3;
};

struct ContainerPort {
  std::string name;
  uint16_t port = 0;
  std::string protocol = "TCP";
};

struct VolumeMount {
  std::string volume;
  std::string path;
  std::string sub_path;
  bool read_only = false;
};

struct Volume {
  enum class Kind : uint8_t { kEmptyDir, kConfigMap, kSecret, kHostPath };
  std::string name;
  Kind kind = Kind::kEmptyDir;
  std::string source;  // map's name or host path
  StringMap items;     // key -> file; empty: all keys
};

struct ContainerSpec {
  std::string name;
  std::vector<std::string> argv;  // command + args, not expanded
  std::string working_dir;
  std::vector<EnvVar> env;
  std::vector<std::string> env_from;  // ConfigMaps
  std::vector<ContainerPort> ports;
  std::vector<VolumeMount> mounts;
  std::optional<ProbeSpec> readiness;
  std::optional<ProbeSpec> liveness;
  std::optional<ProbeSpec> startup;
  std::optional<uint32_t> run_as_user;
  std::optional<uint32_t> run_as_group;
  std::vector<std::string> capabilities;  // added to the default set
};

struct PodTemplate {
  StringMap labels;
  StringMap annotations;
  std::string service_account = "default";
  std::string node_name;
  StringMap node_selector;
  StringMap spread;  // labels of the first topologySpreadConstraint over nodes; empty: none
  std::string hostname;
  std::string subdomain;
  std::string restart_policy = "Always";
  int grace_s = 30;
  std::vector<ContainerSpec> init_containers;
  std::vector<ContainerSpec> containers;
  std::vector<Volume> volumes;
  kube::PodDns dns;
  std::string fixed_ip;              // annotation qanat.io/pod-ip
  std::shared_ptr<const Json> spec;  // pod spec as written, for the overlay
};

// Problems that keep a pod from running here (no command, a probe's port name that nobody has) are
// appended to `problems` as messages; the pod is then shown as failed with that reason.
PodTemplate ReadPodTemplate(const Json& metadata, const Json& spec,
                            std::vector<std::string>& problems);

struct ServicePort {
  std::string name;
  uint16_t port = 0;
  std::string target_name;  // when targetPort is a name
  uint16_t target = 0;      // when it is a number
  std::string protocol = "TCP";
};

struct ServiceSpec {
  std::string ns;
  std::string name;
  StringMap selector;
  std::vector<ServicePort> ports;
  bool headless = false;
  bool external_name = false;
  bool want_v4 = true;
  bool want_v6 = false;
  bool publish_not_ready = false;
  std::string wanted_ip;             // spec.clusterIP as written, "" or "None" too
  std::shared_ptr<const Json> body;  // the object as written (or made, for a Gateway)
};

ServiceSpec ReadService(const Object& object);

}  // namespace qanat::local
