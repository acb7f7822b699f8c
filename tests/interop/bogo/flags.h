// SPDX-License-Identifier: Apache-2.0
// What the runner asks of the shim for one connection.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace qanat::bogo {

struct Flags {
  uint16_t port = 0;
  bool ipv6 = false;
  uint64_t shim_id = 0;
  bool server = false;
  bool handshaker_asked = false;  // -is-handshaker-supported: nothing else is to be done
  std::string key_file;
  std::string cert_file;
  std::string trust_cert;
  std::string host_name;
  std::string alpn;         // one name
  std::string expect_alpn;  // where asked for
  int min_version = 0;      // 0: TLS 1.2
  int expect_version = 0;   // 0: any
  size_t read_size = 512;   // as BoringSSL's shim
  bool writes_first = false;
  bool shuts_down = false;
  bool check_close_notify = false;
  bool different_sizes = false;
  bool hand_over = false;  // ours: after the handshake and each answer, as to another process
};

// None where a flag is not known, or asks for what our transport has no words for.
std::optional<Flags> ParseFlags(int argc, char** argv);

}  // namespace qanat::bogo
