// SPDX-License-Identifier: Apache-2.0
// Command lines, tables, HTTP answers, pod names, and the text of `why`.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "tools/qanatctl/cli.h"
#include "tools/qanatctl/http_call.h"
#include "tools/qanatctl/inspect/collect.h"
#include "tools/qanatctl/inspect/features.h"
#include "tools/qanatctl/inspect/metrics.h"
#include "tools/qanatctl/inspect/why.h"
#include "tools/qanatctl/mesh_view.h"
#include "tools/qanatctl/table.h"

namespace qanat::ctl {
namespace {

using ::testing::HasSubstr;

int Parse(std::vector<std::string> words, Options& options, std::string* printed = nullptr) {
  words.insert(words.begin(), "qanatctl");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const int code = ParseCommandLine(static_cast<int>(argv.size()), argv.data(), options);
  std::string out = ::testing::internal::GetCapturedStdout();
  ::testing::internal::GetCapturedStderr();
  if (printed != nullptr) *printed = std::move(out);
  return code;
}

TEST(CommandLine, Local) {
  Options o;
  ASSERT_EQ(Parse({"local", "up", "folder", "--nodes", "3", "--name", "x", "--no-mesh"}, o), -1);
  EXPECT_EQ(o.verb, Verb::kLocalUp);
  EXPECT_EQ(o.folder, "folder");
  EXPECT_EQ(o.nodes, 3);
  EXPECT_EQ(o.mesh, "x");
  EXPECT_TRUE(o.no_mesh);
  Options e;
  ASSERT_EQ(Parse({"local", "exec", "shop/web", "-c", "app", "--", "sh", "-c", "x --name y"}, e),
            -1);
  EXPECT_EQ(e.verb, Verb::kLocalExec);
  EXPECT_EQ(e.container, "app");
  EXPECT_EQ(e.command, (std::vector<std::string>{"sh", "-c", "x --name y"}));
}

TEST(CommandLine, Why) {
  Options o;
  ASSERT_EQ(Parse({"why", "shop/deploy/a", "b.shop:80", "--method", "POST", "--path", "/x",
                   "--header", "a: b", "-H", "c: d", "-o", "json"},
                  o),
            -1);
  EXPECT_EQ(o.verb, Verb::kWhy);
  EXPECT_EQ(o.from, "shop/deploy/a");
  EXPECT_EQ(o.to, "b.shop:80");
  EXPECT_EQ(o.headers, (std::vector<std::string>{"a: b", "c: d"}));
  EXPECT_EQ(o.output, Output::kJson);
}

TEST(CommandLine, MistakesAreUsageErrors) {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{},
                                             {"local"},
                                             {"nonsense"},
                                             {"why", "a"},
                                             {"status", "-o", "xml"},
                                             {"local", "up"},
                                             {"local", "up", "f", "--nodes", "0"},
                                             {"local", "exec", "p"},
                                             {"local", "up", "f", "--timeout", "-1"},
                                             {"local", "up", "f", "--certificate-ttl", "soon"},
                                             {"local", "logs", "p", "--tail", "-1"},
                                             {"status", "--name", "No-Such-Name"},
                                             {"logs", "--reset", "--level", "info"},
                                             {"completion", "tcsh"}}) {
    Options o;
    EXPECT_EQ(Parse(words, o), kExitUsage);
  }
  Options o;
  EXPECT_EQ(Parse({"--help"}, o), kExitOk);
}

TEST(CommandLine, EveryCommandHelpsWithAnExampleAndTheExitCodes) {
  const std::vector<CommandShape> commands = CommandShapes();
  EXPECT_GT(commands.size(), 15u);
  for (const CommandShape& command : commands) {
    std::vector<std::string> words;
    std::stringstream path(command.path);
    for (std::string word; path >> word;) words.push_back(word);
    words.emplace_back("--help");
    Options o;
    std::string help;
    EXPECT_EQ(Parse(words, o, &help), kExitOk) << command.path;
    EXPECT_THAT(help, HasSubstr("Examples:\n  ")) << command.path;
    EXPECT_THAT(help, HasSubstr("Exit codes: 0 ")) << command.path;
    for (const auto& [name, what] : command.subcommands) {
      EXPECT_THAT(help, HasSubstr(name)) << command.path;
      EXPECT_NE(what, "") << name;
    }
    for (const CommandShape::Option& option : command.options) EXPECT_NE(option.help, "");
  }
}

