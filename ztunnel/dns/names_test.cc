// SPDX-License-Identifier: Apache-2.0
// What the mesh answers, as one table: a mesh of every kind of service, a client, a question a row.
#include "ztunnel/dns/names.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "common/dns/message.h"
#include "ztunnel/mesh_for_test.h"

namespace qanat::ztunnel::dns {
namespace {

namespace type = ::qanat::dns::type;

const std::vector<std::string> kSearch{"shop.svc.cluster.local", "svc.cluster.local",
                                       "cluster.local"};

// "forward", "forward known", or "[CNAME alias ]addresses".
std::string Text(const Match& match) {
  if (match.kind == Match::Kind::kForward) return match.known ? "forward known" : "forward";
  std::string out = match.alias.empty() ? "" : "CNAME " + match.alias + " ";
  std::vector<std::string> ips;
  for (const auto& ip : match.addresses) ips.push_back(ip.ToString());
  std::sort(ips.begin(), ips.end());
  return out + fmt::format("{}", fmt::join(ips, " "));
}

class NamesTest : public ::testing::Test {
 protected:
  NamesTest() {
    const auto address = [](TestMesh::Service& s, const std::string& ip,
                            const std::string& network = "") {
      auto* a = s.add_addresses();
      a->set_address(IpBytes(ip));
      a->set_network(network);
    };
    mesh.Put(TestMesh::MakePod("client", "10.0.0.1"));

    mesh.Put(TestMesh::MakeService("backend", "10.96.0.1"));
    auto other = TestMesh::MakeService("backend", "10.96.0.2", "other");
    mesh.Put(other);
    auto dual = TestMesh::MakeService("dual", "10.96.0.3");
    address(dual, "fd96::3");
    mesh.Put(dual);
    auto four = TestMesh::MakeService("four", "10.96.0.4");
    address(four, "fd96::4");
    four.set_ip_families(istio::workload::IPV4_ONLY);
    mesh.Put(four);
    auto far = TestMesh::MakeService("far", "");
    address(far, "10.96.0.5", "elsewhere");
    mesh.Put(far);
    auto both = TestMesh::MakeService("both", "10.96.0.6");
    address(both, "10.196.0.6", "elsewhere");
    mesh.Put(both);

    auto headless = TestMesh::MakeService("db", "");
    mesh.Put(headless);
    const auto join = [&](const std::string& name, const std::string& ip, const auto& change) {
      auto pod = TestMesh::MakePod(name, ip);
      TestMesh::Join(pod, headless);
      change(pod);
      mesh.Put(pod);
    };
    join("db-0", "10.0.1.0", [](auto& w) { w.add_addresses(IpBytes("fd00::10")); });
    join("db-1", "10.0.1.1", [](auto&) {});
    join("db-2", "10.0.1.2", [](auto& w) { w.set_status(istio::workload::UNHEALTHY); });
    join("db-3", "10.0.1.3", [](auto& w) { w.set_network("elsewhere"); });
    mesh.Put(TestMesh::MakeService("empty", ""));
    auto eager = TestMesh::MakeService("eager", "");  // publishNotReadyAddresses
    eager.mutable_load_balancing()->set_health_policy(istio::workload::LoadBalancing::ALLOW_ALL);
    mesh.Put(eager);
    auto starting = TestMesh::MakePod("eager-0", "10.0.2.0");
    starting.set_status(istio::workload::UNHEALTHY);
    TestMesh::Join(starting, eager);
    mesh.Put(starting);

    const auto entry = [&](const std::string& host, const std::string& vip,
                           const std::string& ns = "shop") {
      auto s = TestMesh::MakeService("entry", vip, ns);
      s.set_hostname(host);
      return s;
    };
    mesh.Put(entry("api.example.com", "240.240.0.1"));
    mesh.Put(entry("*.wild.com", "240.240.0.2"));
    mesh.Put(entry("*.deep.wild.com", "240.240.0.3"));
    mesh.Put(entry("novip.example.com", ""));
    mesh.Put(entry("*.novip.org", ""));
    mesh.Put(entry("*.org", "240.240.0.4"));
    auto block = entry("block.example.com", "");
    auto* cidr = block.add_addresses();
    cidr->set_address(IpBytes("10.200.0.0"));
    cidr->set_length(16);
    mesh.Put(block);
    auto hidden = entry("hidden.example.com", "240.240.0.5", "other");
    hidden.set_visibility(istio::workload::Service::NAMESPACE);
    mesh.Put(hidden);
    auto mine = entry("twice.example.com", "240.240.0.6");
    mesh.Put(mine);
    auto canonical = entry("twice.example.com", "240.240.0.7", "other");
    canonical.set_canonical(true);
    mesh.Put(canonical);
    mesh.Put(entry("remote.example.com", "240.240.0.8", "aaa"));
    auto remote = entry("remote.example.com", "240.240.0.9", "zzz");
    remote.set_canonical(true);
    mesh.Put(remote);
  }

