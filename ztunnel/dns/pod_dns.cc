// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/dns/pod_dns.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "common/base/fd.h"
#include "common/base/log.h"

namespace qanat::ztunnel::dns {
namespace {

constexpr auto kLookAgain = std::chrono::seconds(3);
constexpr size_t kMaxFile = 64 << 10;
constexpr size_t kPodServers = 3;                   // as many as a pod's resolv.conf has
constexpr size_t kMaxServers = 8, kMaxSearch = 32;  // as many search domains as a pod may have
constexpr uint16_t kPort = 53;

std::optional<net::SocketAddress> ParseServer(std::string_view text) {
  if (const auto ip = net::IpAddress::Parse(text)) return net::SocketAddress(*ip, kPort);
  const auto address = net::SocketAddress::Parse(text);
  if (!address || address->port() == 0) return std::nullopt;
  return *address;
}

std::string Domain(std::string_view text) {
  if (text.ends_with('.')) text.remove_suffix(1);
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return out;
}

}  // namespace

Result<PodFile> ParsePodFile(std::string_view json) {
  const auto root = nlohmann::json::parse(json, nullptr, false);
  if (!root.is_object()) return Fail(Code::kInvalidArgument, "not a JSON object");
  PodFile out;
  const auto texts = [&](const char* key, auto take) -> Status {
    const auto it = root.find(key);
    if (it == root.end()) return {};
    if (!it->is_array()) return Fail(Code::kInvalidArgument, std::string(key) + ": not a list");
    for (const auto& item : *it) {
      if (!item.is_string() || !take(item.get_ref<const std::string&>())) {
        return Fail(Code::kInvalidArgument,
                    std::string(key) + ": cannot read " +
                        item.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
      }
    }
    return {};
  };
  if (root.contains("nameservers")) out.servers.emplace();
  if (root.contains("search")) out.search.emplace();
  QANAT_RETURN_IF_ERROR(texts("nameservers", [&](const std::string& text) {
    const auto address = ParseServer(text);
    if (address && out.servers->size() < kMaxServers) out.servers->push_back({*address, true});
    return address.has_value();
  }));
  QANAT_RETURN_IF_ERROR(texts("more_nameservers", [&](const std::string& text) {
    const auto address = ParseServer(text);
    if (address && out.more.size() < kMaxServers) out.more.push_back({*address, true});
    return address.has_value();
  }));
  QANAT_RETURN_IF_ERROR(texts("search", [&](const std::string& text) {
    if (text != "." && out.search->size() < kMaxSearch) out.search->push_back(Domain(text));
    return true;
  }));
  return out;
}

std::vector<NameServer> ParseResolvConf(std::string_view text) {
  std::vector<NameServer> out;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    constexpr std::string_view kKey = "nameserver";
    constexpr const char* kBlank = " \t\r";
    if (!line.starts_with(kKey)) continue;
    line.remove_prefix(kKey.size());
    const size_t begin = line.find_first_not_of(kBlank);
    if (begin == 0 || begin == std::string_view::npos) continue;
    line.remove_prefix(begin);
    line = line.substr(0, line.find_first_of(kBlank));
    const auto ip = net::IpAddress::Parse(line);
    if (ip && out.size() < kMaxServers) {
      out.push_back({net::SocketAddress(*ip, kPort), !ip->is_loopback()});
    }
  }
  return out;
}

std::string PodFilePath(const std::string& agent_socket, const std::string& uid) {
  const bool plain = !uid.empty() && uid.size() <= 128 && uid.front() != '.' &&
                     std::all_of(uid.begin(), uid.end(), [](char c) {
                       return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                              (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.';
                     });
  const size_t slash = agent_socket.rfind('/');
  if (!plain || slash == std::string::npos) return "";
  return agent_socket.substr(0, slash) + "/dns/" + uid;
}

bool PodDnsSettings::File::Changed() {
  struct stat now{};
  int error = path.empty() ? ENOENT : 0;
  if (error == 0 && stat(path.c_str(), &now) != 0) error = errno;
  if (error != 0) now = {};
  const bool same = now.st_mtim.tv_sec == modified.tv_sec &&
                    now.st_mtim.tv_nsec == modified.tv_nsec && now.st_size == size &&
                    now.st_ino == inode && error == trouble;
  trouble = error;
  modified = now.st_mtim;
  size = now.st_size;
  inode = now.st_ino;
  return !same;
}

bool PodDnsSettings::File::Absent() const { return trouble == ENOENT || trouble == ENOTDIR; }

Result<std::string> PodDnsSettings::File::Read() const {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return FailErrno("open " + path);
  std::string out(kMaxFile, '\0');
  size_t have = 0;
  while (have < out.size()) {
    const ssize_t n = read(fd.get(), out.data() + have, out.size() - have);
    if (n < 0) return FailErrno("read " + path);
    if (n == 0) break;
    have += static_cast<size_t>(n);
  }
  out.resize(have);
  return out;
}

PodDnsSettings::PodDnsSettings(std::string pod_file, std::string resolv_conf, std::string_view ns,
                               const std::string& cluster_domain)
    : pod_file_{std::move(pod_file)}, resolv_conf_{std::move(resolv_conf)} {
  const std::string domain = Domain(cluster_domain);
  default_search_ = {std::string(ns) + ".svc." + domain, "svc." + domain, domain};
}

const PodDns& PodDnsSettings::Get(event::TimePoint now) {
  if (!looked_ || now - *looked_ >= kLookAgain) {
    looked_ = now;
    const bool pod = pod_file_.Changed();
    const bool own = resolv_conf_.Changed();
    if (pod || own) Load();
  }
  return dns_;
}

void PodDnsSettings::Load() {
  PodFile file;
  if (!pod_file_.Absent()) {
    const auto text = pod_file_.Read();
    auto parsed = text ? ParsePodFile(*text) : Fail(text.error());
    if (parsed) {
      file = std::move(*parsed);
    } else {
      // Whose servers they would be is not known: the node's may be the wrong ones, or not to be
      // told what this pod asks.
      LOG_WARN("dns", "{}: {}; {}", pod_file_.path, parsed.error().message,
               own_ ? "what it said before holds"
                    : "the pod has no name servers: only names of the mesh are answered");
      if (own_) return;
      dns_ = {{}, default_search_};
      return;
    }
  }
  own_ = !pod_file_.Absent();
  PodDns dns;
  if (file.servers) {
    dns.servers = std::move(*file.servers);
  } else if (const auto text = resolv_conf_.Read()) {
    dns.servers = ParseResolvConf(*text);
    if (dns.servers.empty()) {
      LOG_WARN("dns", "{} has no nameserver: only names of the mesh are answered",
               resolv_conf_.path);
    }
  } else {
    LOG_WARN("dns", "{}: only names of the mesh are answered", text.error().message);
  }
  for (const NameServer& server : file.more) {
    const bool there = std::any_of(dns.servers.begin(), dns.servers.end(), [&](const auto& other) {
      return other.address == server.address;
    });
    if (!there && dns.servers.size() < kPodServers) dns.servers.push_back(server);
  }
  dns.search = file.search ? std::move(*file.search) : default_search_;
  dns_ = std::move(dns);
}

}  // namespace qanat::ztunnel::dns
