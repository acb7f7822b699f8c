// SPDX-License-Identifier: Apache-2.0
// What TLS records cost: bulk as the HBONE session writes it (a 9-byte frame header and a payload
// for each record, 64 KiB at a time) and round trips of one byte, over a socket pair, by
// BoringSSL's record layer or by ours. Wall and CPU time here; instructions under
//   strip -g tls_records (Valgrind does not read clang's DWARF), then
//   valgrind --tool=callgrind --toggle-collect='*Measured*' tls_records own bulk 64
// which does not depend on how busy the machine is.
#include <sys/resource.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "common/tls/own_records.h"
#include "common/tls/ssl_records.h"
#include "common/tls/test_certs.h"

using namespace qanat;       // NOLINT: a program of its own
using namespace qanat::tls;  // NOLINT

namespace {

void Require(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "tls_records: %s\n", what);
  std::exit(1);
}

struct Ends {
  std::unique_ptr<Records> client, server;
};

Ends Connect(event::EventLoop& loop, SSL_CTX* ctx, bool own) {
  int fds[2];
  Require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0,
          "socketpair");
  for (int fd : fds) {
    int size = 1 << 20;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  }
  std::array<std::unique_ptr<SslRecords>, 2> sides;
  for (int i = 0; i < 2; ++i) {
    bssl::UniquePtr<SSL> ssl(SSL_new(ctx));
    i == 0 ? SSL_set_connect_state(ssl.get()) : SSL_set_accept_state(ssl.get());
    sides[i] =
        std::make_unique<SslRecords>(std::move(ssl), net::MakeSocketTransport(loop, Fd(fds[i])));
  }
  bool done = false;
  for (int i = 0; i < 20 && !done; ++i) {
    done = true;
    for (auto& side : sides) {
      done = side->Handshake() == SslRecords::Step::kDone && done;
      side->Flush();
    }
  }
  Require(done, "the handshake did not finish");
  if (!own) return {std::move(sides[0]), std::move(sides[1])};
  return {SslRecords::Continue(std::move(sides[0])), SslRecords::Continue(std::move(sides[1]))};
}

// Moves `total` bytes from one end to the other.
[[gnu::noinline]] void MeasuredBulk(Ends& ends, size_t total) {
  constexpr size_t kPayload = 16384 - 9;
  static std::vector<uint8_t> payload(kPayload, 'x'), sink(65536);
  uint8_t header[9] = {};
  std::vector<iovec> pieces;
  for (int i = 0; i < 4; ++i) {
    pieces.push_back({header, sizeof header});
    pieces.push_back({payload.data(), payload.size()});
  }
  size_t sent = 0, got = 0;
  while (got < total) {
    if (sent < total) {
      net::IoResult wrote = ends.client->Write(pieces);
      if (wrote.ok()) {
        // What was not taken of the last frame is not sent again: only bytes are counted here.
        sent += wrote.bytes;
      } else {
        Require(wrote.kind == net::IoResult::Kind::kWouldBlock, "writing failed");
      }
    }
    ends.client->Flush();
    for (;;) {
      net::IoResult read = ends.server->Read(sink);
      if (!read.ok()) {
        Require(read.kind == net::IoResult::Kind::kWouldBlock, "reading failed");
        break;
      }
      got += read.bytes;
      if (read.bytes < sink.size() / 2) break;
    }
  }
}

[[gnu::noinline]] void MeasuredRoundTrips(Ends& ends, size_t count) {
  static std::vector<uint8_t> sink(65536);
  uint8_t frame[10] = {};
  iovec piece{frame, sizeof frame};
  for (size_t i = 0; i < count; ++i) {
    Require(ends.client->Write({&piece, 1}).ok(), "writing failed");
    Require(ends.server->Read(sink).bytes == sizeof frame, "reading failed");
    Require(ends.server->Write({&piece, 1}).ok(), "writing failed");
    Require(ends.client->Read(sink).bytes == sizeof frame, "reading failed");
  }
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: tls_records own|boringssl bulk MIB | trips COUNT\n");
    return 2;
  }
  const bool own = std::strcmp(argv[1], "own") == 0, bulk = std::strcmp(argv[2], "bulk") == 0;
  const size_t amount = std::strtoul(argv[3], nullptr, 10);
  event::EventLoop loop;
  auto ca = tls::testing::TestCa::Make();
  auto identity = ca.Issue("spiffe://cluster.local/ns/shop/sa/bob");
  bssl::UniquePtr<SSL_CTX> ctx(SSL_CTX_new(TLS_method()));
  SSL_CTX_set_min_proto_version(ctx.get(), TLS1_3_VERSION);
  SSL_CTX_set_options(ctx.get(), SSL_OP_NO_TICKET);
  SSL_CTX_use_certificate(ctx.get(), identity.certificate.impl()->cert.get());
  SSL_CTX_use_PrivateKey(ctx.get(), identity.key.impl()->key.get());
  Ends ends = Connect(loop, ctx.get(), own);
  MeasuredBulk(ends, 1 << 20);  // past the small records
  const double cpu = CpuSeconds();
  const auto begin = std::chrono::steady_clock::now();
  if (bulk) {
    MeasuredBulk(ends, amount << 20);
  } else {
    MeasuredRoundTrips(ends, amount);
  }
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - begin;
  std::printf("%s %s %zu: wall %.3f s, cpu %.3f s", argv[1], argv[2], amount, wall.count(),
              CpuSeconds() - cpu);
  if (bulk) {
    std::printf(", %.3f cpu s/GiB\n", (CpuSeconds() - cpu) * 1024 / static_cast<double>(amount));
  } else {
    std::printf(", %.2f cpu us/trip\n", (CpuSeconds() - cpu) * 1e6 / static_cast<double>(amount));
  }
  return 0;
}
