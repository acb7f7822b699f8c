// SPDX-License-Identifier: Apache-2.0
// What TLS handshakes cost, both ends together, over a pipe in memory: with the verification of the
// peer's chain every time, or remembered (common/tls/peer_verifier.h), or resumed from the ticket
// of the connection before (common/tls/tickets.h). Each connection carries one byte, so that its
// ticket is read. CPU time here; instructions under valgrind as tls_records.cc says.
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "common/tls/test_certs.h"

using namespace qanat;       // NOLINT: a program of its own
using namespace qanat::tls;  // NOLINT

namespace {

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

constexpr char kAlice[] = "spiffe://cluster.local/ns/shop/sa/alice";
constexpr char kBob[] = "spiffe://cluster.local/ns/shop/sa/bob";

size_t resumed = 0;

[[gnu::noinline]] void MeasuredHandshakes(event::EventLoop& loop, const TlsContextPtr& alice,
                                          const TlsContextPtr& bob, HandshakeShared* shared,
                                          size_t count) {
  for (size_t i = 0; i < count; ++i) {
    HandshakeOptions client, server;
    client.peer.uris = {kBob};
    client.shared = server.shared = shared;
    client.ticket_address = "10.0.0.2:15008";
    auto pair = tls::testing::Shake(loop, alice, client, bob, server, net::MakePipe(loop));
    if (!pair.client || !*pair.client || !pair.server || !*pair.server) {
      std::fprintf(stderr, "tls_handshakes: a handshake failed\n");
      std::exit(1);
    }
    uint8_t byte = 'x';
    const iovec all{&byte, 1};
    (*pair.server)->transport->Write({&all, 1});
    for (int tries = 0; tries < 100 && !(*pair.client)->transport->Read({&byte, 1}).ok(); ++tries) {
      loop.RunOnce(std::chrono::milliseconds(1));
    }
    if ((*pair.server)->peer.resumed) ++resumed;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: tls_handshakes every|remembered|resumed COUNT\n");
    return 2;
  }
  const bool resume = std::strcmp(argv[1], "resumed") == 0;
  const bool remembered = resume || std::strcmp(argv[1], "remembered") == 0;
  const size_t count = std::strtoul(argv[2], nullptr, 10);
  event::EventLoop loop;
  // As a CA with its own certificate below the root has it: a leaf and an intermediate.
  const auto root = tls::testing::TestCa::Make();
  const auto key = PrivateKey::GenerateP256();
  const auto now = tls::testing::Now();
  const Authority middle{
      *SignIntermediate(root.authority, key->public_key(), "middle", now - std::chrono::hours(1),
                        now + std::chrono::hours(2)),
      *key};
  const auto context = [&](const char* who) {
    const auto identity = tls::testing::TestCa{middle}.Issue(who);
    ContextOptions options;
    options.chain = {identity.certificate, middle.certificate};
    options.key = identity.key;
    options.roots = {root.authority.certificate};
    options.resumption = resume;
    return *TlsContext::Make(std::move(options));
  };
  const TlsContextPtr alice = context(kAlice), bob = context(kBob);
  HandshakeShared shared(loop);
  HandshakeShared* const given = remembered ? &shared : nullptr;
  MeasuredHandshakes(loop, alice, bob, given, 20);  // warm
  const double cpu = CpuSeconds();
  MeasuredHandshakes(loop, alice, bob, given, count);
  std::printf("%s %zu: %.1f cpu us a handshake (both ends), %zu resumed\n", argv[1], count,
              (CpuSeconds() - cpu) * 1e6 / static_cast<double>(count), resumed);
  return 0;
}
