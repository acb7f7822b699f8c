// SPDX-License-Identifier: Apache-2.0
// What the mesh answers, seen by clients that know nothing of it.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/socket.h>

#include <cstdio>
#include <fstream>
#include <future>

#include "agent/pods/dns_files.h"
#include "tests/integration/dns/fixture.h"
#include "ztunnel/dns/resolver.h"

namespace qanat::ztunnel::test {
namespace {

using testing::HasSubstr;

namespace type = wire::type;

std::string Shell(const std::string& command) {
  std::string out;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  for (int c = fgetc(pipe); c != EOF; c = fgetc(pipe)) out.push_back(static_cast<char>(c));
  pclose(pipe);
  return out;
}

class DnsMeshTest : public DnsBed {};

TEST_F(DnsMeshTest, NamesOfTheMesh) {
  Make();
  EXPECT_EQ(Say("backend.shop.svc.cluster.local"), "NOERROR aa: A 10.96.0.10 30");
  EXPECT_EQ(Say("backend"), "NOERROR aa: A 10.96.0.10 30");
  EXPECT_EQ(Say("backend.shop.shop.svc.cluster.local"),
            "NOERROR aa: CNAME backend.shop 30 | A 10.96.0.10 30");
  EXPECT_EQ(Say("backend", type::kAaaa), "NOERROR aa:");
  EXPECT_EQ(server->Log(), "ready\n") << "nobody else was asked";
  // Not ours: what the name server says.
  EXPECT_EQ(Say("plain.test"), "NOERROR: A 192.0.2.1 60");
  EXPECT_EQ(Say("nowhere.shop.svc.cluster.local"), "NXDOMAIN:");
  // The host is the mesh's, the type is not: the server's NXDOMAIN would hide the host.
  EXPECT_EQ(Say("backend.shop.svc.cluster.local", type::kHttps), "NOERROR:");
  EXPECT_EQ(Show(Direct(Ask("backend.shop.svc.cluster.local", type::kHttps))), "NXDOMAIN:");
  // By TCP, and by IPv6 to a server that does not even exist.
  const auto tcp = AskTcp(pod->netns(), kServer, {Ask("backend", type::kA), Ask("db", type::kA)});
  ASSERT_EQ(tcp.size(), 2u);
  EXPECT_EQ(Show(tcp[0]), "NOERROR aa: A 10.96.0.10 30");
  EXPECT_EQ(Show(AskUdp(pod->netns(), "[fd93::77]:53", Ask("backend", type::kA))),
            "NOERROR aa: A 10.96.0.10 30");
  const auto tcp6 = AskTcp(pod->netns(), "[fd93::77]:53", {Ask("backend", type::kA)});
  ASSERT_EQ(tcp6.size(), 1u);
  EXPECT_EQ(Show(tcp6[0]), "NOERROR aa: A 10.96.0.10 30");

  const auto metric = [&](const char* name, const char* rr, const char* protocol) {
    return node->Metric(
        name, {std::string("request_query_type=\"") + rr + "\"",
               std::string("request_protocol=\"") + protocol + "\"",
               "source_canonical_service=\"frontend\"", "source_canonical_revision=\"v1\""});
  };
  EXPECT_EQ(metric("istio_dns_requests_total", "A", "udp"), 6);
  EXPECT_EQ(metric("istio_dns_requests_total", "A", "tcp"), 3);
  EXPECT_EQ(metric("istio_dns_requests_total", "HTTPS", "udp"), 1);
  EXPECT_EQ(metric("istio_dns_upstream_requests_total", "A", "udp"), 2);
  EXPECT_EQ(metric("istio_dns_upstream_request_duration_seconds_count", "A", "udp"), 2);
  EXPECT_EQ(node->Metric("istio_dns_upstream_failures_total"), 0);
}

TEST_F(DnsMeshTest, WhatTheControlPlaneTakesAwayIsTheNameServersAgain) {
  Make();
  Put(TestMesh::MakeService("late", "10.96.0.11"));
  EXPECT_TRUE(Eventually([&] { return Say("late") == "NOERROR aa: A 10.96.0.11 30"; }));
  control_plane_.Remove("Address", "shop/late.shop.svc.cluster.local");
  EXPECT_TRUE(Eventually([&] { return Say("late") == "NXDOMAIN:"; }));
}

TEST_F(DnsMeshTest, AnotherDomainAndWhoseServicesArePreferred) {
  Make([](Config& config) {
    config.cluster_domain = "corp";
    config.preferred_service_namespace = "two";
  });
  auto web = TestMesh::MakeService("web", "10.96.0.13");
  web.set_hostname("web.shop.svc.corp");
  Put(web);
  for (const auto& [ns, vip] :
       {std::pair{"one", "240.0.0.1"}, {"two", "240.0.0.2"}, {"zoo", "240.0.0.3"}}) {
    auto entry = TestMesh::MakeService("api", vip, ns);
    entry.set_hostname("api.example");
    Put(entry);
  }
  EXPECT_TRUE(Eventually([&] { return Say("web") == "NOERROR aa: A 10.96.0.13 30"; }));
  EXPECT_TRUE(Eventually([&] {
    return Say("api.example.shop.svc.corp") == "NOERROR aa: CNAME api.example 30 | A 240.0.0.2 30";
  }));
}

TEST_F(DnsMeshTest, ManyEndpointsAreCutByUdpAndWholeByTcp) {
  Make();
  auto headless = TestMesh::MakeService("many", "");
  Put(headless);
  for (int i = 1; i <= 100; ++i) {
    auto w = TestMesh::MakePod(fmt::format("many-{}", i), fmt::format("10.99.0.{}", i));
    TestMesh::Join(w, headless);
    Put(w);
  }
  EXPECT_TRUE(Eventually([&] {
    const auto all = AskTcp(pod->netns(), kServer, {Ask("many", type::kA)});
    return all.size() == 1 && wire::AddressesIn(all[0], type::kA).ips.size() == 100 &&
           !wire::ReadHeader(all[0])->truncated();
  }));
  const auto small = Captured(Ask("many", type::kA));
  EXPECT_LE(small.size(), 512u);
  EXPECT_TRUE(wire::ReadHeader(small)->truncated());
  const auto large = Captured(Ask("many", type::kA, 4096));
  EXPECT_FALSE(wire::ReadHeader(large)->truncated());
  EXPECT_EQ(wire::AddressesIn(large, type::kA).ips.size(), 100u);
  EXPECT_NE(Captured(Ask("many", type::kA, 4096)), large) << "the order is another one each time";
  EXPECT_EQ(Say("many-7.many.shop.svc.cluster.local"), "NOERROR aa: A 10.99.0.7 30");
}

TEST_F(DnsMeshTest, APodsOwnNameServersAndSearchList) {
  Make();
  PodNet& own = AddPod(8, Capture::kNone);
  const auto second = StartServer(own, "10.93.0.8");
  EXPECT_EQ(Say("backend.shop.corp.example"), "NXDOMAIN:");
  EXPECT_EQ(second->Log(), "ready\n");
  // Written as our node agent does.
  agent::DnsFiles files({folder_ + "/dns", {}, "cluster.local", folder_ + "/resolv.conf"});
  agent::Pod told;
  told.uid = "uid-frontend";
  told.ns = "shop";
  told.dns.policy = "None";
  told.dns.servers = {"10.93.0.8"};
  told.dns.searches = {"corp.example"};
  files.Put(told);
  EXPECT_TRUE(Eventually([&] {
    return Say("backend.shop.corp.example") ==
           "NOERROR aa: CNAME backend.shop 30 | A 10.96.0.10 30";
  }));
  EXPECT_EQ(Say("alias.test"), "NOERROR: CNAME plain.test 60 | A 192.0.2.1 60");
  EXPECT_THAT(second->Log(), HasSubstr("udp alias.test 1\n"));
  EXPECT_THAT(server->Log(), testing::Not(HasSubstr("alias.test")));

  // A change of the running pod: the cluster's servers, which nobody told the agent, are those of
  // the proxy's own resolv.conf. The search list is the cluster's, and the pod's comes after it.
  told.dns.policy = "ClusterFirst";
  files.Put(told);
  int asked = 0;
  EXPECT_TRUE(Eventually([&] {
    const std::string fresh = fmt::format("n{}.test", asked++);  // in no cache
    Say(fresh);
    return server->Log().find("udp " + fresh + " 1\n") != std::string::npos;
  }));
  EXPECT_EQ(Say("backend.shop.corp.example"),
            "NOERROR aa: CNAME backend.shop 30 | A 10.96.0.10 30");
  EXPECT_EQ(Say("backend.shop.svc.cluster.local"), "NOERROR aa: A 10.96.0.10 30");
  files.Remove(told.uid);
  EXPECT_TRUE(Eventually([&] { return Say("backend.shop.corp.example") == "NXDOMAIN:"; }));
}

TEST_F(DnsMeshTest, APodThatIsNotAnnouncedYetWaitsALittle) {
  Make({}, false);
  auto waiting =
      std::async(std::launch::async, [&] { return Show(Captured(Ask("backend", type::kA))); });
  usleep(300000);
  Announce("frontend", *pod, "n1");
  EXPECT_EQ(waiting.get(), "NOERROR aa: A 10.96.0.10 30");
}

TEST_F(DnsMeshTest, APodThatIsNeverAnnouncedIsToldSo) {
  Make({}, false);
  EXPECT_EQ(Say("backend"), "SERVFAIL:");
  EXPECT_EQ(Say("plain.test"), "SERVFAIL:");
  EXPECT_EQ(Answered("unknown_client"), 2);
}

// The C library in the pod, with the resolv.conf that Kubernetes writes; then a connection.
TEST_F(DnsMeshTest, TheCLibraryAndAConnectionByShortName) {
  Make({}, true, Capture::kRedirect);
  PodNet& far = AddPod(3, Capture::kNone);
  const auto service = TestMesh::MakeService("echo", "10.96.0.12");
  Put(service);
  Announce("echo", far, "n2", [&](TestMesh::Workload& w) {
    TestMesh::Join(w, service);
    w.set_tunnel_protocol(istio::workload::NONE);
  });
  ASSERT_TRUE(Eventually([&] { return Say("echo") == "NOERROR aa: A 10.96.0.12 30"; }));
  Server echo(far.netns(), far.At(8080), Server::Echo());
  const std::string resolv = folder_ + "/pod-resolv.conf";
  std::ofstream(resolv) << "search shop.svc.cluster.local svc.cluster.local cluster.local\n"
                           "nameserver 10.93.0.9\noptions ndots:5\n";
  const std::string inside =
      fmt::format("ip netns exec {} unshare -m sh -c 'mount --bind {} /etc/resolv.conf && ",
                  pod->name(), resolv);
  EXPECT_THAT(Shell(inside + "getent ahostsv4 echo'"), HasSubstr("10.96.0.12"));
  EXPECT_THAT(Shell(inside + "getent ahostsv4 echo.shop'"), HasSubstr("10.96.0.12"));
  EXPECT_THAT(Shell(inside + "getent ahostsv4 plain.test'"), HasSubstr("192.0.2.1"));
  EXPECT_EQ(Shell(inside + "getent ahosts nx.test'"), "");
  EXPECT_EQ(
      Shell(inside + "python3 -c \"import socket; s=socket.create_connection((\\\"echo\\\",80),5);"
                     "s.sendall(b\\\"hello\\\"); print(s.recv(5).decode())\"'"),
      "hello\n");
}

TEST_F(DnsMeshTest, AddressesForTheProxyItself) {
  Make();
  event::LoopThread thread("resolver");
  Config config;
  config.packet_mark = 1337;
  config.resolv_conf = folder_ + "/resolv.conf";
  config.inpod_uds = folder_ + "/ztunnel.sock";
  auto local = std::make_shared<Pod>();
  local->uid = "uid-other";
  local->ns = "shop";
  local->netns = std::make_shared<netns::NetNs>(stranger->netns().Duplicate().value());
  std::unique_ptr<dns::Resolver> resolver;
  std::unique_ptr<dns::Resolver::Lookup> lookup;
  const auto resolve = [&](const std::string& host, int family) {
    std::promise<std::string> said;
    thread.loop().Post([&] {
      if (!resolver) resolver = std::make_unique<dns::Resolver>(thread.loop(), config);
      lookup = resolver->Resolve(local, host, family, [&said](auto found) {
        if (!found) return said.set_value(found.error().ToString());
        std::string out;
        for (const auto& ip : *found) out += ip.ToString() + " ";
        said.set_value(out);
      });
    });
    const std::string out = said.get_future().get();
    return out;
  };
  EXPECT_EQ(resolve("alias.test", AF_INET), "192.0.2.1 ");
  EXPECT_EQ(resolve("sixonly.test", AF_INET), "::9 ");
  EXPECT_EQ(resolve("sixonly.test", AF_INET6), "::9 ");
  EXPECT_EQ(resolve("nx.test", AF_INET), "NOT_FOUND: nx.test has no address");
  EXPECT_EQ(resolve("servfail.test", AF_INET),
            "UNAVAILABLE: no name server answers for servfail.test");
  EXPECT_THAT(resolve("a..b", AF_INET), HasSubstr("no host name"));
  const std::string before = server->Log();
  EXPECT_EQ(resolve("alias.test", AF_INET), "192.0.2.1 ");
  EXPECT_EQ(server->Log(), before) << "cached";
  std::promise<void> gone;
  thread.loop().Post([&] {
    lookup.reset();
    resolver.reset();
    gone.set_value();
  });
  gone.get_future().wait();
}

}  // namespace
}  // namespace qanat::ztunnel::test
