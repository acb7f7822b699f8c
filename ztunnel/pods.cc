// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/pods.h"

#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sys/stat.h>

#include <atomic>

#include "common/base/log.h"
#include "common/net/socket.h"

namespace qanat::ztunnel {
namespace {

constexpr auto kRetry = std::chrono::seconds(5);  // as stock ztunnel

// The global addresses inside the namespace (getifaddrs asks by rtnetlink).
Result<std::vector<net::IpAddress>> ReadAddresses(const netns::NetNs& netns) {
  std::vector<net::IpAddress> out;
  QANAT_RETURN_IF_ERROR(netns.Run([&]() -> Status {
    ifaddrs* list = nullptr;
    if (getifaddrs(&list) != 0) return FailErrno("getifaddrs");
    for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
      if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_LOOPBACK) != 0) continue;
      const net::IpAddress ip = net::SocketAddress::FromSockaddr(entry->ifa_addr).ip();
      if (ip.is_set() && !ip.is_loopback() && !ip.is_link_local()) out.push_back(ip);
    }
    freeifaddrs(list);
    return {};
  }));
  return out;
}

Result<Fd> ListenIn(const netns::NetNs& netns, const Config& config, uint16_t port, bool v6) {
  net::ListenOptions options;
  options.address = net::SocketAddress(*net::IpAddress::Parse(v6 ? "::" : "0.0.0.0"), port);
  options.dual_stack = v6;
  options.reuse_port = config.reuse_port;
  options.transparent = true;
  options.mark = config.packet_mark;
  options.netns = &netns;
  auto listener = net::Listen(options);
  // Without CAP_NET_ADMIN in the pod's user namespace transparency is out of reach; the capture by
  // address rewriting works without (stock: best effort unless ENABLE_ORIG_SRC=true).
  if (!listener && listener.error().sys_errno == EPERM && !config.orig_src.value_or(false)) {
    options.transparent = false;
    listener = net::Listen(options);
  }
  return listener;
}

Result<PodListeners> OpenListeners(const netns::NetNs& netns, const Config& config, bool v6) {
  PodListeners out;
  QANAT_ASSIGN_OR_RETURN(out.outbound, ListenIn(netns, config, 15001, v6));
  QANAT_ASSIGN_OR_RETURN(out.inbound_plain, ListenIn(netns, config, 15006, v6));
  QANAT_ASSIGN_OR_RETURN(out.inbound_hbone, ListenIn(netns, config, 15008, v6));
  return out;
}

}  // namespace

Pods::Pods(event::EventLoop& loop, const Environment& environment,
           std::vector<std::unique_ptr<Worker>>& workers, std::function<void()> changed)
    : environment_(environment),
      workers_(workers),
      changed_(std::move(changed)),
      retry_(loop, [this] { RetryPending(); }) {}

void Pods::OnConnected() {
  in_snapshot_ = true;
  announced_.clear();
}

void Pods::OnDisconnected() {
  in_snapshot_ = false;
  changed_();
}

void Pods::OnAdd(const zds::Add& add, std::shared_ptr<const netns::NetNs> netns, Done done) {
  announced_.insert(add.uid);
  if (const auto it = entries_.find(add.uid); it != entries_.end()) {
    const Pod& old = *it->second.pod;
    const bool same = old.netns->id() == netns->id() && old.name == add.name && old.ns == add.ns &&
                      old.service_account == add.service_account;
    if (same && it->second.up) return done({});
    // Another namespace, or another pod under the same uid: nothing of the old one may go on.
    if (!same) Remove(add.uid);
  }
  auto pod = std::make_shared<Pod>();
  pod->uid = add.uid;
  pod->name = add.name;
  pod->ns = add.ns;
  pod->service_account = add.service_account;
  pod->netns = std::move(netns);
  Entry& entry = entries_[add.uid];
  entry = Entry{std::move(pod), false, {}};
  const Status status = Start(entry);
  if (!status) {
    entry.error = status.error().message;
    LOG_ERROR("pods", "pod {}/{} ({}): {}; trying again in {} s", add.ns, add.name, add.uid,
              entry.error, kRetry.count());
    if (!retry_.armed()) retry_.Start(kRetry);
  }
  UpdateGauges();
  changed_();
  if (!status) return done(status);
  // Acknowledged when every worker accepts. The count outlives this object's interest.
  auto left = std::make_shared<std::atomic<size_t>>(workers_.size());
  auto acknowledge = std::make_shared<Done>(std::move(done));
  for (auto& worker : workers_) {
    worker->loop().Post([this, left, acknowledge] {
      if (left->fetch_sub(1) != 1) return;
      environment_.post_main([acknowledge] { (*acknowledge)({}); });
    });
  }
}

