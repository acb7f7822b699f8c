// SPDX-License-Identifier: Apache-2.0
// The proxy's sockets, read back from the kernel: each one that is in a pod's namespace carries the
// mark by which the capture knows the proxy, and the keepalive that was set.
#include <gmock/gmock.h>

#include <map>

#include "tests/integration/ztunnel/bed.h"
#include "tests/integration/ztunnel/open_sockets.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::IsEmpty;
using testing::Not;
using testing::Pair;

class SocketsTest : public Bed {
 protected:
  static uint64_t In(const PodNet& pod) { return pod.netns().Cookie().value(); }
};

// On one node the mark is the default, on the other one another.
TEST_F(SocketsTest, CarryTheMarkAndTheKeepAlive) {
  PodNet& frontend = AddPod(1);
  PodNet& backend = AddPod(2);
  PodNet& outside = AddPod(9, Capture::kNone);
  Announce("frontend", frontend, "n1");
  Announce("backend", backend, "n2");
  constexpr uint32_t kMark = 0x539, kOtherMark = 0x1234;
  const std::vector<int> kKept = {1, 20, 5, 3};
  Node& n1 = AddNode("n1", [](Config& c) { c.socks5 = true; });
  Node& n2 = AddNode("n2", [](Config& c) {
    c.packet_mark = kOtherMark;
    c.shared_tunnels = false;  // else that of another namespace
    c.keepalive = {true, std::chrono::seconds(20), std::chrono::seconds(5), 3, false};
  });
  ASSERT_EQ(n1.Enrol("frontend", frontend), "");
  ASSERT_EQ(n2.Enrol("backend", backend), "");
  ASSERT_EQ(n1.agent().SnapshotSent(), "");
  ASSERT_EQ(n2.agent().SnapshotSent(), "");
  // What listens, by port: for each of two workers, and for names in both families by both
  // protocols.
  const auto listeners = [&](const PodNet& pod) {
    std::map<std::pair<uint16_t, uint32_t>, int> out;
    for (const OpenSocket& socket : FindSockets([&](const OpenSocket& s) {
           return s.netns == In(pod) && (s.listens || !s.tcp) && s.local.port() >= 15000;
         })) {
      ++out[{socket.local.port(), socket.mark()}];
    }
    return out;
  };
  EXPECT_THAT(listeners(frontend),
              ElementsAre(Pair(Pair(15001, kMark), 2), Pair(Pair(15006, kMark), 2),
                          Pair(Pair(15008, kMark), 2), Pair(Pair(15053, kMark), 4),
                          Pair(Pair(15080, kMark), 2)));
  EXPECT_THAT(listeners(backend),
              ElementsAre(Pair(Pair(15001, kOtherMark), 2), Pair(Pair(15006, kOtherMark), 2),
                          Pair(Pair(15008, kOtherMark), 2), Pair(Pair(15053, kOtherMark), 4)));

  // What is connected: by a tunnel, plainly out, and plainly in.
  Server tunnelled(backend.netns(), backend.At(8080), Server::Echo());
  Server plain(backend.netns(), backend.At(7001), Server::Echo());
  Server abroad(outside.netns(), outside.At(8081), Server::Echo());
  std::vector<Tcp> calls;
  for (const auto& [from, to] : {std::pair(&frontend, backend.At(8080)),
                                 {&frontend, outside.At(8081)},
                                 {&outside, backend.At(7001)}}) {
    calls.push_back(ConnectFrom(from->netns(), to));
    ASSERT_TRUE(calls.back().Send("x") && calls.back().Read(1) == "x") << to;
  }
  const auto connected = [&](const PodNet& in, uint16_t local, const PodNet& peer, uint16_t port) {
    return FindSockets([&](const OpenSocket& s) {
      return s.netns == In(in) && s.peer.is_set() && s.fd != calls[0].fd() &&
             s.fd != calls[1].fd() && (local == 0 || s.local.port() == local) &&
             (port == 0 || s.peer.port() == port) &&
             (s.peer.ip().ToString() == peer.ip() || &peer == &in);
    });
  };
  // Of the frontend: as it was captured, and what goes to the server outside.
  EXPECT_THAT(Marks(connected(frontend, 8080, frontend, 0)), ElementsAre(kMark));
  EXPECT_THAT(Marks(connected(frontend, 8081, frontend, 0)), ElementsAre(kMark));
  EXPECT_THAT(Marks(connected(frontend, 0, outside, 8081)), ElementsAre(kMark));
  EXPECT_THAT(connected(frontend, 8080, frontend, 0).front().keepalive(),
              ElementsAre(1, 180, 180, 9));
  EXPECT_THAT(connected(frontend, 0, outside, 8081).front().keepalive(),
              ElementsAre(1, 180, 180, 9));
  // Tunnels: from whatever namespace they are.
  const auto tunnels = FindSockets([&](const OpenSocket& s) {
    return s.peer.port() == 15008 && s.peer.ip().ToString() == backend.ip();
  });
  EXPECT_THAT(Marks(tunnels), testing::AllOf(Not(IsEmpty()), Each(kMark)));
  for (const OpenSocket& socket : tunnels)
    EXPECT_THAT(socket.keepalive(), ElementsAre(1, 180, 180, 9));
  // Of the backend: what came by the tunnel and plainly, and what goes to the two servers.
  for (const uint16_t port : {15006, 15008}) {
    const auto accepted = connected(backend, port, backend, 0);
    EXPECT_THAT(Marks(accepted), testing::AllOf(Not(IsEmpty()), Each(kOtherMark))) << port;
    for (const OpenSocket& socket : accepted) {
      EXPECT_THAT(socket.keepalive(), ElementsAreArray(kKept)) << port;
    }
  }
  EXPECT_THAT(Marks(connected(backend, 0, backend, 8080)), ElementsAre(kOtherMark));
  // The kernel that serves both ends cannot forget one of them.
  EXPECT_EQ(connected(backend, 0, backend, 8080).front().keepalive().front(), 0);
  EXPECT_THAT(Marks(connected(backend, 0, backend, 7001)), ElementsAre(kOtherMark));
}

// A control plane, or an authority, that is gone without a word.
TEST_F(SocketsTest, TheControlPlaneIsProbed) {
  PodNet& frontend = AddPod(1);
  Announce("frontend", frontend, "n1");
  Node& n1 = AddNode("n1");
  ASSERT_EQ(n1.Enrol("frontend", frontend), "");
  const std::string endpoint = control_plane_.endpoint();  // http://address:port
  const auto channels = [&] {
    return FindSockets([&](const OpenSocket& s) {
      return s.peer.is_set() && "http://" + s.peer.ToString() == endpoint;
    });
  };
  // One for resources and one for certificates.
  ASSERT_TRUE(Eventually([&] { return channels().size() == 2; })) << endpoint;
  for (const OpenSocket& socket : channels()) {
    EXPECT_THAT(socket.keepalive(), ElementsAre(1, 300, 75, 9));
  }
}

}  // namespace
}  // namespace qanat::ztunnel::test
