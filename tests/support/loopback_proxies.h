// SPDX-License-Identifier: Apache-2.0
// Two workers of the node proxy in this process, one for the client's node and one for the
// server's, over loopback, with no namespace, no capture and no control plane; and the two
// applications. What is counted here has nothing in it but the data path. Needs root (foreign
// source addresses, marks) and 127.NET.0.0/16 for itself.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "common/state/snapshot.h"
#include "ztunnel/proxy/worker.h"

namespace qanat::test {

class LoopbackProxies {
 public:
  struct Options {
    int net = 88;            // 127.NET.0.0/16
    bool same_node = false;  // both pods are of the one worker: connections go in one pass
  };
  // `log`: where the access log goes.
  LoopbackProxies(const Options& options, log::LineWriter& log);
  ~LoopbackProxies();
  LoopbackProxies(const LoopbackProxies&) = delete;
  LoopbackProxies& operator=(const LoopbackProxies&) = delete;

  // A connection of the client's to the service, which answers each byte with the same one. The
  // server serves one connection at a time.
  Fd Dial() const;
  static void Trip(const Fd& fd);
  // A connection from its begin to its end, with one round trip.
  void Once() const;

  ztunnel::Worker& near() { return *near_; }
  ztunnel::Worker& far() { return *far_; }  // same_node: has nothing to do
  metrics::Registry& registry() { return registry_; }

 private:
  std::string Address(int host) const;
  Fd ListenAt(const std::string& ip, uint16_t port, bool transparent) const;
  state::SnapshotPtr MakeMesh() const;
  void Serve();

  const Options options_;
  metrics::Registry registry_;
  ztunnel::Metrics metrics_{registry_};
  ztunnel::PoolMetrics pools_{registry_};
  ztunnel::Environment environment_;
  std::unique_ptr<ztunnel::Worker> near_, far_;
  Fd application_;
  std::thread server_;
};

}  // namespace qanat::test
