// SPDX-License-Identifier: Apache-2.0
// Pods of one node from the Kubernetes API: its pods and all namespaces are followed, each pod's
// network namespace comes from CNI ADD or is found through /proc. Until both are synced nothing is
// delivered; while the API server is away what was known stays. Also keeps the cache that the CNI
// plugin reads. Where no plugin tells of a new sandbox, the runtime's folder of namespaces does.
// Lives on the agent's loop; the client outlives it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "agent/pods/membership_cache.h"
#include "agent/pods/netns_finder.h"
#include "agent/pods/source.h"
#include "common/base/fd.h"
#include "common/event/event_loop.h"
#include "common/kube/client.h"
#include "common/kube/reflector.h"

namespace qanat::agent {

struct KubeSourceOptions {
  std::string node_name;
  std::string cache_path;  // empty: none is kept
  // Never in the mesh, whatever their labels say: the plugin lets their pods start unasked.
  std::set<std::string> excluded_namespaces;
  NetnsFinderOptions finder;
  event::Duration verify_every = std::chrono::seconds(1);  // are the namespaces still there?
  event::Duration find_first = std::chrono::milliseconds(50);
  event::Duration find_last = std::chrono::seconds(2);
  // Where no plugin of ours is in the runtime's chain: which addresses a namespace has, the pod's
  // first. A pod is then looked for, and handed on, before the API server tells its addresses,
  // which is up to seconds after its containers have started.
  std::function<std::vector<net::IpAddress>(const std::string& netns)> addresses_of;
  // After the runtime has made a namespace, a process in it is looked for this often and long.
  event::Duration hot_every = std::chrono::milliseconds(25);
  event::Duration hot_for = std::chrono::seconds(3);
};

// What a runtime says of a pod whose sandbox it sets up.
struct CniPod {
  std::string ns, name;
  std::string uid;  // may be unknown: empty
  std::string netns;
  std::vector<net::IpAddress> ips;
};

class KubeSource : public PodSource {
 public:
  KubeSource(event::EventLoop& loop, kube::Client& client, KubeSourceOptions options);
  ~KubeSource() override;

  // Returns at once; PodListener::OnSynced() comes when everything that exists was delivered.
  Status Start(PodListener* listener) override;
  size_t broken() const override { return broken_.size(); }
  bool synced() const { return synced_; }
  std::string last_error() const;  // "" while the API server answers

  // The sandbox is known before the API server tells its addresses: what the runtime says counts as
  // long as that namespace lives.
  void OnCniAdd(const CniPod& cni);

 private:
  struct Known;
  void OnPodJson(const std::string& key, std::string_view json);
  void OnPodGone(const std::string& key);
  void OnNamespaceJson(std::string_view json);
  void OnListed();
  void Deliver(Known& known);
  bool WantsNetns(const Known& known) const;
  void UseCni(Known& known, const CniPod& cni);
  void Find();
  bool UseFound(Known& known, const FoundNetns& found);
  void ScheduleFind();
  void WatchRuntime();
  void OnRuntime();
  void Verify();
  void ScheduleCache();
  void WriteCache();

  event::EventLoop& loop_;
  kube::Client& client_;
  KubeSourceOptions options_;
  PodListener* listener_ = nullptr;
  std::unique_ptr<kube::Reflector> pod_reflector_, namespace_reflector_;
  bool pods_listed_ = false, namespaces_listed_ = false, synced_ = false;
  std::map<std::string, std::unique_ptr<Known>> pods_;  // by namespace/name
  std::map<std::string, std::map<std::string, std::string>> namespaces_;
  std::set<std::string> broken_;
  struct EarlyCni {
    CniPod cni;
    event::TimePoint at;
  };
  std::map<std::string, EarlyCni> early_;  // the runtime was faster than the API server
  event::Timer find_, verify_, cache_;
  event::Duration find_backoff_{};
  // The folders in which the runtime names its namespaces: word of a new sandbox.
  Fd inotify_;
  std::set<std::string> unwatched_;
  std::unique_ptr<event::IoWatch> runtime_;
  event::TimePoint hot_until_{};
  MembershipCache written_;
};

}  // namespace qanat::agent
