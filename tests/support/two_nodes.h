// SPDX-License-Identifier: Apache-2.0
// Two workers of the node proxy in this process, one for a client's node and one for a server's,
// over loopback: no namespaces, no capture, no control plane. What they cost is what is left when
// everything else is taken away. Needs root, and 127.88.0.0/16 of its network namespace for itself;
// where something of that is missing the process ends.
#pragma once

#include <memory>
#include <vector>

#include "common/base/fd.h"
#include "common/state/snapshot.h"
#include "common/tls/test_certs.h"
#include "ztunnel/proxy/worker.h"

namespace qanat::ztunnel::test {

class TwoNodes {
 public:
  struct Options {
    int log_fd = 2;
    bool early_data = true;
    bool same_node = false;  // both pods are the client's node's: connections go in one pass
  };
  TwoNodes() : TwoNodes(Options()) {}
  explicit TwoNodes(const Options& options);
  ~TwoNodes();
  TwoNodes(const TwoNodes&) = delete;
  TwoNodes& operator=(const TwoNodes&) = delete;

  // The server's application; a blocking socket.
  static Fd ListenAsServer();
  // The client's application calls the service; a blocking socket with TCP_NODELAY.
  static Fd Dial();
  // Ends both workers. Once.
  void Stop();
  Worker& near() { return *near_; }
  Worker& far() { return *far_; }
  const metrics::Registry& registry() const { return registry_; }
  uint64_t dropped_lines() const { return access_log_.dropped(); }

 private:
  void SetUp(Worker& worker, const char* name, const char* ip, uint64_t cookie, Role role,
             Fd listener);

  metrics::Registry registry_;
  Metrics metrics_{registry_};
  PoolMetrics pools_{registry_};
  log::LineWriter access_log_;
  Environment environment_;
  tls::testing::TestCa ca_;
  state::SnapshotPtr snapshot_;
  std::unique_ptr<Worker> near_, far_;
};

// Connections of the client to the server that stay, both ends in one hand.
class HeldConnections {
 public:
  explicit HeldConnections(size_t most);
  // So many more; over each a request of so many bytes went, and an answer as long.
  void Open(size_t count, size_t bytes);
  size_t size() const { return held_.size(); }
  void Close();

 private:
  struct Ends {
    Fd client, server;
  };
  Fd listener_ = TwoNodes::ListenAsServer();
  std::vector<Ends> held_;
};

}  // namespace qanat::ztunnel::test
