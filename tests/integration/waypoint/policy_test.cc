// SPDX-License-Identifier: Apache-2.0
// Authorization through the waypoint, for HTTP and TCP, also changed under live connections; and
// that /debug/why says what really happens.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <random>

#include "tests/integration/waypoint/bed.h"
#include "waypoint/admin/pages.h"

namespace qanat::waypoint::test {
namespace {

using std::chrono::milliseconds;

constexpr const char* kVip = "10.96.0.10:80";
constexpr const char* kTcpVip = "10.96.0.20:5432";
constexpr const char* kStranger = "spiffe://cluster.local/ns/shop/sa/stranger";

std::string Principal(const std::string& uri) {
  return fmt::format(
      "and_ids {{ ids {{ or_ids {{ ids {{ filter_state {{ key: \"io.istio.peer_principal\" "
      "string_match {{ exact: \"{}\" }} }} }} }} }} }}",
      uri);
}
std::string Namespace(const std::string& ns) {
  return fmt::format(
      "and_ids {{ ids {{ or_ids {{ ids {{ filter_state {{ key: \"io.istio.peer_principal\" "
      "string_match {{ safe_regex {{ regex: \".*/ns/{}/.*\" }} }} }} }} }} }} }}",
      ns);
}
std::string MethodAndPath(const std::string& method, const std::string& prefix) {
  return fmt::format(
      "and_rules {{ rules {{ or_rules {{ rules {{ header {{ name: \":method\" string_match {{ "
      "exact: "
      "\"{}\" }} }} }} }} }} rules {{ or_rules {{ rules {{ url_path {{ path {{ prefix: \"{}\" }} "
      "}} "
      "}} }} }} }}",
      method, prefix);
}
std::string RouteAll() {
  return "routes { name: \"all\" match { prefix: \"/\" } route { cluster: \"c\" timeout { } } } ";
}

class WaypointPolicy : public ::testing::Test {
 protected:
  std::map<std::string, std::string> Configure(const std::string& rbac) {
    Resources r;
    TestService s;
    s.virtual_host = rbac + RouteAll();
    r.services = {s};
    r.clusters = {{"c", {v1.endpoint()}, ""}};
    return bed.Push(r);
  }
  Bed bed;
  FakeUpstream v1{bed.loop, "v1"};
};

TEST_F(WaypointPolicy, MissingOverrideMeansDenied) {
  Configure("");
  Client client(bed, kFrontend);
  auto call = bed.Get(client.OpenHttp(kVip, false), "/");
  EXPECT_EQ(call->status(), 403);
  EXPECT_EQ(call->body, "RBAC: access denied");
  EXPECT_TRUE(v1.calls.empty());
}

TEST_F(WaypointPolicy, AllowByIdentityMethodAndPath) {
  Configure(RbacOverrides("",
                          RbacPolicyText("ns[shop]-policy[viewer]-rule[0]",
                                         MethodAndPath("GET", "/api/"), Principal(kFrontend)),
                          true));
  Client friendly(bed, kFrontend), stranger(bed, kStranger);
  auto* c = friendly.OpenHttp(kVip, true);
  EXPECT_EQ(bed.Get(c, "/api/items")->status(), 200);
  EXPECT_EQ(bed.Get(c, "/admin")->status(), 403);
  EXPECT_EQ(bed.Get(c, "/api/../admin")->status(), 403);
  EXPECT_EQ(bed.Get(c, "/x/../api/items")->status(), 200);
  EXPECT_EQ(bed.Call(c, Bed::Head("POST", "/api/items"), "x")->status(), 403);
  EXPECT_EQ(bed.Get(stranger.OpenHttp(kVip, false), "/api/items")->status(), 403);
  EXPECT_NE(bed.Metrics().find("response_code=\"403\""), std::string::npos);
}

TEST_F(WaypointPolicy, DenyByNamespaceAndLiveChange) {
  Configure(RbacOverrides("", "", false));
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, false);
  EXPECT_EQ(bed.Get(c, "/")->status(), 200);
  Configure(RbacOverrides(
      RbacPolicyText("ns[shop]-policy[no]-rule[0]", "any: true", Namespace("shop")), "", false));
  EXPECT_EQ(bed.Get(c, "/")->status(), 403);  // the very same connection
  Configure(RbacOverrides("", "", false));
  EXPECT_EQ(bed.Get(c, "/")->status(), 200);
}

TEST_F(WaypointPolicy, NotUnderstoodIsAppliedRefusingAndReported) {
  Configure(RbacOverrides("", "", false));
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, false);
  EXPECT_EQ(bed.Get(c, "/")->status(), 200);
  auto errors =
      Configure(RbacOverrides(RbacPolicyText("ns[shop]-policy[odd]-rule[0]",
                                             "matcher { name: \"some.extension\" }", "any: true"),
                              "", false));
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_NE(errors.begin()->second.find("some.extension"), std::string::npos);
  EXPECT_EQ(bed.Get(c, "/")->status(), 403);
  EXPECT_EQ(bed.store->problems().size(), 1u);
}

