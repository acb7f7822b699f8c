// SPDX-License-Identifier: Apache-2.0
// A stock Envoy as one end of HBONE: its configuration, start and stop.
#pragma once

#include <memory>
#include <string>

#include "common/netns/netns.h"
#include "common/tls/test_certs.h"
#include "tests/support/child.h"

namespace qanat::interop {

struct EnvoyOptions {
  // Where it runs; null: in the caller's network namespace.
  const netns::NetNs* netns = nullptr;
  // As client: takes plain connections on client_port and sends them as CONNECT for `authority`
  // through a tunnel to peer_port, whose identity must be `expect`.
  uint16_t client_port = 0;
  uint16_t peer_port = 0;
  std::string peer_ip = "127.0.0.1";
  std::string expect;
  std::string authority;
  // The same tunnel for whatever an HTTP/1.1 CONNECT on connect_port asks for: its answer is the
  // peer's answer. Only with client_port.
  uint16_t connect_port = 0;
  // As server: takes tunnels on server_port from clients with identity `expect_client` and connects
  // every stream to upstream_port: another network's gateway, where that is a node proxy's.
  uint16_t server_port = 0;
  std::string server_ip = "127.0.0.1";
  uint16_t upstream_port = 0;
  std::string upstream_ip = "127.0.0.1";
  std::string expect_client;
  int requests_per_connection = 0;  // after so many it says GOAWAY, gracefully; 0: never
  // Administration, for Stat(); with it, that Envoy is up is asked there and not by connecting.
  uint16_t admin_port = 0;
};

class Envoy {
 public:
  // Writes keys and configuration below `dir` and starts the binary; waits until its ports answer.
  Envoy(const std::string& binary, const std::string& dir, const tls::testing::TestCa& ca,
        const tls::testing::TestCa::Identity& identity, const EnvoyOptions& options);
  ~Envoy();  // SIGTERM, then SIGKILL
  bool running() const { return child_->running(); }
  std::string Log() const { return child_->Log(); }  // what it wrote to stderr
  // One line for every stream that is over, as server: "URI-SAN METHOD AUTHORITY STATUS baggage
  // forwarded x-forwarded-network".
  std::string AccessLog() const;
  // A counter or gauge; -1 when Envoy does not have it.
  long Stat(const std::string& name) const;

 private:
  bool Serves() const;
  std::string dir_;
  EnvoyOptions options_;
  std::unique_ptr<test::Child> child_;
};

// The path of the binary, from $QANAT_ENVOY or by $QANAT_ENVOY_SCRIPT.
std::string FindEnvoy();

}  // namespace qanat::interop
