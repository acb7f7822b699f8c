// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/kube_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "common/base/log.h"
#include "controlplane/source/json.h"

namespace qanat::controlplane {
namespace {

using kube::Reflector;

constexpr std::chrono::seconds kRecheck{1};  // what no event tells: an error that is over
// A server that has just come back refuses much that it allows a moment later.
constexpr std::chrono::seconds kPassing{3};

// Kinds whose status somebody here writes, and so must know.
constexpr auto kWithStatus = std::to_array<std::string_view>(
    {"AuthorizationPolicy", "DestinationRule", "Gateway", "GatewayClass", "HTTPRoute",
     "PeerAuthentication", "RequestAuthentication", "Service", "ServiceEntry", "VirtualService"});

// Of a Node's status, which changes every few minutes, only this is read.
constexpr std::string_view kNodeAddresses = "addresses";

void Mix(size_t& hash, size_t other) {
  hash ^= other + 0x9e3779b97f4a7c15 + (hash << 6) + (hash >> 2);
}

void HashTree(const YamlNode& node, size_t& hash) {
  Mix(hash, static_cast<size_t>(node.kind) * 2 + (node.quoted ? 1 : 0));
  Mix(hash, std::hash<std::string_view>()(node.text));
  for (const YamlNode& item : node.items) HashTree(item, hash);
  for (const YamlEntry& entry : node.entries) {
    Mix(hash, std::hash<std::string_view>()(entry.key));
    HashTree(entry.value, hash);
  }
  Mix(hash, node.items.size() + node.entries.size());
}

// What the model is made of: not the object's version, and the status only where it is read.
size_t ContentHash(std::string_view kind, const YamlNode& object) {
  const bool whole = kind == "Gateway" || kind == "Pod" || kind == "ServiceEntry";
  size_t hash = 0;
  for (const YamlEntry& entry : object.entries) {
    if (entry.key == "status" && !whole) {
      const YamlNode* addresses = kind == "Node" ? entry.value.Find(kNodeAddresses) : nullptr;
      if (addresses != nullptr) HashTree(*addresses, hash);
      continue;
    }
    Mix(hash, std::hash<std::string_view>()(entry.key));
    if (entry.key != "metadata") {
      HashTree(entry.value, hash);
      continue;
    }
    for (const YamlEntry& meta : entry.value.entries) {
      if (meta.key == "resourceVersion") continue;
      Mix(hash, std::hash<std::string_view>()(meta.key));
      HashTree(meta.value, hash);
    }
  }
  return hash;
}

std::string PlaceOf(std::string_view kind, std::string_view key) {
  return fmt::format("{} {}", kind, key);
}

}  // namespace

KubeSource::KubeSource(event::EventLoop& loop, kube::Client& client,
                       std::vector<kube::Resource> kinds)
    : client_(client),
      kinds_(std::move(kinds)),
      deliver_(loop, [this] { Deliver(); }),
      recheck_(loop, [this] { Recheck(); }) {}

KubeSource::~KubeSource() = default;

Status KubeSource::Start(std::function<void()> on_change) {
  on_change_ = std::move(on_change);
  for (const kube::Resource& resource : kinds_) Follow(resource);
  recheck_.Start(kRecheck);
  return {};
}

void KubeSource::Follow(const kube::Resource& resource) {
  const std::string kind = resource.kind;
  Followed& followed = followed_[kind];
  kube::ReflectorEvents events;
  events.on_sync = [this, kind, &followed] {
    if (!std::exchange(followed.synced, true)) LOG_DEBUG("source", "{}: synced", kind);
    if (followed.reflector->status().state != Reflector::State::kAbsent) followed.absent = false;
    Changed();
  };
  events.on_upsert = [this, kind](const std::string& key, std::string_view json) {
    OnUpsert(kind, key, json);
  };
  events.on_gone = [this, kind](const std::string& key) { OnGone(kind, key); };
  events.on_error = [this](const Error&) { Recheck(); };
  events.on_absent = [this, &followed](const Error&) {
    followed.absent = true;
    Changed();
  };
  kube::ReflectorOptions options;
  // Those that the decoders read too; Istio's CRDs before 1.22 have no v1.
  options.other_versions = {"v1beta1", "v1alpha3"};
  followed.reflector =
      std::make_unique<Reflector>(client_, resource, std::move(options), std::move(events));
}

bool KubeSource::synced() const {
  return !followed_.empty() && std::all_of(followed_.begin(), followed_.end(),
                                           [](const auto& pair) { return pair.second.synced; });
}

std::string KubeSource::WaitingFor() const {
  std::vector<std::string_view> kinds;
  for (const auto& [kind, followed] : followed_) {
    if (!followed.synced) kinds.push_back(kind);
  }
  if (kinds.empty()) return {};
  const std::string cause = client_.connection_error();
  return fmt::format("the first list of {} from the API server{}{}", fmt::join(kinds, ", "),
                     cause.empty() ? "" : ": ", cause);
}

bool KubeSource::Outdated(const Followed& followed) {
  const kube::Resource& resource = followed.reflector->resource();
  const kube::Resource* wanted = FindKind(resource.kind);
  return wanted != nullptr && wanted->version != resource.version;
}

bool KubeSource::KindExists(std::string_view kind) const {
  const auto it = followed_.find(std::string(kind));
  return it != followed_.end() && it->second.synced && !it->second.absent && !Outdated(it->second);
}

void KubeSource::OnUpsert(const std::string& kind, const std::string& key, std::string_view json) {
  const std::string place = PlaceOf(kind, key);
  Result<YamlNode> node = ParseJsonObject(json);
  if (!node) {
    content_.erase(place);
    store_.Unreadable(ObjectStore::Layer::kUser, place,
                      {Issue::Severity::kError, "", 0, place,
                       fmt::format("the API server's answer cannot be read: {}; the last good "
                                   "version of the object stays in force",
                                   node.error().message),
                       "look at it with kubectl get -o json"});
    return Changed();
  }
  if (std::find(kWithStatus.begin(), kWithStatus.end(), kind) != kWithStatus.end()) {
    const YamlNode* status = node->Find("status");
    if (status != nullptr && status->is_map() && !status->entries.empty()) {
      status_.insert_or_assign(place, *status);
    } else {
      status_.erase(place);
    }
  }
  const size_t content = ContentHash(kind, *node);
  const auto [known, fresh] = content_.try_emplace(place, content);
  if (!fresh && known->second == content) {
    if (on_status_) on_status_();
    return;
  }
  known->second = content;
  store_.Update(ObjectStore::Layer::kUser, place, DecodeObject(*node));
  Changed();
}

void KubeSource::OnGone(const std::string& kind, const std::string& key) {
  const std::string place = PlaceOf(kind, key);
  store_.Remove(ObjectStore::Layer::kUser, place);
  content_.erase(place);
  status_.erase(place);
  Changed();
}

const YamlNode* KubeSource::StatusOf(std::string_view kind, const NamespacedName& key) const {
  const auto it = status_.find(PlaceOf(kind, key.ns.empty() ? key.name : key.ToString()));
  return it == status_.end() ? nullptr : &it->second;
}

// --- Telling ----------------------------------------------------------------------------------

void KubeSource::Changed() {
  // The first lists come as one: nothing is told of halves.
  if (!synced() || deliver_.armed()) return;
  const auto wait = not_before_ - event::Clock::now();
  // Not in this round: what the same read brought comes along.
  deliver_.Start(std::max<event::Duration>(wait, event::Duration::zero()));
}

void KubeSource::Deliver() {
  const event::TimePoint began = event::Clock::now();
  shown_ = OwnIssues();
  on_change_();
  const event::TimePoint ended = event::Clock::now();
  not_before_ = ended + (ended - began);
}

void KubeSource::CatchUp() {
  if (!deliver_.armed() || event::Clock::now() < not_before_) return;
  deliver_.Stop();
  Deliver();
}

void KubeSource::Recheck() {
  recheck_.Start(kRecheck);
  const event::TimePoint now = event::Clock::now();
  for (auto& [kind, followed] : followed_) {
    if (followed.reflector->status().last_error.empty()) {
      followed.failing_since = {};
    } else if (followed.failing_since == event::TimePoint{}) {
      followed.failing_since = now;
    }
  }
  if (OwnIssues() != shown_) deliver_.Start(event::Duration::zero());
}

std::vector<Issue> KubeSource::OwnIssues() const {
  std::vector<Issue> out;
  if (const std::string why = client_.connection_error(); !why.empty()) {
    out.push_back({Issue::Severity::kError, "", 0, "API server", why,
                   synced() ? "the last known state stays in force until it is back"
                            : "nobody is served before its objects have been read"});
    return out;
  }
  const event::TimePoint now = event::Clock::now();
  for (const auto& [kind, followed] : followed_) {
    const Reflector::Status status = followed.reflector->status();
    const bool passing = status.synced && (followed.failing_since == event::TimePoint{} ||
                                           now - followed.failing_since < kPassing);
    if (followed.absent) {
      const kube::Resource& resource = followed.reflector->resource();
      out.push_back({Issue::Severity::kWarning, "", 0,
                     fmt::format("CustomResourceDefinition {}", resource.Name()),
                     fmt::format("is missing, so there are no objects of kind {}", kind),
                     fmt::format("kubectl apply the CRDs ({}); they are looked for every 30 s",
                                 resource.group == "gateway.networking.k8s.io"
                                     ? "the Gateway API's standard-install.yaml"
                                     : "qanatctl install does it")});
    } else if (Outdated(followed)) {
      const kube::Resource& resource = followed.reflector->resource();
      out.push_back({Issue::Severity::kWarning, "", 0,
                     fmt::format("CustomResourceDefinition {}", resource.Name()),
                     fmt::format("serves {} but not {}: objects of kind {} count, their status is "
                                 "not written",
                                 resource.version, FindKind(kind)->version, kind),
                     "install a newer CRD (for Istio's kinds of 1.22 or later)"});
    } else if (!status.last_error.empty() && !passing) {
      out.push_back({Issue::Severity::kError, "", 0, kind, status.last_error,
                     status.synced ? "the last known objects stay in force"
                                   : "nobody is served before they have been read"});
    }
  }
  return out;
}

SourceSnapshot KubeSource::Snapshot() const {
  SourceSnapshot out = store_.Assemble();
  for (Issue& issue : OwnIssues()) out.issues.push_back(std::move(issue));
  return out;
}

}  // namespace qanat::controlplane
