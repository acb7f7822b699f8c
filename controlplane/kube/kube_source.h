// SPDX-License-Identifier: Apache-2.0
// The Kubernetes source: every kind is listed and watched; an object's JSON goes through the same
// decoders and the same store as a file of the folder source. Synced when every kind has been
// listed once; a kind whose CRD is missing has no objects, is reported and looked for again. While
// the API server is away the last state stays. On the control plane's loop.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/kube/client.h"
#include "common/kube/reflector.h"
#include "common/yaml/yaml.h"
#include "controlplane/kube/kinds.h"
#include "controlplane/source/source.h"
#include "controlplane/source/store.h"

namespace qanat::controlplane {

class KubeSource final : public Source {
 public:
  KubeSource(event::EventLoop& loop, kube::Client& client,
             std::vector<kube::Resource> kinds = WatchedKinds());
  ~KubeSource() override;

  // Returns at once. `on_change` also comes when only the issues differ, and before synced().
  Status Start(std::function<void()> on_change) override;
  bool synced() const override;
  std::string WaitingFor() const override;
  SourceSnapshot Snapshot() const override;
  void CatchUp() override;

  // When nothing but the status of an object, which is not read into the model, has changed.
  void set_on_status(std::function<void()> on_status) { on_status_ = std::move(on_status); }
  // The `status` of an object as last seen, for those who write it; nullptr when it has none.
  const YamlNode* StatusOf(std::string_view kind, const NamespacedName& key) const;
  // Its CRD does, and in the version that we write.
  bool KindExists(std::string_view kind) const;

 private:
  struct Followed {
    std::unique_ptr<kube::Reflector> reflector;
    bool synced = false;
    bool absent = false;
    event::TimePoint failing_since{};  // not set while all is well
  };

  void Follow(const kube::Resource& resource);
  static bool Outdated(const Followed& followed);  // read in another version than ours
  void OnUpsert(const std::string& kind, const std::string& key, std::string_view json);
  void OnGone(const std::string& kind, const std::string& key);
  void Changed();
  void Deliver();
  void Recheck();
  std::vector<Issue> OwnIssues() const;

  kube::Client& client_;
  const std::vector<kube::Resource> kinds_;
  ObjectStore store_;
  std::map<std::string, Followed> followed_;             // by kind
  std::map<std::string, YamlNode, std::less<>> status_;  // "Kind ns/name"
  std::map<std::string, size_t> content_;  // hash of what counts in an object, by "Kind ns/name"
  std::vector<Issue> shown_;
  std::function<void()> on_status_;
  std::function<void()> on_change_;
  event::Timer deliver_;
  event::Timer recheck_;
  // A change waits as long as taking in the last one took: never more than half of the time goes
  // into telling, and a single change is told at once.
  event::TimePoint not_before_{};
};

}  // namespace qanat::controlplane
