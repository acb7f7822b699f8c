// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/dns_files.h"

#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "agent/files/files.h"
#include "common/base/log.h"
#include "common/net/address.h"

namespace qanat::agent {
namespace {

constexpr size_t kMaxResolvConf = 64 << 10;

// A server that is no plain address (a zone, a typing error of the node's) would make the proxy
// doubt the whole file.
nlohmann::json Addresses(const std::vector<std::string>& servers) {
  auto out = nlohmann::json::array();
  for (const std::string& text : servers) {
    if (const auto ip = net::IpAddress::Parse(text)) out.push_back(ip->ToString());
  }
  return out;
}

}  // namespace

std::string FormatDnsFile(const Pod& pod, const kube::NodeDns& node) {
  const bool theirs = node.cluster_servers.empty() && kube::UsesClusterDns(pod.dns);
  kube::NodeDns with = node;
  if (theirs) with.cluster_servers = {""};  // one at least, and they are the first
  kube::ResolvConf conf = kube::ResolverOf(pod.dns, pod.ns, with);
  if (theirs) conf.servers.erase(conf.servers.begin());
  nlohmann::json out = {{"search", conf.searches}, {"ndots", kube::Ndots(conf)}};
  const nlohmann::json servers = Addresses(conf.servers);
  if (!theirs) {
    out["nameservers"] = servers;
  } else if (!servers.empty()) {
    out["more_nameservers"] = servers;
  }
  return out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void DnsFiles::Put(const Pod& pod) {
  kube::NodeDns node{options_.cluster_servers, options_.cluster_domain, {}};
  if (const auto text = ReadFile(options_.resolv_conf, kMaxResolvConf)) {
    node.node = kube::ParseResolvConf(*text);
    complained_ = false;
  } else if (!std::exchange(complained_, true)) {
    LOG_WARN("pods", "{}: of the node's name servers and search list nothing is known",
             text.error().message);
  }
  std::string content = FormatDnsFile(pod, node);
  const auto it = written_.find(pod.uid);
  if (it != written_.end() && it->second == content) return;
  if (Status done = Write(pod.uid, content); !done) {
    LOG_WARN("pods", "{}: the proxy is not told its DNS settings: {}", pod.FullName(),
             done.error().message);
    return;
  }
  written_[pod.uid] = std::move(content);
}

Status DnsFiles::Write(const std::string& uid, const std::string& content) const {
  std::error_code error;
  std::filesystem::create_directories(options_.dir, error);
  std::filesystem::permissions(options_.dir, std::filesystem::perms(0755), error);
  return WriteFileAtomically(PathOf(uid), content, {.mode = 0644});
}

void DnsFiles::Restore() {
  for (const auto& [uid, content] : written_)
    if (::access(PathOf(uid).c_str(), F_OK) != 0)
      if (Status done = Write(uid, content); !done) LOG_WARN("pods", "{}", done.error().message);
}

void DnsFiles::Remove(const std::string& uid) {
  if (written_.erase(uid) == 0) return;
  if (Status done = RemoveFile(PathOf(uid)); !done) LOG_WARN("pods", "{}", done.error().message);
}

void DnsFiles::OnSynced() {
  std::vector<std::string> stale;
  std::error_code error;
  for (std::filesystem::directory_iterator it(options_.dir, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!written_.contains(name)) stale.push_back(it->path().string());
  }
  for (const std::string& path : stale) (void)RemoveFile(path);
}

}  // namespace qanat::agent
