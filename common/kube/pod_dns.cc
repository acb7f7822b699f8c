// SPDX-License-Identifier: Apache-2.0
#include "common/kube/pod_dns.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

namespace qanat::kube {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxServers = 3, kMaxSearches = 32;
constexpr size_t kMaxSearch = 253, kMaxSearchLine = 2048;  // characters
constexpr unsigned kMaxNdots = 15;                         // the C library's

void AppendNew(std::vector<std::string>* to, const std::vector<std::string>& from) {
  for (const std::string& text : from) {
    if (std::find(to->begin(), to->end(), text) == to->end()) to->push_back(text);
  }
}

std::vector<std::string> Texts(const Json& object, const char* key) {
  std::vector<std::string> out;
  const auto it = object.find(key);
  if (it == object.end() || !it->is_array()) return out;
  for (const Json& item : *it) {
    if (item.is_string()) out.push_back(item.get<std::string>());
  }
  return out;
}

std::vector<std::string> Words(std::string_view line) {
  constexpr const char* kBlank = " \t\r\v\f";
  std::vector<std::string> out;
  for (size_t begin = 0; (begin = line.find_first_not_of(kBlank, begin)) != line.npos;) {
    const size_t end = std::min(line.find_first_of(kBlank, begin), line.size());
    out.emplace_back(line.substr(begin, end - begin));
    begin = end;
  }
  return out;
}

// The pod's replace those of the same name.
void Merge(std::vector<std::string>* options, const PodDns& pod) {
  for (const auto& [key, value] : pod.options) {
    const std::string& name = key;
    const std::string text = value ? name + ":" + *value : name;
    const auto same = std::find_if(
        options->begin(), options->end(),
        [&name](const std::string& old) { return old.substr(0, old.find(':')) == name; });
    if (same != options->end()) {
      *same = text;
    } else {
      options->push_back(text);
    }
  }
}

void FitLimits(ResolvConf* conf) {
  if (conf->servers.size() > kMaxServers) conf->servers.resize(kMaxServers);
  auto& searches = conf->searches;
  if (searches.size() > kMaxSearches) searches.resize(kMaxSearches);
  std::erase_if(searches, [](const std::string& domain) { return domain.size() > kMaxSearch; });
  size_t line = searches.empty() ? 0 : searches.size() - 1;  // the blanks
  for (const std::string& domain : searches) line += domain.size();
  while (line > kMaxSearchLine) {
    line -= searches.back().size() + 1;
    searches.pop_back();
  }
}

}  // namespace

PodDns ReadPodDns(const Json& spec) {
  PodDns out;
  if (!spec.is_object()) return out;
  if (const auto it = spec.find("dnsPolicy"); it != spec.end() && it->is_string()) {
    out.policy = it->get<std::string>();
  }
  if (const auto it = spec.find("hostNetwork"); it != spec.end() && it->is_boolean()) {
    out.host_network = it->get<bool>();
  }
  const auto config = spec.find("dnsConfig");
  if (config == spec.end() || !config->is_object()) return out;
  out.servers = Texts(*config, "nameservers");
  out.searches = Texts(*config, "searches");
  const auto options = config->find("options");
  if (options == config->end() || !options->is_array()) return out;
  for (const Json& option : *options) {
    if (!option.is_object()) continue;
    const auto name = option.find("name"), value = option.find("value");
    if (name == option.end() || !name->is_string()) continue;
    out.options.emplace_back(name->get<std::string>(),
                             value != option.end() && value->is_string()
                                 ? std::optional(value->get<std::string>())
                                 : std::nullopt);
  }
  return out;
}

ResolvConf ParseResolvConf(std::string_view text) {
  ResolvConf out;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::vector<std::string> words = Words(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (words.empty()) continue;
    const std::string key = std::move(words.front());
    words.erase(words.begin());
    if (key == "nameserver" && !words.empty()) {
      out.servers.push_back(std::move(words.front()));
    } else if (key == "search") {  // the last such line holds, as with options
      for (std::string& domain : words) {
        if (domain != "." && domain.ends_with('.')) domain.pop_back();
      }
      out.searches = std::move(words);
    } else if (key == "options") {
      out.options = std::move(words);
    }
  }
  return out;
}

std::string FormatResolvConf(const ResolvConf& conf) {
  const auto line = [](const char* key, const std::vector<std::string>& words) {
    if (words.empty()) return std::string();
    std::string text(key);
    for (const std::string& word : words) text += " " + word;
    return text + "\n";
  };
  std::string out = line("search", conf.searches);
  for (const std::string& server : conf.servers) out += "nameserver " + server + "\n";
  return out + line("options", conf.options);
}

bool UsesClusterDns(const PodDns& pod) {
  if (pod.policy == "None" || pod.policy == "Default") return false;
  // A policy that we do not know is taken for ClusterFirst, which then holds on the node's network,
  // too.
  return pod.policy == "ClusterFirstWithHostNet" || !pod.host_network ||
         (!pod.policy.empty() && pod.policy != "ClusterFirst");
}

ResolvConf ResolverOf(const PodDns& pod, std::string_view ns, const NodeDns& node) {
  ResolvConf out;
  if (UsesClusterDns(pod) && !node.cluster_servers.empty()) {
    out.servers = node.cluster_servers;
    const std::string& domain = node.cluster_domain;
    if (!domain.empty()) {
      out.searches = {std::string(ns) + ".svc." + domain, "svc." + domain, domain};
    }
    AppendNew(&out.searches, node.node.searches);
    out.options = {"ndots:5"};
  } else if (pod.policy != "None") {
    out = node.node;
  }
  AppendNew(&out.servers, pod.servers);
  AppendNew(&out.searches, pod.searches);
  Merge(&out.options, pod);
  FitLimits(&out);
  return out;
}

unsigned Ndots(const ResolvConf& conf) {
  constexpr std::string_view kKey = "ndots:";
  unsigned out = 1;
  for (const std::string& option : conf.options) {
    if (!option.starts_with(kKey)) continue;
    const char* const end = option.data() + option.size();
    unsigned value = 0;
    const auto parsed = std::from_chars(option.data() + kKey.size(), end, value);
    if (parsed.ec == std::errc() && parsed.ptr == end) out = std::min(value, kMaxNdots);
  }
  return out;
}

}  // namespace qanat::kube