Status Pods::Start(Entry& entry) {
  auto pod = std::make_shared<Pod>(*entry.pod);
  QANAT_ASSIGN_OR_RETURN(pod->netns_cookie, pod->netns->Cookie());
  QANAT_ASSIGN_OR_RETURN(pod->addresses, ReadAddresses(*pod->netns));
  std::vector<PodListeners> listeners;
  bool v6 = environment_.config.ipv6;
  for (size_t i = 0; i < workers_.size(); ++i) {
    auto opened = OpenListeners(*pod->netns, environment_.config, v6);
    if (!opened && v6 && i == 0 && opened.error().sys_errno == EAFNOSUPPORT) {
      v6 = false;  // a kernel or namespace without IPv6
      opened = OpenListeners(*pod->netns, environment_.config, v6);
    }
    if (!opened) return Fail(opened.error());
    listeners.push_back(std::move(*opened));
  }
  entry.pod = pod;
  entry.up = true;
  entry.error.clear();
  for (size_t i = 0; i < workers_.size(); ++i) {
    auto moved = std::make_shared<PodListeners>(std::move(listeners[i]));
    Worker* worker = workers_[i].get();
    worker->loop().Post([worker, pod, moved] { worker->AddPod(pod, std::move(*moved)); });
  }
  environment_.metrics->proxies_started.Get().Add();
  LOG_INFO("pods", "proxying pod {}/{} ({}), service account {}", pod->ns, pod->name, pod->uid,
           pod->service_account);
  return {};
}

void Pods::OnKeep(const std::string& uid) { announced_.insert(uid); }

void Pods::OnDel(const std::string& uid) {
  announced_.erase(uid);
  if (in_snapshot_) return;  // decided at its end
  Remove(uid);
  UpdateGauges();
  changed_();
}

void Pods::OnSnapshotSent() {
  in_snapshot_ = false;
  std::vector<std::string> gone;
  for (const auto& [uid, entry] : entries_) {
    if (!announced_.contains(uid)) gone.push_back(uid);
  }
  for (const std::string& uid : gone) Remove(uid);
  announced_.clear();
  UpdateGauges();
  changed_();
}

void Pods::Remove(const std::string& uid) {
  const auto it = entries_.find(uid);
  if (it == entries_.end()) return;
  if (it->second.up) {
    for (auto& worker : workers_) {
      worker->loop().Post([raw = worker.get(), uid] { raw->RemovePod(uid); });
    }
    environment_.metrics->proxies_stopped.Get().Add();
  }
  LOG_INFO("pods", "pod {}/{} ({}) removed", it->second.pod->ns, it->second.pod->name, uid);
  entries_.erase(it);
  reread_.erase(uid);
}

void Pods::RetryPending() {
  for (auto& [uid, entry] : entries_) {
    if (entry.up) continue;
    if (const Status status = Start(entry); !status) entry.error = status.error().message;
  }
  if (HasPending() && !stopped_) retry_.Start(kRetry);
  UpdateGauges();
  changed_();
}

void Pods::Stop() {
  stopped_ = true;
  retry_.Stop();
}

bool Pods::HasPending() const {
  for (const auto& [uid, entry] : entries_) {
    if (!entry.up) return true;
  }
  return false;
}

void Pods::RereadAddresses(const std::string& uid) {
  const auto it = entries_.find(uid);
  if (it == entries_.end() || !it->second.up) return;
  event::TimePoint& last = reread_[uid];
  const event::TimePoint now = event::Clock::now();
  if (last != event::TimePoint() && now - last < std::chrono::seconds(1)) return;
  last = now;
  auto addresses = ReadAddresses(*it->second.pod->netns);
  if (!addresses || *addresses == it->second.pod->addresses) return;
  auto pod = std::make_shared<Pod>(*it->second.pod);
  pod->addresses = std::move(*addresses);
  it->second.pod = pod;
  for (auto& worker : workers_) {
    worker->loop().Post([raw = worker.get(), pod] { raw->UpdatePod(pod); });
  }
}

void Pods::UpdateGauges() {
  int64_t up = 0;
  int64_t pending = 0;
  for (const auto& [uid, entry] : entries_) ++(entry.up ? up : pending);
  environment_.metrics->active_proxies.Get().Set(up);
  environment_.metrics->pending_proxies.Get().Set(pending);
}

PodPtr Pods::Find(const std::string& what) const {
  if (const auto it = entries_.find(what); it != entries_.end()) return it->second.pod;
  const auto ip = net::IpAddress::Parse(what);
  for (const auto& [uid, entry] : entries_) {
    const Pod& pod = *entry.pod;
    if (pod.ns + "/" + pod.name == what || (ip && pod.HasAddress(*ip))) return entry.pod;
  }
  return nullptr;
}

}  // namespace qanat::ztunnel
