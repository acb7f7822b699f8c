// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/spec.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/qanatctl/json_util.h"

namespace qanat::local {
namespace {

using ctl::Get;

// A scalar as text: numbers and booleans in places where Kubernetes wants strings are taken as
// written, the control plane complains about them.
std::string Text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null() || value.is_structured()) return {};
  return value.dump();
}

int Number(const Json& value, int fallback) {
  return value.is_number_integer() ? static_cast<int>(value.get<int64_t>()) : fallback;
}

uint16_t Port(const Json& value) {
  const int number = Number(value, 0);
  return number > 0 && number < 65536 ? static_cast<uint16_t>(number) : 0;
}

StringMap ReadMap(const Json& value) {
  StringMap out;
  if (value.is_object()) {
    for (auto& [key, item] : value.items()) out[key] = Text(item);
  }
  return out;
}

std::vector<std::string> ReadStrings(const Json& value) {
  std::vector<std::string> out;
  if (value.is_array()) {
    for (const Json& item : value) out.push_back(Text(item));
  }
  return out;
}

template <typename F>
void ForEach(const Json& array, F&& f) {
  if (!array.is_array()) return;
  for (const Json& item : array) f(item);
}

EnvVar ReadEnv(const Json& item) {
  EnvVar out;
  out.name = Text(Get(item, "name"));
  out.value = Text(Get(item, "value"));
  const Json& from = Get(item, "valueFrom");
  if (const Json& field = Get(from, "fieldRef"); field.is_object()) {
    out.source = EnvVar::Source::kField;
    out.path = Text(Get(field, "fieldPath"));
  } else if (const Json& config = Get(from, "configMapKeyRef"); config.is_object()) {
    out.source = EnvVar::Source::kConfigMap;
    out.map = Text(Get(config, "name"));
    out.path = Text(Get(config, "key"));
    out.optional = Get(config, "optional") == Json(true);
  } else if (const Json& secret = Get(from, "secretKeyRef"); secret.is_object()) {
    out.source = EnvVar::Source::kSecret;
    out.map = Text(Get(secret, "name"));
    out.path = Text(Get(secret, "key"));
    out.optional = Get(secret, "optional") == Json(true);
  }
  return out;
}

uint16_t ProbePort(const Json& value, const ContainerSpec& container, const char* which,
                   std::vector<std::string>& problems) {
  if (value.is_string()) {
    const std::string name = value.get<std::string>();
    for (const ContainerPort& port : container.ports) {
      if (port.name == name) return port.port;
    }
    problems.push_back(fmt::format("container {}: {} names port '{}', which is not among its ports",
                                   container.name, which, name));
    return 0;
  }
  const uint16_t port = Port(value);
  if (port == 0) {
    problems.push_back(
        fmt::format("container {}: {} has no port between 1 and 65535", container.name, which));
  }
  return port;
}

std::optional<ProbeSpec> ReadProbe(const Json& probe, const ContainerSpec& container,
                                   const char* which, std::vector<std::string>& problems) {
  if (!probe.is_object()) return std::nullopt;
  ProbeSpec out;
  out.initial_delay_s = Number(Get(probe, "initialDelaySeconds"), 0);
  out.period_s = std::max(1, Number(Get(probe, "periodSeconds"), 10));
  out.timeout_s = std::max(1, Number(Get(probe, "timeoutSeconds"), 1));
  out.success_threshold = std::max(1, Number(Get(probe, "successThreshold"), 1));
  out.failure_threshold = std::max(1, Number(Get(probe, "failureThreshold"), 3));
  if (const Json& http = Get(probe, "httpGet"); http.is_object()) {
    out.kind = ProbeSpec::Kind::kHttp;
    out.port = ProbePort(Get(http, "port"), container, which, problems);
    if (const std::string path = Text(Get(http, "path")); !path.empty()) out.path = path;
    out.host = Text(Get(http, "host"));
    ForEach(Get(http, "httpHeaders"), [&](const Json& header) {
      out.headers.emplace_back(Text(Get(header, "name")), Text(Get(header, "value")));
    });
    if (Text(Get(http, "scheme")) == "HTTPS") {
      problems.push_back(fmt::format("container {}: {} over HTTPS is not done by the local mode",
                                     container.name, which));
    }
    return out;
  }
  if (const Json& tcp = Get(probe, "tcpSocket"); tcp.is_object()) {
    out.kind = ProbeSpec::Kind::kTcp;
    out.port = ProbePort(Get(tcp, "port"), container, which, problems);
    out.host = Text(Get(tcp, "host"));
    return out;
  }
  if (const Json& exec = Get(probe, "exec"); exec.is_object()) {
    out.kind = ProbeSpec::Kind::kExec;
    out.command = ReadStrings(Get(exec, "command"));
    if (out.command.empty()) {
      problems.push_back(
          fmt::format("container {}: {} exec has no command", container.name, which));
    }
    return out;
  }
  problems.push_back(
      fmt::format("container {}: {} is of a kind that the local mode does not run "
                  "(it runs httpGet, tcpSocket and exec)",
                  container.name, which));
  return std::nullopt;
}

