// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/kube_source.h"

#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "agent/files/notify.h"
#include "agent/pods/kube_pod.h"
#include "common/base/log.h"

namespace qanat::agent {
namespace {

// New pods wait for us: not for long once the API server is back.
constexpr auto kBackoffMax = std::chrono::seconds(3);
constexpr auto kCacheDelay = std::chrono::milliseconds(100);
constexpr auto kEarlyLifetime = std::chrono::minutes(5);
constexpr size_t kMaxEarly = 1024;

const kube::Resource kPods{"", "v1", "pods", "Pod", true};
const kube::Resource kNamespaces{"", "v1", "namespaces", "Namespace", false};

bool Finished(const Pod& pod) { return pod.phase == "Succeeded" || pod.phase == "Failed"; }

}  // namespace

struct KubeSource::Known {
  Pod pod;  // as last delivered, or to be
  netns::Id netns_id;
  bool from_cni = false;  // netns and addresses are the runtime's word
  bool guessed = false;   // the addresses are those that the namespace has
  bool delivered = false;
  Pod last;
};

KubeSource::KubeSource(event::EventLoop& loop, kube::Client& client, KubeSourceOptions options)
    : loop_(loop),
      client_(client),
      options_(std::move(options)),
      find_(loop, [this] { Find(); }),
      verify_(loop, [this] { Verify(); }),
      cache_(loop, [this] { WriteCache(); }) {}

KubeSource::~KubeSource() = default;

Status KubeSource::Start(PodListener* listener) {
  listener_ = listener;
  auto complain = [](const Error& error) { LOG_WARN("pods", "{}", error.message); };
  kube::ReflectorEvents pods;
  pods.on_sync = [this] {
    pods_listed_ = true;
    OnListed();
  };
  pods.on_upsert = [this](const std::string& key, std::string_view json) { OnPodJson(key, json); };
  pods.on_gone = [this](const std::string& key) { OnPodGone(key); };
  pods.on_error = complain;
  pods.on_absent = complain;
  kube::ReflectorOptions all_namespaces;
  all_namespaces.backoff_max = kBackoffMax;
  kube::ReflectorOptions of_node = all_namespaces;
  of_node.field_selector = "spec.nodeName=" + options_.node_name;

  kube::ReflectorEvents namespaces;
  namespaces.on_sync = [this] {
    namespaces_listed_ = true;
    OnListed();
  };
  namespaces.on_upsert = [this](const std::string&, std::string_view json) {
    OnNamespaceJson(json);
  };
  // Its pods are gone before a namespace is; what we know of it harms nobody.
  namespaces.on_gone = [this](const std::string& name) {
    const std::string prefix = name + "/";
    auto pod = pods_.lower_bound(prefix);
    if (pod == pods_.end() || pod->first.rfind(prefix, 0) != 0) namespaces_.erase(name);
    ScheduleCache();
  };
  namespaces.on_error = complain;
  namespaces.on_absent = complain;

  namespace_reflector_ = std::make_unique<kube::Reflector>(
      client_, kNamespaces, std::move(all_namespaces), std::move(namespaces));
  pod_reflector_ =
      std::make_unique<kube::Reflector>(client_, kPods, std::move(of_node), std::move(pods));
  verify_.Start(options_.verify_every);
  inotify_ = OpenInotify("the runtime's network namespaces", "second");
  unwatched_ = {options_.finder.netns_dirs.begin(), options_.finder.netns_dirs.end()};
  WatchRuntime();
  return {};
}

// A folder that does not exist yet is tried again at each verification.
void KubeSource::WatchRuntime() {
  if (!inotify_ || unwatched_.empty()) return;
  const size_t before = unwatched_.size();
  std::erase_if(unwatched_, [this](const std::string& dir) {
    return ::access(dir.c_str(), F_OK) == 0 &&
           AddInotifyWatch(inotify_, dir,
                           IN_CREATE | IN_MOVED_TO | IN_DELETE | IN_MOVED_FROM | IN_ONLYDIR,
                           "second", true);
  });
  if (runtime_ && unwatched_.size() < before) OnRuntime();  // it may have named some already
  if (!runtime_)
    runtime_ = std::make_unique<event::IoWatch>(loop_, inotify_.get(), EPOLLIN,
                                                [this](uint32_t) { OnRuntime(); });
}

// The file comes first, then the network in it, then the sandbox's process, by which we know whose
// it is.
void KubeSource::OnRuntime() {
  char buffer[4096];
  while (::read(inotify_.get(), buffer, sizeof buffer) > 0) {
  }
  hot_until_ = loop_.now() + options_.hot_for;
  find_backoff_ = {};
  bool wanted = false;
  for (const auto& [key, known] : pods_) wanted |= WantsNetns(*known);
  if (wanted && synced_) find_.Start(options_.hot_every);
}

std::string KubeSource::last_error() const {
  for (const auto* reflector : {pod_reflector_.get(), namespace_reflector_.get()})
    if (reflector && !reflector->status().last_error.empty()) return reflector->status().last_error;
  return "";
}

void KubeSource::OnListed() {
  if (synced_ || !pods_listed_ || !namespaces_listed_) return;
  synced_ = true;
  LOG_INFO("pods", "synced with the API server: {} pods of node {}, {} namespaces", pods_.size(),
           options_.node_name, namespaces_.size());
  // One look at /proc before anything is delivered: the proxy's first snapshot needs the
  // namespaces.
  Find();
  for (auto& [key, known] : pods_) Deliver(*known);
  WriteCache();
  listener_->OnSynced();
}

void KubeSource::OnPodJson(const std::string& key, std::string_view json) {
  auto parsed = ParseKubePod(json);
  if (!parsed) {
    LOG_WARN("pods", "{}; the pod stays as it was", parsed.error().message);
    broken_.insert(key);
    return;
  }
  broken_.erase(key);
  auto& slot = pods_[key];
  if (slot && slot->pod.uid != parsed->uid) {  // deleted and made anew under the same name
    if (slot->delivered) listener_->OnPodGone(slot->pod.uid);
    slot.reset();
  }
  const bool fresh = !slot;
  if (fresh) slot = std::make_unique<Known>();
  Known& known = *slot;
  const Pod before = std::move(known.pod);
  known.pod = std::move(*parsed);
  known.pod.netns = before.netns;
  const bool was_guessed = known.guessed;
  if (known.guessed && !known.pod.ips.empty()) {  // now they are known, and the namespace stays
    known.guessed = known.from_cni = false;
    if (before.ips != known.pod.ips)
      LOG_INFO("pods", "{}: its addresses are others than its first interface's", key);
  }
  known.pod.excluded = options_.excluded_namespaces.count(known.pod.ns) > 0;
  if (known.from_cni || known.pod.ips.empty()) {
    known.pod.ips = before.ips;
  } else if (!was_guessed && !before.ips.empty() && before.ips != known.pod.ips) {
    known.pod.netns.clear();  // other addresses: another sandbox, most likely
  }
  if (auto early = early_.find(key); fresh && early != early_.end()) {
    if (early->second.cni.uid.empty() || early->second.cni.uid == known.pod.KubeletUid())
      UseCni(known, early->second.cni);
    early_.erase(early);
  }
  Deliver(known);
  ScheduleCache();
}

void KubeSource::OnPodGone(const std::string& key) {
  broken_.erase(key);
  auto it = pods_.find(key);
  if (it == pods_.end()) return;
  const auto known = std::move(it->second);
  pods_.erase(it);
  if (known->delivered) listener_->OnPodGone(known->pod.uid);
  ScheduleCache();
}

void KubeSource::OnNamespaceJson(std::string_view json) {
  auto parsed = ParseKubeNamespace(json);
  if (!parsed) {
    LOG_WARN("pods", "{}", parsed.error().message);
    return;
  }
  auto it = namespaces_.find(parsed->name);
  if (it != namespaces_.end() && it->second == parsed->labels) return;
  const std::string prefix = parsed->name + "/";
  namespaces_[parsed->name] = std::move(parsed->labels);
  for (auto pod = pods_.lower_bound(prefix); pod != pods_.end() && pod->first.rfind(prefix, 0) == 0;
       ++pod)
    Deliver(*pod->second);
  ScheduleCache();
}

// Only with the namespace's labels: without them a pod would seem to have left the mesh.
void KubeSource::Deliver(Known& known) {
  auto labels = namespaces_.find(known.pod.ns);
  if (labels == namespaces_.end()) return;
  known.pod.namespace_labels = labels->second;
  if (!synced_) return;
  if (WantsNetns(known)) ScheduleFind();
  if (known.delivered && known.last == known.pod) return;
  known.delivered = true;
  known.last = known.pod;
  listener_->OnPod(known.pod);
}

// A pod without addresses has no sandbox yet, or its runtime tells us itself.
bool KubeSource::WantsNetns(const Known& known) const {
  return known.pod.netns.empty() && (!known.pod.ips.empty() || options_.addresses_of) &&
         !Finished(known.pod) && DecideMembership(known.pod).in_mesh;
}

void KubeSource::UseCni(Known& known, const CniPod& cni) {
  auto id = NetnsIdOf(cni.netns);
  if (!id) {
    LOG_WARN("pods", "{}/{}: {} (is /var/run/netns of the node mounted here, HostToContainer?)",
             cni.ns, cni.name, id.error().message);
    return;
  }
  known.pod.netns = cni.netns;
  known.netns_id = *id;
  if (!cni.ips.empty()) {
    known.pod.ips = cni.ips;
    SortIps(&known.pod.ips);
    known.from_cni = true;
  }
}

void KubeSource::OnCniAdd(const CniPod& cni) {
  if (cni.netns.empty()) return;
  const std::string key = cni.ns + "/" + cni.name;
  auto it = pods_.find(key);
  if (it != pods_.end() && (cni.uid.empty() || it->second->pod.KubeletUid() == cni.uid)) {
    UseCni(*it->second, cni);
    Deliver(*it->second);
    return;
  }
  const auto now = loop_.now();
  for (auto old = early_.begin(); old != early_.end();)
    old = now - old->second.at > kEarlyLifetime ? early_.erase(old) : std::next(old);
  if (early_.size() < kMaxEarly) early_[key] = {cni, now};
}

void KubeSource::ScheduleFind() {
  if (find_.armed()) return;
  find_.Start(find_backoff_ == event::Duration{} ? options_.find_first : find_backoff_);
}

void KubeSource::Find() {
  std::set<std::string> uids;
  for (auto& [key, known] : pods_) {
    auto labels = namespaces_.find(known->pod.ns);
    if (labels != namespaces_.end()) known->pod.namespace_labels = labels->second;
    if (WantsNetns(*known)) uids.insert(known->pod.KubeletUid());
  }
  auto found = FindNetns(uids, options_.finder);
  if (!found) LOG_WARN("pods", "{}", found.error().message);
  bool missing = false;
  for (auto& [key, known] : pods_) {
    if (!WantsNetns(*known)) continue;
    const FoundNetns* netns = nullptr;
    if (found)
      if (auto it = found->find(known->pod.KubeletUid()); it != found->end()) netns = &it->second;
    if (!netns || !UseFound(*known, *netns)) {
      missing = true;
      continue;
    }
    LOG_DEBUG("pods", "{}: its network namespace is {}", key, netns->path);
    Deliver(*known);
  }
  find_backoff_ = !missing                   ? event::Duration{}
                  : loop_.now() < hot_until_ ? options_.hot_every
                  : find_backoff_ == event::Duration{}
                      ? options_.find_first
                      : std::min<event::Duration>(find_backoff_ * 2, options_.find_last);
  if (missing && synced_) ScheduleFind();
}

bool KubeSource::UseFound(Known& known, const FoundNetns& found) {
  if (known.pod.ips.empty()) {
    known.pod.ips = options_.addresses_of(found.path);
    SortIps(&known.pod.ips);
    if (known.pod.ips.empty()) return false;  // not set up yet
    known.guessed = known.from_cni = true;
  } else {
    known.from_cni = false;
  }
  known.pod.netns = found.path;
  known.netns_id = found.id;
  return true;
}

// A namespace that went, or whose path shows another one now, means a new sandbox, or the end.
void KubeSource::Verify() {
  for (auto& [key, known] : pods_) {
    if (known->pod.netns.empty()) continue;
    auto id = NetnsIdOf(known->pod.netns);
    if (id && *id == known->netns_id) continue;
    LOG_INFO("pods", "{}: its network namespace {} is gone: looking for another", key,
             known->pod.netns);
    known->pod.netns.clear();
    known->from_cni = false;
    if (std::exchange(known->guessed, false)) known->pod.ips.clear();
    if (WantsNetns(*known)) ScheduleFind();
  }
  WatchRuntime();
  verify_.Start(options_.verify_every);
}

void KubeSource::ScheduleCache() {
  if (synced_ && !options_.cache_path.empty() && !cache_.armed()) cache_.Start(kCacheDelay);
}

void KubeSource::WriteCache() {
  if (options_.cache_path.empty()) return;
  MembershipCache cache;
  for (const auto& [name, labels] : namespaces_) {
    auto mode = labels.find("istio.io/dataplane-mode");
    cache.namespaces[name] = mode == labels.end() ? "" : mode->second;
  }
  for (const auto& [key, known] : pods_)
    if (!known->pod.host_network)
      cache.pods[key] = {known->pod.KubeletUid(), DecideMembership(known->pod).in_mesh};
  if (cache == written_) return;
  if (Status done = SaveMembershipCache(options_.cache_path, cache); !done) {
    LOG_WARN("pods", "the plugin's cache is not written: {}", done.error().message);
    cache_.Start(std::chrono::seconds(5));
    return;
  }
  written_ = std::move(cache);
}

}  // namespace qanat::agent
