// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/pods.h"

#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>

#include <atomic>
#include <mutex>

#include "common/base/log.h"

namespace qanat::ztunnel {
namespace {

constexpr auto kRetry = std::chrono::seconds(5);  // as stock ztunnel

// In the pod's namespace, or in our own where there is none to enter.
Status RunIn(const netns::NetNs* netns, const std::function<Status()>& action) {
  return netns != nullptr ? netns->Run(action) : action();
}

// The global addresses inside the namespace (getifaddrs asks by rtnetlink).
Result<std::vector<net::IpAddress>> ReadAddresses(const netns::NetNs* netns) {
  std::vector<net::IpAddress> out;
  QANAT_RETURN_IF_ERROR(RunIn(netns, [&]() -> Status {
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

// What a Pod takes from its namespace.
Status Describe(Pod& pod) {
  if (pod.netns != nullptr) {
    QANAT_ASSIGN_OR_RETURN(pod.netns_cookie, pod.netns->Cookie());
  } else {
    QANAT_ASSIGN_OR_RETURN(pod.netns_cookie, netns::OwnCookie());
  }
  QANAT_ASSIGN_OR_RETURN(pod.addresses, ReadAddresses(pod.netns.get()));
  return {};
}

}  // namespace

Pods::Pods(event::EventLoop& loop, const Environment& environment,
           std::vector<std::unique_ptr<Worker>>& workers, ListenerStock& stock,
           ListenerKeeper& keeper, std::function<void()> changed,
           std::function<void(const std::string&)> removed)
    : environment_(environment),
      workers_(workers),
      stock_(stock),
      keeper_(keeper),
      changed_(std::move(changed)),
      removed_(std::move(removed)),
      retry_(loop, [this] { RetryPending(); }) {}

void Pods::OnConnected() {
  in_snapshot_ = true;
  announced_.clear();
  keeper_.Connected();
}

void Pods::CollectKept() {
  keeper_.Collect(stock_, [this](const std::string& uid) {
    const auto it = entries_.find(uid);
    return it == entries_.end() || !it->second.up;
  });
}

void Pods::OnDisconnected() {
  in_snapshot_ = false;
  changed_();
}

void Pods::OnAdd(const zds::Add& add, std::shared_ptr<const netns::NetNs> netns, Done done) {
  announced_.insert(add.uid);
  CollectKept();
  if (const auto it = entries_.find(add.uid); it != entries_.end()) {
    const Pod& old = *it->second.pod;
    const bool same = old.netns->id() == netns->id() && old.name == add.name && old.ns == add.ns &&
                      old.service_account == add.service_account;
    if (same && it->second.up) {
      KeepAgain(add.uid);
      return done({});
    }
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
  StartOrRetry(entry);
  const Status status = entry.up ? Status() : Fail(Code::kIo, entry.error);
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

void Pods::StartOrRetry(Entry& entry) {
  const Status status = Start(entry);
  if (status) return;
  entry.error = status.error().message;
  LOG_ERROR("pods", "pod {}/{} ({}): {}; trying again in {} s", entry.pod->ns, entry.pod->name,
            entry.pod->uid, entry.error, kRetry.count());
  if (!retry_.armed()) retry_.Start(kRetry);
}

Status Pods::Start(Entry& entry) {
  auto pod = std::make_shared<Pod>(*entry.pod);
  QANAT_RETURN_IF_ERROR(Describe(*pod));
  QANAT_ASSIGN_OR_RETURN(auto listeners, Open(*pod));
  entry.pod = pod;
  entry.up = true;
  entry.error.clear();
  Hand(pod, std::move(listeners));
  stock_.Settle(pod->uid, {});
  environment_.metrics->proxies_started.Get().Add();
  LOG_INFO("pods", "proxying pod {}/{} ({}), service account {}", pod->ns, pod->name, pod->uid,
           pod->service_account);
  return {};
}

Result<std::vector<Listeners>> Pods::Open(const Pod& pod) {
  auto sets = OpenListeners(pod, environment_.config, workers_.size(), stock_.Take(pod.uid));
  // One that is kept and not among these (it did not fit, or came too late) would have no reader.
  keeper_.Forget(pod.uid);
  if (sets) {
    keeper_.Keep(pod.uid, *sets);
  } else {
    stock_.Settle(pod.uid, Fail(sets.error()));
  }
  return sets;
}

// The node agent has come back, maybe without what it kept. Copies, which are closed here once they
// are with it.
void Pods::KeepAgain(const std::string& uid) {
  if (!keeper_.present()) return;
  struct Shared {
    std::mutex mutex;
    std::vector<Listeners> sets;
    size_t left;
  };
  auto shared = std::make_shared<Shared>();
  shared->left = workers_.size();
  for (auto& worker : workers_) {
    worker->loop().Post([this, raw = worker.get(), uid, shared] {
      Listeners mine = raw->ShareListeners(uid);
      const std::lock_guard lock(shared->mutex);
      shared->sets.push_back(std::move(mine));
      if (--shared->left != 0) return;
      environment_.post_main([this, uid, shared] {
        const bool here = entries_.contains(uid) || (self_ != nullptr && self_->uid == uid);
        if (here) keeper_.Keep(uid, shared->sets);
      });
    });
  }
}

void Pods::KeepAll() {
  for (const std::string& uid : Up()) KeepAgain(uid);
}

void Pods::ForgetInherited() {
  for (const std::string& uid : stock_.Clear("the pod is not here")) keeper_.Forget(uid);
}

void Pods::Hand(const PodPtr& pod, std::vector<Listeners> listeners) {
  for (size_t i = 0; i < workers_.size(); ++i) {
    auto moved = std::make_shared<Listeners>(std::move(listeners[i]));
    Worker* worker = workers_[i].get();
    worker->loop().Post([worker, pod, moved] { worker->AddPod(pod, std::move(*moved)); });
  }
}

void Pods::AddDedicated(const PodIdentity& workload) {
  auto pod = std::make_shared<Pod>();
  pod->uid = "dedicated";
  pod->name = workload.name;
  pod->ns = workload.ns;
  pod->service_account = workload.service_account;
  Entry& entry = entries_[pod->uid];
  entry = Entry{std::move(pod), false, {}};
  StartOrRetry(entry);
  ForgetInherited();
  UpdateGauges();
  changed_();
}

Status Pods::AddSelf(const PodIdentity& self) {
  auto pod = std::make_shared<Pod>();
  pod->uid = "self";
  pod->name = self.name;
  pod->ns = self.ns;
  pod->service_account = self.service_account;
  pod->proxy_itself = true;
  QANAT_RETURN_IF_ERROR(Describe(*pod));
  QANAT_ASSIGN_OR_RETURN(auto listeners, Open(*pod));
  self_ = pod;
  Hand(pod, std::move(listeners));
  stock_.Settle(pod->uid, {});
  changed_();
  return {};
}

void Pods::OnKeep(const std::string& uid) {
  announced_.insert(uid);
  // The agent believes that an earlier proxy has it; it cannot give us its namespace.
  const auto it = entries_.find(uid);
  if (it == entries_.end()) {
    LOG_WARN("pods", "told to keep {}, which is not known here", uid);
  } else if (it->second.up) {
    KeepAgain(uid);
  }
}

void Pods::OnDel(const std::string& uid) {
  announced_.erase(uid);
  if (in_snapshot_) return;  // decided at its end
  Remove(uid);
  UpdateGauges();
  changed_();
}

void Pods::OnSnapshotSent() {
  in_snapshot_ = false;
  CollectKept();
  std::vector<std::string> gone;
  for (const auto& [uid, entry] : entries_) {
    if (!announced_.contains(uid)) gone.push_back(uid);
  }
  for (const std::string& uid : gone) Remove(uid);
  announced_.clear();
  ForgetInherited();
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
  keeper_.Forget(uid);
  removed_(uid);
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

std::vector<std::string> Pods::Up() const {
  std::vector<std::string> out;
  if (self_ != nullptr) out.push_back(self_->uid);
  for (const auto& [uid, entry] : entries_) {
    if (entry.up) out.push_back(uid);
  }
  return out;
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
  auto addresses = ReadAddresses(it->second.pod->netns.get());
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
