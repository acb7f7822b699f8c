// SPDX-License-Identifier: Apache-2.0
#include "tests/interop/bogo/flags.h"

#include <cstdlib>
#include <set>
#include <string_view>

namespace qanat::bogo {
namespace {

// What is so anyway: our transports are never blocking, verify the server, resume nothing here.
const std::set<std::string_view> kNoDifference = {"-async",
                                                  "-verify-peer",
                                                  "-no-tls1",
                                                  "-no-tls11",
                                                  "-no-ssl3",
                                                  "-use-custom-verify-callback",
                                                  "-no-ticket",
                                                  "-expect-session-miss",
                                                  "-expect-no-session",
                                                  "-implicit-handshake",
                                                  "-no-op-extra-handshake",
                                                  "-use-old-client-cert-callback"};

// -select-alpn and -advertise-alpn of one name. The latter comes with its length in front.
std::optional<std::string> OneName(std::string_view wire) {
  if (wire.empty() || static_cast<uint8_t>(wire[0]) + 1u != wire.size()) return std::nullopt;
  return std::string(wire.substr(1));
}

bool Switch(std::string_view name, Flags& to) {
  if (name == "-server") {
    to.server = true;
  } else if (name == "-ipv6") {
    to.ipv6 = true;
  } else if (name == "-hand-over") {
    to.hand_over = true;
  } else if (name == "-no-tls12") {
    to.min_version = 772;
  } else if (name == "-is-handshaker-supported") {
    to.handshaker_asked = true;
  } else if (name == "-shim-writes-first") {
    to.writes_first = true;
  } else if (name == "-shim-shuts-down") {
    to.shuts_down = true;
  } else if (name == "-check-close-notify") {
    to.check_close_notify = true;
  } else if (name == "-write-different-record-sizes") {
    to.different_sizes = true;
  } else {
    return kNoDifference.contains(name);
  }
  return true;
}

// True: the flag is one that has a value.
bool Value(std::string_view name, const char* value, Flags& to) {
  if (name == "-port") {
    to.port = static_cast<uint16_t>(std::atoi(value));
  } else if (name == "-shim-id") {
    to.shim_id = std::strtoull(value, nullptr, 10);
  } else if (name == "-key-file") {
    to.key_file = value;
  } else if (name == "-cert-file") {
    to.cert_file = value;
  } else if (name == "-trust-cert") {
    to.trust_cert = value;
  } else if (name == "-host-name") {
    to.host_name = value;
  } else if (name == "-select-alpn") {
    to.alpn = value;
  } else if (name == "-advertise-alpn") {
    auto one = OneName(value);
    if (!one) return false;
    to.alpn = *one;
  } else if (name == "-expect-alpn") {
    to.expect_alpn = value;
  } else if (name == "-min-version") {
    to.min_version = std::atoi(value);
  } else if (name == "-expect-version") {
    to.expect_version = std::atoi(value);
  } else if (name == "-read-size") {
    to.read_size = static_cast<size_t>(std::atoi(value));
  } else if (name == "-max-version") {
    return std::atoi(value) == 772;
  } else {
    return false;
  }
  return true;
}

}  // namespace

std::optional<Flags> ParseFlags(int argc, char** argv) {
  Flags flags;
  bool verify = false;
  for (int i = 1; i < argc; ++i) {
    if (argv[i] == std::string_view("-verify-peer")) verify = true;
    if (Switch(argv[i], flags)) continue;
    if (i + 1 == argc || !Value(argv[i], argv[i + 1], flags)) return std::nullopt;
    ++i;
  }
  // Our servers ask for a SPIFFE id, which the runner's clients have not.
  if (flags.server && verify) return std::nullopt;
  return flags;
}

}  // namespace qanat::bogo
