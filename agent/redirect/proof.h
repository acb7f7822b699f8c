// SPDX-License-Identifier: Apache-2.0
// The proof that a pod's capture works, given by the kernel and with any proxy: tagged connections
// are followed through each hook, per address family. They are assigned to the live listener and
// then dropped, so that the proxy never sees them; no packet of theirs can leave the node.
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

// One proof of one pod. Destroying it abandons it.
class Proof {
 public:
  using Done = std::function<void(ProofReport)>;
  // `done` is called once, on the loop, never from inside the constructor.
  Proof(event::EventLoop& loop, bpf::NodeMaps& maps, uint32_t pod_id,
        const std::vector<net::IpAddress>& ips, uint32_t dns_families, const netns::NetNs& pod,
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
  };
  void Start(Attempt attempt, const net::IpAddress& source, const net::SocketAddress& destination);
  void Look();
  ProofStep Judge(const Attempt& attempt) const;

  bpf::NodeMaps& maps_;
  uint32_t pod_id_;
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
