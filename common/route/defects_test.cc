// SPDX-License-Identifier: Apache-2.0
// What reading the stock proxy found wrong in it, by the letters of that list, as decisions of
// ours. c and d are shown over the wire too (tests/integration/ztunnel: policy_test,
// robustness_test), f, a restart while the control plane is away, where the state is kept.
#include <gmock/gmock.h>
#include <sys/resource.h>

#include <set>

#include "common/net/socket.h"
#include "common/route/mesh_for_test.h"
#include "common/route/outbound.h"

namespace qanat::route {
namespace {

using model::Reason;
using Kind = Route::Kind;

class DefectsTest : public ::testing::Test {
 protected:
  DefectsTest() {
    service = TestMesh::MakeService("backend", "10.96.0.10");
    mesh.Put(TestMesh::MakePod("client", "10.91.1.5")).Put(service);
  }
  TestMesh::Workload Backend(int n) {
    auto pod =
        TestMesh::MakePod("backend-" + std::to_string(n), "10.91.2." + std::to_string(n), "n2");
    TestMesh::Join(pod, service);
    return pod;
  }
  Route Call(const std::string& to) {
    const auto snapshot = mesh.Snapshot();
    return DecideOutbound(*snapshot, *snapshot->WorkloadByUid("Kubernetes//Pod/shop/client"),
                          At(to), [this] { return random++; });
  }
  std::set<std::string> SeenAt(const std::string& to) {
    std::set<std::string> seen;
    for (int i = 0; i < 200; ++i) {
      const Route route = Call(to);
      if (route.kind == Kind::kHbone) seen.insert(route.to.ip().ToString());
    }
    return seen;
  }

  TestMesh mesh;
  TestMesh::Service service;
  uint64_t random = 0;
};

// a. An address block of a service keeps the endpoints of long ago: each change adds another copy
//    of the service, and the oldest wins.
TEST_F(DefectsTest, A_ABlocksEndpointsAreThePresentOnes) {
  service.clear_addresses();
  auto* block = service.add_addresses();
  block->set_address(IpBytes("10.200.0.0"));
  block->set_length(16);
  mesh.Put(service);
  for (int n = 1; n <= 20; ++n) {
    mesh.Put(Backend(n));
    if (n > 1) mesh.Remove(Backend(n - 1).uid());
    EXPECT_EQ(SeenAt("10.200.1.2:80"), (std::set<std::string>{"10.91.2." + std::to_string(n)}));
  }
  // The service itself changes, too.
  service.mutable_ports(0)->set_service_port(81);
  mesh.Put(service);
  EXPECT_EQ(Call("10.200.1.2:81").kind, Kind::kHbone);
  EXPECT_EQ(SeenAt("10.200.1.2:81"), (std::set<std::string>{"10.91.2.20"}));
}

// b. From ONLY_HEALTHY to ALLOW_ALL, those who were left out come back only when they are sent
// again.
TEST_F(DefectsTest, B_AHealthPolicyHoldsAtOnceBothWays) {
  auto sick = Backend(2);
  sick.set_status(istio::workload::UNHEALTHY);
  mesh.Put(Backend(1)).Put(sick);
  EXPECT_EQ(SeenAt("10.96.0.10:80"), (std::set<std::string>{"10.91.2.1"}));
  service.mutable_load_balancing()->set_health_policy(istio::workload::LoadBalancing::ALLOW_ALL);
  mesh.Put(service);
  EXPECT_EQ(SeenAt("10.96.0.10:80"), (std::set<std::string>{"10.91.2.1", "10.91.2.2"}));
  service.clear_load_balancing();
  mesh.Put(service);
  EXPECT_EQ(SeenAt("10.96.0.10:80"), (std::set<std::string>{"10.91.2.1"}));
}

// c. Policies are checked again with the workload as it was when the connection began, and a name
//    that has not arrived is passed over.
TEST_F(DefectsTest, C_APolicyNotReceivedRefusesAndALaterAttachedOneCounts) {
  auto pod = Backend(1);
  mesh.Put(pod);
  policy::Request request;
  request.source = model::Identity{"cluster.local", "shop", "client"};
  request.destination_port = 8080;
  const auto verdict = [&] {
    const auto snapshot = mesh.Snapshot();
    return policy::Evaluate(snapshot->PoliciesFor(*snapshot->WorkloadByUid(pod.uid())), request);
  };
  EXPECT_TRUE(verdict().allowed);
  pod.add_authorization_policies("shop/late");
  mesh.Put(pod);
  EXPECT_EQ(verdict().reason, Reason::kPolicyUnknown);
  auto late = TestMesh::MakePolicy("late", istio::security::DENY);
  late.set_scope(istio::security::WORKLOAD_SELECTOR);
  late.add_rules()->add_clauses()->add_matches()->add_principals()->set_exact("nobody/at/all");
  mesh.Put(late);
  EXPECT_TRUE(verdict().allowed);
}

// e. The TLS server's configuration is made anew for every connection: here it is a part of the
//    certificate, one for all of its connections (tests/integration/ztunnel: contexts_test).
//
// d. When descriptors run out the accept loop spins.
TEST_F(DefectsTest, D_AcceptingPausesWhenDescriptorsRunOut) {
  event::EventLoop loop;
  net::ListenOptions options;
  options.address = At("127.0.0.1:0");
  Fd listener = net::Listen(options).value();
  const auto address = net::SocketAddress::OfLocal(listener.get()).value();
  size_t accepted = 0;
  net::Acceptor acceptor(loop, std::move(listener), [&](Fd, net::SocketAddress) { ++accepted; });
  net::ConnectOptions connect;
  connect.to = address;
  const Fd waiting = net::StartConnect(connect).value();
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  // No descriptor beyond those in use.
  const rlimit none{static_cast<rlim_t>(0), before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  int rounds = 0;
  const auto begin = event::Clock::now();
  while (event::Clock::now() - begin < std::chrono::milliseconds(300)) {
    loop.RunOnce(std::chrono::milliseconds(50));
    ++rounds;
  }
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(accepted, 0u);
  EXPECT_LT(rounds, 30);  // a spin makes many thousands
  while (accepted == 0 && event::Clock::now() - begin < std::chrono::seconds(60)) {
    loop.RunOnce(std::chrono::milliseconds(50));
  }
  EXPECT_EQ(accepted, 1u);  // and it recovers
}

// g. A visibility that is not known makes a service public.
TEST_F(DefectsTest, G_AnUnknownVisibilityIsForTheNamespaceOnly) {
  mesh.Put(Backend(1));
  auto stranger = TestMesh::MakePod("client", "10.91.1.6", "n1", "elsewhere");
  mesh.Put(stranger);
  const auto from = [&](const std::string& uid) {
    const auto snapshot = mesh.Snapshot();
    return DecideOutbound(*snapshot, *snapshot->WorkloadByUid(uid), At("10.96.0.10:80"),
                          [] { return 0; })
        .kind;
  };
  EXPECT_EQ(from(stranger.uid()), Kind::kHbone);
  service.set_visibility(static_cast<istio::workload::Service::Visibility>(7));
  mesh.Put(service);
  EXPECT_EQ(from(stranger.uid()), Kind::kPassthrough);
  EXPECT_EQ(from("Kubernetes//Pod/shop/client"), Kind::kHbone);
}

}  // namespace
}  // namespace qanat::route