TEST_F(WaypointPolicy, GrpcClientsGetGrpcRefusals) {
  Configure("");
  Client client(bed, kFrontend);
  http::RequestHead head = Bed::Head("POST", "/pkg.S/M");
  head.headers.Add("content-type", "application/grpc+proto");
  auto call = bed.Call(client.OpenHttp(kVip, true), head, "x");
  EXPECT_EQ(call->status(), 200);
  EXPECT_EQ(call->header("grpc-status"), "7");
  EXPECT_EQ(call->header("grpc-message"), "RBAC: access denied");
}

TEST_F(WaypointPolicy, WhyEqualsWhatHappens) {
  // Random policies and requests: verdict of /debug/why against the answer of the data path.
  std::mt19937 random(7);
  const std::vector<std::string> identities = {kFrontend, kStranger};
  const std::vector<std::string> methods = {"GET", "POST"};
  const std::vector<std::string> paths = {"/api/items", "/admin", "/"};
  auto pick = [&](const std::vector<std::string>& list) { return list[random() % list.size()]; };
  auto policies = [&](const char* kind) {
    std::string out;
    for (unsigned n = random() % 3; n > 0; --n) {
      std::string to = random() % 4 == 0 ? "any: true" : MethodAndPath(pick(methods), pick(paths));
      if (random() % 5 == 0) to = "not_rule { " + to + " }";
      std::string from = random() % 3 == 0   ? "any: true"
                         : random() % 2 == 0 ? Principal(pick(identities))
                                             : Namespace(random() % 2 ? "shop" : "other");
      out += RbacPolicyText(fmt::format("ns[shop]-policy[{}{}]-rule[0]", kind, n), to, from);
    }
    return out;
  };
  Client clients[2] = {{bed, identities[0]}, {bed, identities[1]}};
  http::ClientConnection* connections[2] = {nullptr, nullptr};
  int allowed = 0, denied = 0;
  for (int round = 0; round < 40; ++round) {
    const bool has_allow = random() % 2;
    ASSERT_TRUE(
        Configure(RbacOverrides(policies("d"), has_allow ? policies("a") : "", has_allow)).empty());
    for (int i = 0; i < 5; ++i) {
      const size_t who = random() % 2;
      if (!connections[who]) connections[who] = clients[who].OpenHttp(kVip, true);
      WhyRequest why;
      why.identity = identities[who];
      why.source_ip = "127.0.0.1";
      why.authority = kVip;
      why.method = pick(methods);
      why.path = pick(paths);
      auto answer = nlohmann::json::parse(WhyJson(*bed.store->snapshot(), why));
      auto call = bed.Call(connections[who], Bed::Head(why.method, why.path));
      const bool ok = call->status() == 200;
      ASSERT_EQ(answer["verdict"] == "allow", ok) << answer.dump(2);
      if (!ok) {
        ASSERT_EQ(call->status(), 403);
        std::string metric = fmt::format("qanat_waypoint_refusals_total{{reason=\"{}\"}}",
                                         answer["reason"].get<std::string>());
        EXPECT_NE(bed.Metrics().find(metric), std::string::npos) << metric;
      }
      (ok ? allowed : denied)++;
    }
  }
  EXPECT_GT(allowed, 20);
  EXPECT_GT(denied, 20);
}

TEST_F(WaypointPolicy, WhyKnowsRoutesAndEndpoints) {
  Configure(RbacOverrides("", "", false));
  auto ask = [&](std::string authority, std::string path) {
    WhyRequest why;
    why.identity = kFrontend;
    why.authority = std::move(authority);
    why.path = std::move(path);
    return nlohmann::json::parse(WhyJson(*bed.store->snapshot(), why));
  };
  auto found = ask("backend.shop:80", "/x");
  EXPECT_EQ(found["verdict"], "allow");
  EXPECT_EQ(found["route"]["name"], "all");
  EXPECT_EQ(found["route"]["clusters"][0]["endpoints"].size(), 1u);
  EXPECT_EQ(ask("backend.shop:81", "/")["reason"], "no_such_port");
  EXPECT_EQ(ask("nonsense", "/")["reason"], "bad_request");
}

