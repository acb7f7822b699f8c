// SPDX-License-Identifier: Apache-2.0
// A captured pod "frontend" on node n1 and "backend" on n2, each node with the built qanat-ztunnel,
// and a pod "envoy" whose HBONE is a stock Envoy; and what applications must see in either
// direction, which is what plain TCP would have shown them.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tests/integration/ztunnel/bed.h"
#include "tests/interop/hbone/envoy_peer.h"
#include "tests/interop/ztunnel/program.h"

namespace qanat::interop {

using ztunnel::TestMesh;
using ztunnel::test::Capture;
using ztunnel::test::ConnectFrom;
using ztunnel::test::PodNet;
using ztunnel::test::Server;
using ztunnel::test::Tcp;

inline constexpr const char* kFrontend = "spiffe://cluster.local/ns/shop/sa/frontend";
inline constexpr const char* kBackend = "spiffe://cluster.local/ns/shop/sa/backend";
inline constexpr const char* kEnvoy = "spiffe://cluster.local/ns/shop/sa/envoy";
inline constexpr const char* kSomebodyElse = "spiffe://cluster.local/ns/shop/sa/somebody-else";

class PeerBed : public ztunnel::test::Bed {
 protected:
  using Serve = std::function<void(Tcp&, const std::string&)>;

  void SetUp() override;
  void TearDown() override;
  // Adds the port for Stat and the namespace to `options`; the CA of the mesh issues the identity.
  void RunEnvoy(EnvoyOptions options, const std::string& identity = kEnvoy);
  void RunEnvoy(EnvoyOptions options, const tls::testing::TestCa::Identity& identity);

  // Whether a counter of Envoy comes to match.
  testing::AssertionResult EnvoyCounts(const std::string& name,
                                       const testing::Matcher<double>& value) const;

  // The two ends of the direction that the test is about.
  virtual Tcp Call() = 0;
  virtual std::unique_ptr<Server> Application(Serve serve) = 0;

  void EchoAndHalfClose();
  void ServerSpeaksFirst();
  // The server sends this much and ends; the client writes on before it reads. Returns what the
  // server hears of that.
  std::string ServerEndsFirst(size_t size);
  void BulkBothWays();
  // Many at the same time, all alive at once.
  void Many(size_t count);
  // So many clients at once, each so many calls one after the other, each with so many bytes there
  // and back; how many calls did not bring all of them. `meanwhile` runs when all have begun.
  int Load(size_t clients, size_t calls, size_t bytes, const std::function<void()>& meanwhile = {});
  // What the client sees of a server's RST, and the server of a client's.
  std::string ServerResets();
  std::string ClientResets();

  std::string dir_;
  std::string near_, far_;  // the networks of n1's and of the other pods
  PodNet *frontend_ = nullptr, *backend_ = nullptr, *there_ = nullptr;
  std::unique_ptr<Program> n1_, n2_;
  std::unique_ptr<Envoy> envoy_;

 private:
  std::string binary_;
};

}  // namespace qanat::interop
