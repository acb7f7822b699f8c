// SPDX-License-Identifier: Apache-2.0
// Shows that the direct path's admission by addresses and ports cannot be forged by a pod, and does
// not fail: a SYN of the pod's goes over its veth to another pod's with its source as it was, and
// one with a neighbour's address does not. The programs at the node's ends of the veths tell; the
// SYNs end there and no listener sees them. They come from ordinary sockets in the pod, so ARP and
// neighbour discovery name the pod's own address only.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "bpf/user/node_maps.h"
#include "common/event/event_loop.h"
#include "common/net/address.h"
#include "common/netns/netns.h"

namespace qanat::agent::direct {

struct PathProof {
  bool proved = false;
  std::string why_not;
  // A SYN came out of the veth with the second guard's sign, so that one without is a dodged guard.
  bool sign_crosses = false;
  bool v4 = false, v6 = false;  // to another pod
};

struct PathPod {
  std::vector<net::IpAddress> ips;
  std::vector<uint32_t> host_ends;  // node's ends of its veths
  std::string no_end;               // which of its devices has none, and why
  bool any_source = false;          // its sources are not checked
};

// One probing of one pod. Destroying it abandons it.
class PathProbe {
 public:
  using Done = std::function<void(PathProof)>;
  // `others`: addresses of other pods with such ends. The calling thread is in the node's
  // namespace. `done` is called once, on the loop, never from inside the constructor.
  PathProbe(event::EventLoop& loop, bpf::NodeMaps& maps, PathPod pod, const netns::NetNs& ns,
            const std::vector<net::IpAddress>& others, Done done);
  ~PathProbe();
  PathProbe(const PathProbe&) = delete;
  PathProbe& operator=(const PathProbe&) = delete;

 private:
  struct Attempt {
    uint32_t role = 0;
    bool to_pod = false;
    net::SocketAddress to;
    qanat_tuple tuple{};
    qanat_tuple watch{};  // what sees it if its source was changed
    Fd socket;
    std::string error;
  };
  struct Verdict {
    enum { kWait, kGood, kBad } what = kWait;
    std::string why;  // also of kWait: what to say when the time is up
  };
  void Begin(const netns::NetNs& ns, const net::IpAddress& own,
             const std::vector<net::IpAddress>& others);
  void Start(const netns::NetNs& ns, uint32_t role, const net::IpAddress& source,
             const net::IpAddress& to, bool to_pod);
  void Send(Attempt& attempt, const net::IpAddress& source);
  Verdict JudgePath(const Attempt& attempt, uint32_t seen);
  static Verdict JudgeSpoof(uint32_t seen, bool path_came, bool late);
  uint32_t SeenOf(const Attempt& attempt) const;
  void Look();

  bpf::NodeMaps& maps_;
  PathPod pod_;
  Done done_;
  std::vector<Attempt> attempts_;
  std::string alone_;  // for which family there is no other pod
  PathProof proof_;
  event::Timer timer_;
  int rounds_ = 0;
};

}  // namespace qanat::agent::direct