class WaypointTcp : public ::testing::Test {
 protected:
  void Configure(const std::string& rbac, TestService::Kind kind = TestService::Kind::kTcp) {
    Resources r;
    TestService s;
    s.vip = "10.96.0.20";
    s.port = 5432;
    s.kind = kind;
    s.tcp_rbac = rbac;
    s.tcp_cluster = "db";
    s.virtual_host = RbacOverrides("", "", false) +
                     "routes { match { prefix: \"/\" } route { cluster: \"web\" timeout { } } } ";
    r.services = {s};
    r.clusters = {{"db", {db.endpoint()}, ""}, {"web", {web.endpoint()}, ""}};
    auto errors = bed.Push(r);
    EXPECT_TRUE(errors.empty());
  }
  // Speaks first, then echoes until the client ends.
  struct Echo final : net::TransportEvents {
    explicit Echo(net::TransportPtr t) : transport(std::move(t)) {
      transport->SetEvents(this);
      transport->ReadEnable(true);
      std::string hello = "hello\n";
      iovec part{hello.data(), hello.size()};
      transport->Write({&part, 1});
    }
    void OnReadable() override {
      uint8_t buffer[65536];
      auto got = transport->Read(buffer);
      if (got.kind == net::IoResult::Kind::kEof) {
        transport->ReadEnable(false);
        transport->ShutdownWrite();
        return;
      }
      if (got.kind == net::IoResult::Kind::kReset || got.kind == net::IoResult::Kind::kError) {
        broken = true;
        transport->ReadEnable(false);
        return;
      }
      iovec part{buffer, got.bytes};
      transport->Write({&part, 1});
    }
    void OnWritable() override {}
    net::TransportPtr transport;
    bool broken = false;
  };
  // What a client has read so far.
  struct Reader final : net::TransportEvents {
    explicit Reader(net::Transport& t) : transport(t) {
      transport.SetEvents(this);
      transport.ReadEnable(true);
    }
    void OnReadable() override {
      uint8_t buffer[65536];
      auto got = transport.Read(buffer);
      if (got.ok()) text.append(reinterpret_cast<char*>(buffer), got.bytes);
      if (got.kind == net::IoResult::Kind::kWouldBlock || got.ok()) return;
      eof = got.kind == net::IoResult::Kind::kEof;
      reset = !eof;
      transport.ReadEnable(false);
    }
    void OnWritable() override {}
    net::Transport& transport;
    std::string text;
    bool eof = false, reset = false;
  };
  void SetUp() override {
    db.raw = [this](net::TransportPtr t) {
      echoes.push_back(std::make_unique<Echo>(std::move(t)));
    };
  }
  static void Say(net::Transport& t, std::string text) {
    iovec part{text.data(), text.size()};
    t.Write({&part, 1});
  }
  Bed bed{1, [](ProxySettings& s) { s.sniff_timeout = milliseconds(3000); }};
  FakeUpstream db{bed.loop, "db", bed.ca.Context(kBackend)};
  FakeUpstream web{bed.loop, "web"};
  std::vector<std::unique_ptr<Echo>> echoes;
};

TEST_F(WaypointTcp, ServerFirstAndHalfClose) {
  Configure("");
  Client client(bed, kFrontend);
  auto t = client.Open(kTcpVip);
  ASSERT_NE(t, nullptr);
  Reader reader(*t);
  bed.Until([&] { return reader.text == "hello\n"; });
  Say(*t, "ping");
  bed.Until([&] { return reader.text == "hello\nping"; });
  t->ShutdownWrite();
  bed.Until([&] { return reader.eof; });
  t.reset();
  for (const char* text :
       {"istio_tcp_connections_opened_total{", "istio_tcp_received_bytes_total{"}) {
    bed.Until([&] { return bed.Metrics().find(text) != std::string::npos; });
  }
}

TEST_F(WaypointTcp, PolicyRefusesAndEndsLiveConnections) {
  const std::string only_frontend =
      "action: ALLOW " + RbacPolicyText("p", "any: true", Principal(kFrontend));
  Configure(only_frontend);
  Client friendly(bed, kFrontend), stranger(bed, kStranger);
  EXPECT_EQ(stranger.Open(kTcpVip), nullptr);
  EXPECT_EQ(stranger.connect_status, 401);
  auto t = friendly.Open(kTcpVip);
  ASSERT_NE(t, nullptr);
  Reader reader(*t);
  bed.Until([&] { return reader.text == "hello\n"; });
  Configure("action: ALLOW " + RbacPolicyText("p", "any: true", Principal(kStranger)));
  bed.Until([&] { return reader.reset || reader.eof; });
  EXPECT_TRUE(reader.reset);
  EXPECT_EQ(friendly.Open(kTcpVip), nullptr);
}

TEST_F(WaypointTcp, UnreachableIs503) {
  Configure("");
  db.Kill();
  Client client(bed, kFrontend);
  EXPECT_EQ(client.Open(kTcpVip), nullptr);
  EXPECT_EQ(client.connect_status, 503);
}

TEST_F(WaypointTcp, UnnamedProtocolIsFoundOut) {
  Configure("", TestService::Kind::kSniff);
  Client client(bed, kFrontend);
  EXPECT_EQ(bed.Get(client.OpenHttp(kTcpVip, false), "/")->body, "web");
  EXPECT_EQ(bed.Get(client.OpenHttp(kTcpVip, true), "/")->body, "web");
  auto binary = client.Open(kTcpVip);
  Reader reader(*binary);
  Say(*binary, std::string("\x00\x01\x02", 3));
  bed.Until([&] { return reader.text == std::string("hello\n\x00\x01\x02", 9); });
  auto silent = client.Open(kTcpVip);  // the server speaks first
  Reader waiting(*silent);
  bed.Until([&] { return waiting.text == "hello\n"; });
}

}  // namespace
}  // namespace qanat::waypoint::test
