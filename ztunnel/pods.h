// SPDX-License-Identifier: Apache-2.0
// The pods of this node: what the node agent announced (ZDS), which of them are proxied, which are
// to be tried again. Opens the listeners inside each pod's namespace and hands them to the workers.
// Lives on the main thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "ztunnel/pod.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/takeover/stock.h"
#include "ztunnel/zds/client.h"

namespace qanat::ztunnel {

class Pods final : public zds::PodSink {
 public:
  struct Entry {
    PodPtr pod;
    bool up = false;
    std::string error;  // why it is not
  };

  // `changed` after any change of the set (readiness, prefetching of certificates).
  Pods(event::EventLoop& loop, const Environment& environment,
       std::vector<std::unique_ptr<Worker>>& workers, ListenerStock& stock, ListenerKeeper& keeper,
       std::function<void()> changed, std::function<void(const std::string& uid)> removed);

  void OnConnected() override;
  void OnAdd(const zds::Add& add, std::shared_ptr<const netns::NetNs> netns, Done done) override;
  void OnKeep(const std::string& uid) override;
  void OnDel(const std::string& uid) override;
  void OnSnapshotSent() override;
  void OnDisconnected() override;

  // Gives the listeners of all pods to who keeps them, once more.
  void KeepAll();

  // PROXY_MODE=dedicated: the one workload, in the proxy's own namespace. Tried again like the
  // others.
  void AddDedicated(const PodIdentity& workload);
  // The proxy's own pod also takes HBONE, for who scrapes its metrics. Not among the entries:
  // nothing waits for it.
  Status AddSelf(const PodIdentity& self);
  PodPtr self() const { return self_; }

  // Reads the pod's addresses again (at most once a second each).
  void RereadAddresses(const std::string& uid);
  void Stop();  // no retries any more

  const std::map<std::string, Entry>& entries() const { return entries_; }
  bool HasPending() const;
  std::vector<std::string> Up() const;  // uids of the pods that are served, our own among them
  // By uid, "ns/name" or one of its addresses.
  PodPtr Find(const std::string& what) const;

 private:
  Status Start(Entry& entry);
  void StartOrRetry(Entry& entry);
  // The pod's listeners, inherited ones where there are some.
  Result<std::vector<Listeners>> Open(const Pod& pod);
  void ForgetInherited();
  void CollectKept();
  void KeepAgain(const std::string& uid);
  void Hand(const PodPtr& pod, std::vector<Listeners> listeners);
  void Remove(const std::string& uid);
  void RetryPending();
  void UpdateGauges();

  const Environment& environment_;
  std::vector<std::unique_ptr<Worker>>& workers_;
  ListenerStock& stock_;
  ListenerKeeper& keeper_;
  std::function<void()> changed_;
  std::function<void(const std::string&)> removed_;
  std::map<std::string, Entry> entries_;  // by uid
  PodPtr self_;
  std::set<std::string> announced_;  // since the connection was made
  bool in_snapshot_ = false;
  bool stopped_ = false;
  std::map<std::string, event::TimePoint> reread_;
  event::Timer retry_;
};

}  // namespace qanat::ztunnel