TEST(CommandLine, WhatShowsSomethingTakesEveryOutputForm) {
  for (const char* verb : {"status", "workloads", "services", "policies", "certificates",
                           "connections", "capture", "logs"}) {
    for (const auto& [text, form] :
         {std::pair{"table", Output::kTable}, {"json", Output::kJson}, {"yaml", Output::kYaml}}) {
      Options o;
      EXPECT_EQ(Parse({verb, "-o", text}, o), -1) << verb;
      EXPECT_EQ(o.output, form) << verb;
    }
  }
}

TEST(CommandLine, Health) {
  Options o;
  ASSERT_EQ(Parse({"health", "shop/deploy/frontend", "backend.shop", "-o", "json"}, o), -1);
  EXPECT_EQ(o.verb, Verb::kHealth);
  EXPECT_EQ(o.from, "shop/deploy/frontend");
  EXPECT_EQ(o.to, "backend.shop");
  EXPECT_EQ(Parse({"health", "shop/frontend"}, o), kExitUsage);
}

TEST(CommandLine, NodeFeatures) {
  Options o;
  ASSERT_EQ(Parse({"node", "features", "--node", "n2", "-o", "json"}, o), -1);
  EXPECT_EQ(o.verb, Verb::kNodeFeatures);
  EXPECT_EQ(o.node, "n2");
  EXPECT_EQ(o.output, Output::kJson);
  EXPECT_EQ(Parse({"node"}, o), kExitUsage);
}

TEST(Features, TheTableSaysWhatIsThereAndWhatServesInstead) {
  const auto nodes = nlohmann::json::parse(R"({"n1": {"kernel": "6.1", "features": {
      "tcx": {"present": false, "forbidden": false, "why": "guards", "instead": "clsact"},
      "bpf": {"present": true, "why": "is needed"},
      "hidden": {"present": false, "forbidden": true, "why": "helps"}}},
      "n2": {"kernel": "6.12"}})");
  EXPECT_EQ(FeaturesTable(nodes),
            "NODE  KERNEL  FEATURE  THERE        WHAT IT DOES  INSTEAD\n"
            "n1    6.1     bpf      yes          is needed     -\n"
            "n1    6.1     hidden   not allowed  helps         nothing\n"
            "n1    6.1     tcx      no           guards        clsact\n");
}

TEST(CommandLine, CaptureOfOnePodAndTheEndOfItsConnections) {
  Options one, unmeshed, draining, both;
  EXPECT_EQ(Parse({"capture", "shop/a"}, one), -1);
  EXPECT_EQ(one.target, "shop/a");
  EXPECT_EQ(Parse({"capture", "--end-unmeshed", "shop/a"}, unmeshed), -1);
  EXPECT_EQ(unmeshed.end_unmeshed, "shop/a");
  EXPECT_EQ(Parse({"capture", "--end-draining", "shop/a"}, draining), -1);
  EXPECT_EQ(draining.end_draining, "shop/a");
  EXPECT_NE(Parse({"capture", "--end-draining", "shop/a", "--end-unmeshed", "shop/a"}, both), -1);
}

TEST(Table, IsAlignedWithoutTrailingSpaces) {
  Table table({"A", "LONG", "Z"});
  table.Add({"wide cell", "", ""});
  table.Add({"ü", "x", "end"});
  EXPECT_EQ(table.ToString(), "A          LONG  Z\nwide cell  -     -\nü          x     end\n");
}

HttpResponse Whole(const std::string& text, bool ended) {
  auto parsed = ParseHttpResponse(text, ended);
  EXPECT_TRUE(parsed) << parsed.error().message;
  EXPECT_TRUE(parsed->has_value());
  return parsed && *parsed ? **parsed : HttpResponse{};
}

TEST(Http, AnswersInAllFramings) {
  EXPECT_EQ(Whole("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhixx", false).body, "hi");
  EXPECT_EQ(Whole("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n"
                  "0\r\n\r\n",
                  false)
                .body,
            "abcd");
  EXPECT_EQ(Whole("HTTP/1.0 503 No\r\n\r\nto the end", true).status, 503);
  EXPECT_EQ(Whole("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 N\r\n\r\n", false).status, 204);
}

