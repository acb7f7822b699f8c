// SPDX-License-Identifier: Apache-2.0
// The proof that a pod's capture works, given by the kernel and with any proxy: tagged connections
// are followed through each hook, per address family. They are assigned to the live listener and
// then dropped, so that the proxy never sees them; no packet of theirs can leave the node. One is
// let out past the capture, for the second guard to stop, and one spoofed bind asks for its port.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bpf/user/node_maps.h"
#include "common/event/event_loop.h"
#include "common/net/address.h"
#include "common/netns/netns.h"

namespace qanat::agent {

struct ProofStep {
  std::string name;  // "outbound/v4"
  bool passed = false;
  std::string detail;    // when not: what was not seen, and the likely cause
  bool captured = true;  // false: seen to pass the hooks by, which for a captured pod is a breach
  bool operator==(const ProofStep&) const = default;
};
struct ProofReport {
  std::vector<ProofStep> steps;
  bool passed() const;
  bool captured() const;
  std::string FirstFailure() const;
};

class DnsProbe;

struct ProofPod {
  uint32_t id = 0;
  std::vector<net::IpAddress> ips;
  uint32_t dns = 0;                        // qanat_dns_families that go to the proxy
  bool guard = false;                      // there is a second guard to be proven
  uint16_t spoof_low = 0, spoof_high = 0;  // 0: no port is given to spoofed sources
};

// One proof of one pod. Destroying it abandons it.
class Proof {
 public:
  using Done = std::function<void(ProofReport)>;
  // `done` is called once, on the loop, never from inside the constructor.
  Proof(event::EventLoop& loop, bpf::NodeMaps& maps, ProofPod pod, const netns::NetNs& ns,
        Done done);
  ~Proof();
  Proof(const Proof&) = delete;
  Proof& operator=(const Proof&) = delete;

 private:
  struct Attempt {
    std::string name;
    uint32_t role = 0;
    bool from_host = false;
    qanat_tuple tuple{};
    Fd socket;
    std::string error;
    bool taken = false;     // somebody accepted the connection
    bool answered = false;  // ... or refused it
    uint16_t port = 0;      // that a bind got
  };
  void ProveAddress(const netns::NetNs& ns, const net::IpAddress& ip);
  // False when there is no way from here to there.
  bool Start(Attempt attempt, const net::IpAddress& source, const net::SocketAddress& destination);
  void StartBind(Attempt attempt, const net::IpAddress& source);
  // Runs `start` inside the pod; that it cannot be entered is the attempt's error.
  void Inside(const netns::NetNs& ns, const Attempt& attempt, const std::function<void()>& start);
  void Look();
  ProofStep Judge(const Attempt& attempt) const;

  bpf::NodeMaps& maps_;
  ProofPod pod_;
  Done done_;
  std::vector<Attempt> attempts_;
  std::vector<std::unique_ptr<DnsProbe>> questions_;
  event::Timer timer_;
  int rounds_ = 0;
};

// Pure: what the bits of one probe mean.
ProofStep JudgeProbe(const std::string& name, uint32_t role, bool from_host, uint32_t pod_id,
                     const qanat_probe& seen);

}  // namespace qanat::agent
