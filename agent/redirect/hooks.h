// SPDX-License-Identifier: Apache-2.0
// Loads, attaches, pins and replaces the programs. Pins keep everything working without us; a new
// agent replaces the program behind each pinned link, so that nothing is ever unattached.
//
//   DIR/maps/NAME            every map (DIR/next while another layout is taken over: migration.h)
//   DIR/links/connect4 ...   the node's cgroup links
//   DIR/links/pod-ID-lookup  sk_lookup of a pod
//   DIR/links/pod-ID-guard-IFINDEX, -ingress-IFINDEX      what is on the pod's devices
//   DIR/links/pod-ID-host_in-IFINDEX, -host_out-IFINDEX   ... and at the node's ends of its veths
//                            (all four tcx only: a filter below clsact has no link)
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bpf/user/link.h"
#include "bpf/user/node_maps.h"
#include "common/base/result.h"
#include "common/net/address.h"
#include "common/netns/netns.h"

namespace qanat::agent {

class Migration;

// What carries the second guard.
enum class Guard { kNone, kTcx, kClsact };

class Hooks {
 public:
  // `cgroup_root`: mount point of cgroup2. `guard`: what this kernel has. `records`: closed
  // connections are told of.
  static Result<std::unique_ptr<Hooks>> Open(const std::string& dir, const std::string& cgroup_root,
                                             Guard guard, bool records = true);
  ~Hooks();

  bpf::NodeMaps& maps() { return maps_; }
  const std::string& dir() const { return dir_; }
  const std::string& maps_dir() const { return maps_dir_; }  // where our maps are pinned now
  Guard guard() const { return guard_; }

  // Maps of another layout were found: programs are loaded, and nothing that AttachPod() is asked
  // for is in force before FinishMigration(). After it every pod wants AttachPod() once more, for
  // programs that know of one layout only.
  bool migrating() const { return migration_ != nullptr; }
  Status FinishMigration();

  // The node's links are attached with our programs; repairs what is not. An error says which.
  Status EnsureNodeLinks();
  struct LinkState {
    std::string name;
    bool attached = false;
    uint32_t program_id = 0;
  };
  std::vector<LinkState> NodeLinks() const;
  // A pod's own: "lookup", and "guard-IFINDEX" where the guard has links.
  std::vector<LinkState> PodLinks(uint32_t id) const;
  // How often a link that should have been there had to be attached anew.
  uint64_t reattached() const { return reattached_; }

  struct PodTarget {
    uint32_t id = 0;
    net::IpAddress ip4, ip6;
    const netns::NetNs* ns = nullptr;
    std::vector<uint32_t> devices;
    bool plain_inbound = false;       // Wishes::plain_inbound
    std::vector<uint32_t> host_ends;  // of its veths, in the namespace that we run in
    uint64_t cookie = 0;
    bool any_source = false;  // more addresses than source_ips has of a pod
  };
  // Loads this pod's programs and attaches them, or replaces the programs of links that are there.
  Status AttachPod(const PodTarget& pod);
  // Are they still attached, and with our programs?
  Status CheckPod(const PodTarget& pod) const;
  // Ids of all programs, ours and others', at the places where this pod's own are attached.
  Result<std::vector<uint32_t>> ProgramsAt(const PodTarget& pod) const;
  void DetachPod(uint32_t id);
  // The guard's sign was seen at the node's end of one of its veths: from now on SYNs need it.
  Status RequireSign(const PodTarget& pod);
  // Ids of pods that have pins.
  std::vector<uint32_t> PinnedPods() const;

  // Takes every pin below `dir` away; links detach with their last reference.
  static Status RemovePins(const std::string& dir);
  // Our filters at the node's interfaces: those of pods whose namespace cannot be entered too.
  static void RemoveFilters();

 private:
  struct NodePrograms;
  struct HostPrograms;
  struct Place;  // where a program goes on a device
  static const Place kPlaces[];
  Hooks(std::string dir, int cgroup, Guard guard);
  Status LoadNode(bool records);
  std::string LinkPath(const std::string& name) const { return dir_ + "/links/" + name; }
  Status EnsureLink(const std::string& name, int program,
                    const std::function<Result<bpf::Link>()>& attach);
  Status AttachPrograms(const PodTarget& pod, int lookup, int guard, int ingress);
  Status LoadHost();
  Status AttachDevices(const PodTarget& pod, int guard, int ingress);
  Status CheckDevices(const PodTarget& pod) const;
  Status AttachAt(const PodTarget& pod, const Place& place, int program);
  Status CheckPinned(const std::string& name) const;
  Status CheckAt(const PodTarget& pod, const Place& place) const;
  Status PutHostEnds(const PodTarget& pod);
  Status CheckHostEnds(const PodTarget& pod) const;
  void ForgetHostEnds(uint32_t id, const std::vector<uint32_t>& but = {});
  static void Describe(const bpf::Link& link, LinkState* state);

  std::string dir_;
  std::string maps_dir_;  // DIR/maps, or DIR/next
  std::unique_ptr<Migration> migration_;
  std::vector<std::function<Status()>> held_back_;  // what pods get in FinishMigration()
  Fd cgroup_;
  Guard guard_;
  std::unique_ptr<NodePrograms> node_;
  std::unique_ptr<HostPrograms> host_;  // none without a place for them
  // By name. Held besides the pins: a removed pin alone then detaches nothing while we live.
  std::map<std::string, bpf::Link> links_;
  std::map<std::string, uint32_t> programs_;  // by link name: what it has to run
  uint64_t reattached_ = 0;
  bpf::NodeMaps maps_;
};

}  // namespace qanat::agent