ContainerSpec ReadContainer(const Json& item, std::vector<std::string>& problems) {
  ContainerSpec out;
  out.name = Text(Get(item, "name"));
  out.argv = ReadStrings(Get(item, "command"));
  for (std::string& argument : ReadStrings(Get(item, "args"))) out.argv.push_back(argument);
  if (!Get(item, "command").is_array()) {
    problems.push_back(
        fmt::format("container {}: no 'command'; the local mode runs programs of "
                    "this machine and has no images, so it needs one",
                    out.name));
  }
  out.working_dir = Text(Get(item, "workingDir"));
  ForEach(Get(item, "env"), [&](const Json& env) { out.env.push_back(ReadEnv(env)); });
  ForEach(Get(item, "envFrom"), [&](const Json& from) {
    const std::string name = Text(Get(Get(from, "configMapRef"), "name"));
    if (!name.empty()) out.env_from.push_back(name);
  });
  ForEach(Get(item, "ports"), [&](const Json& port) {
    ContainerPort p;
    p.name = Text(Get(port, "name"));
    p.port = Port(Get(port, "containerPort"));
    if (const std::string protocol = Text(Get(port, "protocol")); !protocol.empty()) {
      p.protocol = protocol;
    }
    out.ports.push_back(p);
  });
  ForEach(Get(item, "volumeMounts"), [&](const Json& mount) {
    out.mounts.push_back({Text(Get(mount, "name")), Text(Get(mount, "mountPath")),
                          Text(Get(mount, "subPath")), Get(mount, "readOnly") == Json(true)});
  });
  out.readiness = ReadProbe(Get(item, "readinessProbe"), out, "readinessProbe", problems);
  out.liveness = ReadProbe(Get(item, "livenessProbe"), out, "livenessProbe", problems);
  out.startup = ReadProbe(Get(item, "startupProbe"), out, "startupProbe", problems);
  const Json& security = Get(item, "securityContext");
  if (Get(security, "runAsUser").is_number_integer()) {
    out.run_as_user = static_cast<uint32_t>(Number(Get(security, "runAsUser"), 0));
  }
  if (Get(security, "runAsGroup").is_number_integer()) {
    out.run_as_group = static_cast<uint32_t>(Number(Get(security, "runAsGroup"), 0));
  }
  out.capabilities = ReadStrings(Get(Get(security, "capabilities"), "add"));
  return out;
}

std::optional<Volume> ReadVolume(const Json& item, std::vector<std::string>& problems) {
  Volume out;
  out.name = Text(Get(item, "name"));
  if (const Json& map = Get(item, "configMap"); map.is_object()) {
    out.kind = Volume::Kind::kConfigMap;
    out.source = Text(Get(map, "name"));
    ForEach(Get(map, "items"),
            [&](const Json& i) { out.items[Text(Get(i, "key"))] = Text(Get(i, "path")); });
    return out;
  }
  if (const Json& secret = Get(item, "secret"); secret.is_object()) {
    out.kind = Volume::Kind::kSecret;
    out.source = Text(Get(secret, "secretName"));
    ForEach(Get(secret, "items"),
            [&](const Json& i) { out.items[Text(Get(i, "key"))] = Text(Get(i, "path")); });
    return out;
  }
  if (const Json& host = Get(item, "hostPath"); host.is_object()) {
    out.kind = Volume::Kind::kHostPath;
    out.source = Text(Get(host, "path"));
    return out;
  }
  if (item.is_object() && item.contains("emptyDir")) return out;
  problems.push_back(
      fmt::format("volume {}: the local mode has emptyDir, configMap, secret and "
                  "hostPath volumes only",
                  out.name));
  return std::nullopt;
}

}  // namespace