  std::string Ask(std::string_view host, uint16_t rr = type::kA) {
    const auto snapshot = mesh.Snapshot();
    const auto client = snapshot->WorkloadByUid("Kubernetes//Pod/shop/client");
    return Text(LookUp(*snapshot, *client, Scope{"cluster.local", search, ipv6}, host, rr));
  }

  TestMesh mesh;
  std::vector<std::string> search = kSearch;
  bool ipv6 = true;
};

TEST_F(NamesTest, Table) {
  struct Row {
    const char* host;
    const char* a;
    const char* aaaa;
  };
  for (const Row& row : std::vector<Row>{
           // A service, by every name it has.
           {"backend.shop.svc.cluster.local", "10.96.0.1", ""},
           {"backend.shop.svc", "10.96.0.1", ""},
           {"backend.shop", "10.96.0.1", ""},
           {"backend", "10.96.0.1", ""},
           {"backend.other", "10.96.0.2", ""},
           {"backend.other.svc.cluster.local", "10.96.0.2", ""},
           // What a client with a search list asks first.
           {"backend.other.shop.svc.cluster.local", "CNAME backend.other 10.96.0.2",
            "CNAME backend.other "},
           {"backend.other.svc.shop.svc.cluster.local", "CNAME backend.other.svc 10.96.0.2",
            "CNAME backend.other.svc "},
           {"backend.shop.svc.cluster.local.shop.svc.cluster.local",
            "CNAME backend.shop.svc.cluster.local 10.96.0.1",
            "CNAME backend.shop.svc.cluster.local "},
           {"backend.shop.svc.cluster.local.cluster.local",
            "CNAME backend.shop.svc.cluster.local 10.96.0.1",
            "CNAME backend.shop.svc.cluster.local "},
           {"api.example.com.shop.svc.cluster.local", "CNAME api.example.com 240.240.0.1",
            "CNAME api.example.com "},
           {"api.example.com.svc.cluster.local", "CNAME api.example.com 240.240.0.1",
            "CNAME api.example.com "},
           // Families and networks.
           {"dual", "10.96.0.3", "fd96::3"},
           {"four", "10.96.0.4", ""},
           {"far", "", ""},
           {"both", "10.96.0.6", ""},
           // Headless: the pods that are ready, of our network.
           {"db", "10.0.1.0 10.0.1.1", "fd00::10"},
           {"db.shop.svc.cluster.local", "10.0.1.0 10.0.1.1", "fd00::10"},
           {"empty", "", ""},
           {"eager", "10.0.2.0", ""},
           // Their pods by name.
           {"db-0.db.shop.svc.cluster.local", "10.0.1.0", "fd00::10"},
           {"db-0.db.shop.svc", "10.0.1.0", "fd00::10"},
           {"db-0.db.shop", "10.0.1.0", "fd00::10"},
           {"db-0.db.shop.svc.cluster.local.svc.cluster.local",
            "CNAME db-0.db.shop.svc.cluster.local 10.0.1.0",
            "CNAME db-0.db.shop.svc.cluster.local fd00::10"},
           {"10-0-1-1.db.shop.svc.cluster.local", "10.0.1.1", ""},
           {"fd00--10.db.shop.svc.cluster.local", "10.0.1.0", "fd00::10"},
           {"db-1.db.shop.svc.cluster.local", "10.0.1.1", ""},
           {"db-2.db.shop.svc.cluster.local", "forward", "forward"},  // not ready
           {"db-9.db.shop.svc.cluster.local", "forward", "forward"},
           {"client.backend.shop.svc.cluster.local", "forward", "forward"},  // not headless
           // Hosts of the world.
           {"api.example.com", "240.240.0.1", ""},
           {"x.api.example.com", "forward", "forward"},
           {"example.com", "forward", "forward"},
           {"novip.example.com", "forward", "forward"},
           {"block.example.com", "forward", "forward"},
           // Wildcards: the longest; below it anything; never the bare domain.
           {"a.wild.com", "240.240.0.2", ""},
           {"a.b.wild.com", "240.240.0.2", ""},
           {"a.deep.wild.com", "240.240.0.3", ""},
           {"a.b.deep.wild.com", "240.240.0.3", ""},
           {"deep.wild.com", "240.240.0.2", ""},
           {"wild.com", "forward", "forward"},
           {"a.wild.com.shop.svc.cluster.local", "240.240.0.2", ""},  // and no CNAME
           {"a.novip.org", "forward", "forward"},                     // nor the shorter one
           {"a.other.org", "240.240.0.4", ""},
           // Who may see what, and which of several.
           {"hidden.example.com", "forward", "forward"},
           {"twice.example.com", "240.240.0.6", ""},
           {"remote.example.com", "240.240.0.9", ""},
           // Nothing of ours.
           {"unknown", "forward", "forward"},
           {"www.google.com", "forward", "forward"},
           {"www.google.com.shop.svc.cluster.local", "forward", "forward"},
           {"svc.cluster.local", "forward", "forward"},
           {"shop.svc.cluster.local", "forward", "forward"},
           {"cluster.local", "forward", "forward"},
           {"", "forward", "forward"},
       }) {
    EXPECT_EQ(Ask(row.host), row.a) << row.host;
    EXPECT_EQ(Ask(row.host, type::kAaaa), row.aaaa) << row.host;
  }
}

TEST_F(NamesTest, OtherTypesGoOnButTheHostIsKnown) {
  EXPECT_EQ(Ask("backend", type::kHttps), "forward known");
  EXPECT_EQ(Ask("api.example.com", type::kTxt), "forward known");
  EXPECT_EQ(Ask("a.wild.com", type::kMx), "forward known");
  EXPECT_EQ(Ask("novip.example.com", type::kTxt), "forward");
  EXPECT_EQ(Ask("_http._tcp.backend.shop.svc.cluster.local", type::kSrv), "forward");
  EXPECT_EQ(Ask("1.0.96.10.in-addr.arpa", type::kPtr), "forward");
}

TEST_F(NamesTest, ThePodsOwnSearchList) {
  search = {"other.svc.cluster.local", "corp.example"};
  EXPECT_EQ(Ask("api.example.com.corp.example"), "CNAME api.example.com 240.240.0.1");
  EXPECT_EQ(Ask("backend.other.svc.cluster.local"), "10.96.0.2");
  // Not in the list: a name like any other.
  EXPECT_EQ(Ask("api.example.com.shop.svc.cluster.local"), "forward");
  search = {};
  EXPECT_EQ(Ask("backend.other.shop.svc.cluster.local"), "forward");
}

TEST_F(NamesTest, WithoutIpv6ItsQuestionsAreEmpty) {
  ipv6 = false;
  EXPECT_EQ(Ask("dual", type::kAaaa), "");
  EXPECT_EQ(Ask("db", type::kAaaa), "");
  EXPECT_EQ(Ask("www.google.com", type::kAaaa), "forward");
}

TEST_F(NamesTest, AnotherClusterDomain) {
  auto s = TestMesh::MakeService("web", "10.96.1.1");
  s.set_hostname("web.shop.svc.corp");
  mesh.Put(s);
  const auto snapshot = mesh.Snapshot();
  const auto client = snapshot->WorkloadByUid("Kubernetes//Pod/shop/client");
  search = {"shop.svc.corp"};
  EXPECT_EQ(Text(LookUp(*snapshot, *client, Scope{"corp", search}, "web", type::kA)), "10.96.1.1");
  EXPECT_EQ(Text(LookUp(*snapshot, *client, Scope{"corp", search}, "db.shop.svc.cluster.local",
                        type::kA)),
            "forward");  // headless, and not in our domain
}

}  // namespace
}  // namespace qanat::ztunnel::dns
