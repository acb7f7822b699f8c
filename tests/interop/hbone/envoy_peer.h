// SPDX-License-Identifier: Apache-2.0
// A stock Envoy as one end of HBONE: its configuration, start and stop.
#pragma once

#include <sys/types.h>

#include <string>

#include "common/tls/test_certs.h"

namespace qanat::interop {

struct EnvoyOptions {
  // As client: takes plain connections on client_port and sends them as CONNECT for `authority`
  // through a tunnel to peer_port, whose identity must be `expect`.
  uint16_t client_port = 0;
  uint16_t peer_port = 0;
  std::string expect;
  std::string authority;
  // As server: takes tunnels on server_port from clients with identity `expect_client` and connects
  // every stream to upstream_port.
  uint16_t server_port = 0;
  uint16_t upstream_port = 0;
  std::string expect_client;
};

class Envoy {
 public:
  // Writes keys and configuration below `dir` and starts the binary; waits until its ports answer.
  Envoy(const std::string& binary, const std::string& dir, const tls::testing::TestCa& ca,
        const tls::testing::TestCa::Identity& identity, const EnvoyOptions& options);
  ~Envoy();  // SIGTERM, then SIGKILL
  bool running() const { return pid_ > 0; }
  std::string Log() const;  // what it wrote to stderr

 private:
  std::string dir_;
  pid_t pid_ = -1;
};

// The path of the binary, from $QANAT_ENVOY or by $QANAT_ENVOY_SCRIPT.
std::string FindEnvoy();

}  // namespace qanat::interop