PodTemplate ReadPodTemplate(const Json& metadata, const Json& spec,
                            std::vector<std::string>& problems) {
  PodTemplate out;
  out.labels = ReadMap(Get(metadata, "labels"));
  out.annotations = ReadMap(Get(metadata, "annotations"));
  if (auto it = out.annotations.find("qanat.io/pod-ip"); it != out.annotations.end()) {
    out.fixed_ip = it->second;
  }
  if (std::string sa = Text(Get(spec, "serviceAccountName")); !sa.empty()) {
    out.service_account = sa;
  } else if (std::string old = Text(Get(spec, "serviceAccount")); !old.empty()) {
    out.service_account = old;
  }
  out.node_name = Text(Get(spec, "nodeName"));
  out.node_selector = ReadMap(Get(spec, "nodeSelector"));
  ForEach(Get(spec, "topologySpreadConstraints"), [&](const Json& item) {
    if (out.spread.empty() && Text(Get(item, "topologyKey")) == "kubernetes.io/hostname") {
      out.spread = ReadMap(Get(Get(item, "labelSelector"), "matchLabels"));
    }
  });
  out.hostname = Text(Get(spec, "hostname"));
  out.subdomain = Text(Get(spec, "subdomain"));
  out.dns = kube::ReadPodDns(spec);
  if (std::string policy = Text(Get(spec, "restartPolicy")); !policy.empty()) {
    out.restart_policy = policy;
  }
  out.grace_s = Number(Get(spec, "terminationGracePeriodSeconds"), 30);
  if (Get(spec, "hostNetwork") == Json(true)) {
    problems.push_back("hostNetwork pods are not run by the local mode");
  }
  ForEach(Get(spec, "initContainers"), [&](const Json& item) {
    if (Text(Get(item, "restartPolicy")) == "Always") {  // a native sidecar: runs beside the others
      out.containers.push_back(ReadContainer(item, problems));
    } else {
      out.init_containers.push_back(ReadContainer(item, problems));
    }
  });
  ForEach(Get(spec, "containers"),
          [&](const Json& item) { out.containers.push_back(ReadContainer(item, problems)); });
  if (out.containers.empty()) problems.push_back("the pod has no containers");
  const Json& pod_security = Get(spec, "securityContext");
  for (auto* list : {&out.init_containers, &out.containers}) {
    for (ContainerSpec& container : *list) {
      if (!container.run_as_user && Get(pod_security, "runAsUser").is_number_integer()) {
        container.run_as_user = static_cast<uint32_t>(Number(Get(pod_security, "runAsUser"), 0));
      }
      if (!container.run_as_group && Get(pod_security, "runAsGroup").is_number_integer()) {
        container.run_as_group = static_cast<uint32_t>(Number(Get(pod_security, "runAsGroup"), 0));
      }
    }
  }
  ForEach(Get(spec, "volumes"), [&](const Json& item) {
    if (auto volume = ReadVolume(item, problems)) out.volumes.push_back(*volume);
  });
  out.spec = std::make_shared<const Json>(spec);
  return out;
}

ServiceSpec ReadService(const Object& object) {
  ServiceSpec out;
  out.ns = object.ns;
  out.name = object.name;
  out.body = object.body;
  const Json& spec = Get(*object.body, "spec");
  out.selector = ReadMap(Get(spec, "selector"));
  out.wanted_ip = Text(Get(spec, "clusterIP"));
  out.headless = out.wanted_ip == "None";
  out.external_name = Text(Get(spec, "type")) == "ExternalName";
  out.publish_not_ready = Get(spec, "publishNotReadyAddresses") == Json(true);
  // As in Kubernetes: one family (the cluster's first, IPv4) unless the Service asks for more.
  const std::vector<std::string> families = ReadStrings(Get(spec, "ipFamilies"));
  const std::string policy = Text(Get(spec, "ipFamilyPolicy"));
  if (!families.empty()) {
    out.want_v4 = out.want_v6 = false;
    for (const std::string& family : families) {
      if (family == "IPv4") out.want_v4 = true;
      if (family == "IPv6") out.want_v6 = true;
    }
  }
  if (policy == "PreferDualStack" || policy == "RequireDualStack") out.want_v4 = out.want_v6 = true;
  ForEach(Get(spec, "ports"), [&](const Json& item) {
    ServicePort port;
    port.name = Text(Get(item, "name"));
    port.port = Port(Get(item, "port"));
    if (std::string protocol = Text(Get(item, "protocol")); !protocol.empty()) {
      port.protocol = protocol;
    }
    const Json& target = Get(item, "targetPort");
    if (target.is_string()) {
      port.target_name = target.get<std::string>();
    } else {
      port.target = Port(target);
    }
    if (port.target == 0 && port.target_name.empty()) port.target = port.port;
    if (port.port != 0) out.ports.push_back(port);
  });
  return out;
}

}  // namespace qanat::local
