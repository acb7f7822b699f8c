// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/env.h"

#include <fmt/format.h>

namespace qanat::local {

bool FieldValue(const PodFacts& facts, const std::string& path, std::string& value) {
  const StringMap simple = {
      {"metadata.name", facts.name},
      {"metadata.namespace", facts.ns},
      {"metadata.uid", facts.uid},
      {"spec.nodeName", facts.node},
      {"spec.serviceAccountName", facts.service_account},
      {"status.hostIP", facts.host_ip},
      {"status.podIP", facts.pod_ips.empty() ? "" : facts.pod_ips.front()},
  };
  if (auto it = simple.find(path); it != simple.end()) {
    value = it->second;
    return true;
  }
  if (path == "status.podIPs") {
    value.clear();
    for (const std::string& ip : facts.pod_ips) value += (value.empty() ? "" : ",") + ip;
    return true;
  }
  for (const auto& [prefix, map] :
       {std::pair<std::string, const StringMap*>{"metadata.labels['", &facts.labels},
        {"metadata.annotations['", &facts.annotations}}) {
    if (path.starts_with(prefix) && path.ends_with("']")) {
      const std::string key = path.substr(prefix.size(), path.size() - prefix.size() - 2);
      auto it = map->find(key);
      value = it == map->end() ? "" : it->second;
      return true;
    }
  }
  return false;
}

std::string ExpandVariables(const std::string& text, const StringMap& env) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '$' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    if (text[i + 1] == '$') {
      out += '$';
      ++i;
      continue;
    }
    if (text[i + 1] != '(') {
      out += '$';
      continue;
    }
    const size_t close = text.find(')', i);
    if (close == std::string::npos) {
      out += text.substr(i);
      break;
    }
    const std::string name = text.substr(i + 2, close - i - 2);
    auto it = env.find(name);
    out += it != env.end() ? it->second : text.substr(i, close - i + 1);
    i = close;
  }
  return out;
}

Command MakeCommand(const ContainerSpec& container, const PodFacts& facts,
                    const std::string& hostname, const NamedMaps& config_maps,
                    const NamedMaps& secrets) {
  Command out;
  StringMap env = {{"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                   {"HOME", "/root"},
                   {"HOSTNAME", hostname},
                   {"LANG", "C.UTF-8"}};
  for (const std::string& map : container.env_from) {
    auto it = config_maps.find(facts.ns + "/" + map);
    if (it == config_maps.end()) {
      out.problems.push_back(fmt::format("ConfigMap {} of envFrom does not exist", map));
      continue;
    }
    for (const auto& [key, value] : it->second) env[key] = value;
  }
  for (const EnvVar& variable : container.env) {
    switch (variable.source) {
      case EnvVar::Source::kValue: env[variable.name] = ExpandVariables(variable.value, env); break;
      case EnvVar::Source::kField:
        if (!FieldValue(facts, variable.path, env[variable.name])) {
          out.problems.push_back(
              fmt::format("env {}: fieldPath '{}' is not known", variable.name, variable.path));
        }
        break;
      case EnvVar::Source::kConfigMap:
      case EnvVar::Source::kSecret: {
        const bool config = variable.source == EnvVar::Source::kConfigMap;
        const NamedMaps& maps = config ? config_maps : secrets;
        auto map = maps.find(facts.ns + "/" + variable.map);
        if (map != maps.end()) {
          auto key = map->second.find(variable.path);
          if (key != map->second.end()) {
            env[variable.name] = key->second;
            break;
          }
        }
        if (!variable.optional) {
          out.problems.push_back(fmt::format("env {}: {} {} has no key '{}'", variable.name,
                                             config ? "ConfigMap" : "Secret", variable.map,
                                             variable.path));
        }
        break;
      }
    }
  }
  for (const std::string& argument : container.argv) {
    out.argv.push_back(ExpandVariables(argument, env));
  }
  for (const auto& [name, value] : env) out.env.push_back(name + "=" + value);
  return out;
}

}  // namespace qanat::local