TEST(Http, BadAnswersAreErrors) {
  const std::string whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
  for (size_t n = 0; n < whole.size(); ++n) {
    auto parsed = ParseHttpResponse(whole.substr(0, n), false);
    ASSERT_TRUE(parsed);
    EXPECT_FALSE(parsed->has_value());
    EXPECT_FALSE(ParseHttpResponse(whole.substr(0, n), true)) << "cut at " << n;
  }
  EXPECT_FALSE(ParseHttpResponse("SSH-2.0-x\r\n\r\n", false));
  EXPECT_FALSE(ParseHttpResponse("HTTP/1.1 2x0 OK\r\n\r\n", false));
  EXPECT_FALSE(ParseHttpResponse("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", false));
  EXPECT_FALSE(
      ParseHttpResponse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", false));
  EXPECT_FALSE(ParseHttpResponse(std::string(70000, 'x'), false));
}

TEST(Metrics, CountersWithLabels) {
  const auto samples = ParseMetrics(
      "# HELP x y\n# TYPE x counter\nx_total{a=\"1\",b=\"q\\\"u\\\\\"} 12\nplain 1.5 1700000000\n"
      "bad{a=\"1\nbad\n{}\nempty{} 3\nnan_total{a=\"\"} what\n# EOF\n");
  ASSERT_EQ(samples.size(), 3u);
  EXPECT_EQ(samples[0].name, "x_total");
  EXPECT_EQ(samples[0].Label("b"), "q\"u\\");
  EXPECT_EQ(samples[0].value, 12);
  EXPECT_EQ(samples[1].value, 1.5);
  EXPECT_EQ(samples[2].name, "empty");
}

std::vector<PodRef> Pods() {
  std::vector<PodRef> pods;
  const auto add = [&](const char* ns, const char* name, const char* workload, bool ready) {
    PodRef pod;
    pod.ns = ns;
    pod.name = name;
    pod.workload = workload;
    pod.ready = ready;
    pods.push_back(pod);
  };
  add("shop", "web-abc-1", "Deployment/web", false);
  add("shop", "web-abc-2", "Deployment/web", true);
  add("shop", "web-admin-x-1", "Deployment/web-admin", true);
  add("other", "db-0", "StatefulSet/db", true);
  add("shop", "db-0", "StatefulSet/db", true);
  return pods;
}

TEST(Pods, AreFoundByTheNamesPeopleUse) {
  const std::vector<PodRef> pods = Pods();
  const auto find = [&](const char* text) -> std::string {
    auto found = ResolvePod(pods, text);
    return found ? (*found)->ns + "/" + (*found)->name : "?";
  };
  EXPECT_EQ(find("shop/web-abc-1"), "shop/web-abc-1");
  EXPECT_EQ(find("shop/deploy/web"), "shop/web-abc-2") << "the ready one";
  EXPECT_EQ(find("deploy/web.shop"), "shop/web-abc-2");
  EXPECT_EQ(find("web.shop"), "shop/web-abc-2");
  EXPECT_EQ(find("web"), "shop/web-abc-2");
  EXPECT_EQ(find("web-adm"), "shop/web-admin-x-1");
  EXPECT_EQ(find("shop/db-0"), "shop/db-0");
  EXPECT_EQ(find("db-0"), "?") << "two namespaces have one";
  EXPECT_EQ(find("nobody"), "?");
  EXPECT_EQ(find("a/b/c/d"), "?");
  EXPECT_THAT(ResolvePod(pods, "db-0").error().message, HasSubstr("other/db-0"));
}

TEST(Why, TargetsNeedAPort) {
  std::string host;
  uint16_t port = 0;
  EXPECT_TRUE(SplitHostPort("[fd91::1]:80", host, port));
  EXPECT_EQ(host, "fd91::1");
  EXPECT_TRUE(SplitHostPort("a.b:65535", host, port));
  for (const char* bad : {"a", "a:", "a:0", "a:70000", "fd91::1:80", ":80", "a:8x"}) {
    EXPECT_FALSE(SplitHostPort(bad, host, port)) << bad;
  }
}

TEST(Why, ANameWithBothFamiliesIsCalledOverIpv6First) {
  WhyTarget target;
  ChooseAddress({"10.96.1.1", "fd96::101"}, target);
  EXPECT_EQ(target.address, "fd96::101");
  EXPECT_EQ(target.fallback, "10.96.1.1");
  ChooseAddress({"10.96.1.1"}, target);
  EXPECT_EQ(target.address, "10.96.1.1");
  EXPECT_EQ(target.fallback, "");
  const std::vector<std::string> pod = {"10.91.1.2", "fd91:1::2"};
  EXPECT_EQ(SameFamily(pod, "fd96::101"), "fd91:1::2");
  EXPECT_EQ(SameFamily(pod, "10.96.1.1"), "10.91.1.2");
  EXPECT_EQ(SameFamily({"10.91.1.2"}, "fd96::101"), "");
}

WhyReport Report() {
  WhyReport report;
  report.from = "shop/loadgen-1";
  report.from_identity = "spiffe://cluster.local/ns/shop/sa/loadgen";
  report.to.text = "database.shop-data:5432";
  report.to.address = "10.91.2.4";
  report.to.port = 5432;
  report.steps.push_back(
      {"ztunnel-node1, outbound",
       {{"verdict", "allow"}, {"reason", "none"}, {"route", "hbone"}, {"to", "10.91.2.4:15008"}}});
  report.steps.push_back(
      {"ztunnel-node2, inbound to shop-data/database-1",
       Json::parse(R"({"verdict":"deny","reason":"policy_no_allow","detail":"no policy allows it",
         "remedy":"add an ALLOW policy",
         "policies":[{"name":"shop-data/payments-only","action":"ALLOW","matched":false,"rules":[
           {"index":0,"matched":false,"clauses":[{"matched":false,"conditions":[
             {"field":"principals","negated":false,"wanted":["cluster.local/ns/shop/sa/payments"],
              "seen":"cluster.local/ns/shop/sa/loadgen","matched":false}]}]}]}],
         "nearest_allow":{"policy":"shop-data/payments-only","rule":0,"missing":[
           {"field":"principals","wanted":["cluster.local/ns/shop/sa/payments"],
            "seen":"cluster.local/ns/shop/sa/loadgen"}]}})")});
  return report;
}

TEST(Why, OneVerdictOutOfAllSteps) {
  const Json json = Report().ToJson();
  EXPECT_EQ(json["verdict"], "deny");
  EXPECT_EQ(json["reason"], "policy_no_allow");
  EXPECT_EQ(json["decidedBy"], "ztunnel-node2, inbound to shop-data/database-1");
  EXPECT_EQ(json["nearest_allow"]["policy"], "shop-data/payments-only");
  WhyReport fine = Report();
  fine.steps.pop_back();
  EXPECT_EQ(fine.ToJson()["verdict"], "allow");
  EXPECT_FALSE(WhyReport{}.allowed()) << "nothing asked is nothing allowed";
}

TEST(Why, TheTextNamesPolicyClauseSeenAndWanted) {
  const std::string text = Report().ToText({});
  EXPECT_THAT(text, HasSubstr("REFUSED policy_no_allow by ztunnel-node2"));
  EXPECT_THAT(text, HasSubstr("ALLOW shop-data/payments-only did not match"));
  EXPECT_THAT(text, HasSubstr("✗ principals: wanted cluster.local/ns/shop/sa/payments, seen "
                              "cluster.local/ns/shop/sa/loadgen"));
  EXPECT_THAT(text, HasSubstr("nearest ALLOW: shop-data/payments-only rule 0"));
  EXPECT_THAT(text, HasSubstr("what to do: add an ALLOW policy"));
}

TEST(Why, AWaypointsRouteIsShownAndItsEndpointsAreFollowed) {
  WhyReport report = Report();
  report.steps.insert(
      report.steps.begin() + 1,
      {"waypoint shop/waypoint",
       Json::parse(
           R"({"verdict":"allow","reason":"none","route":{"action":"forward","name":"canary",
         "match":"prefix /","passed_over":[{"route":"testers","why":"header user is absent"}],
         "clusters":[{"cluster":"v1","weight":90,"endpoints":[
                        {"address":"10.91.1.2:8080","healthy":true},
                        {"address":"10.91.1.3:8080","healthy":false}]},
                     {"cluster":"v2","weight":10,"endpoints":[
                        {"address":"10.91.2.2:8080","healthy":true}]},
                     {"cluster":"v3","weight":0,"endpoints":[
                        {"address":"10.91.2.9:8080","healthy":true}]}]}})")});
  EXPECT_EQ(WaypointEndpoints(report.steps[1].answer),
            (std::vector<std::string>{"10.91.1.2:8080", "10.91.2.2:8080"}));
  const std::string text = report.ToText({});
  EXPECT_THAT(text, HasSubstr("route canary (prefix /) -> 90% v1 (1 endpoints), 10% v2"));
  EXPECT_THAT(text, HasSubstr("not testers: header user is absent"));
}

TEST(Why, AnAnswerOfAnotherShapeIsNoPermission) {
  WhyReport report;
  report.steps.push_back({"x", Json::array()});
  EXPECT_FALSE(report.allowed());
  EXPECT_THAT(report.ToText({}), HasSubstr("REFUSED"));
}

}  // namespace
}  // namespace qanat::ctl
