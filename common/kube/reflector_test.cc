// SPDX-License-Identifier: Apache-2.0
#include "common/kube/reflector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "common/kube/test_util.h"
#include "tests/support/kube/fake_api_server.h"

namespace qanat::kube::testing {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Pod(const std::string& name, const std::string& ns = "shop") {
  return "/api/v1/namespaces/" + ns + "/pods/" + name;
}
constexpr char kPod[] = R"({"apiVersion":"v1","kind":"Pod","spec":{"nodeName":"n1"}})";

class KubeReflector : public ::testing::TestWithParam<int> {
 protected:
  static FakeApiServer::Options ServerOptions() {
    FakeApiServer::Options out;
    out.http1_only = GetParam() == 1;
    return out;
  }
  static ClientOptions Quick() {
    ClientOptions options;
    options.backoff_first = 10ms;
    options.backoff_max = 50ms;
    return options;
  }
  bool Until(const std::function<bool()>& so) { return RunUntil(loop_, so); }
  bool Synced(const Recorder& r, int times = 1) {
    return Until([&] { return r.syncs >= times; });
  }
  bool Watching() {
    return Until([&] { return server_.watches() == 1; });
  }
  // What the server has is what the reflector told.
  bool Same(const Recorder& r) {
    return Until([&] {
      std::set<std::string> have, want;
      for (const auto& [key, json] : r.objects) {
        have.insert(key + "@" +
                    nlohmann::json::parse(json)["metadata"]["resourceVersion"].get<std::string>());
      }
      for (const std::string& text : server_.List("/api/v1/pods")) {
        const auto object = nlohmann::json::parse(text);
        const auto& m = object["metadata"];
        want.insert(m["namespace"].get<std::string>() + "/" + m["name"].get<std::string>() + "@" +
                    m["resourceVersion"].get<std::string>());
      }
      return have == want;
    });
  }

  FakeApiServer server_{ServerOptions()};
  event::EventLoop loop_;
  Client client_{loop_, server_.Config(), Quick()};
};
INSTANTIATE_TEST_SUITE_P(Protocols, KubeReflector, ::testing::Values(0, 1), [](const auto& info) {
  return std::string(info.param == 0 ? "Http2" : "Http1");
});

TEST_P(KubeReflector, ListThenWatch) {
  server_.Put(Pod("a"), kPod);
  server_.Put(Pod("b"), kPod);
  Recorder r(client_, Pods());
  ASSERT_TRUE(Synced(r));
  EXPECT_THAT(r.log, ElementsAre("+shop/a", "+shop/b", "sync"));
  EXPECT_THAT(r.objects["shop/a"], HasSubstr(R"({"apiVersion":"v1","kind":"Pod",)"));
  EXPECT_TRUE(nlohmann::json::accept(r.objects["shop/a"]));
  server_.Put(Pod("c"), kPod);
  server_.Put(Pod("a"), R"({"kind":"Pod","spec":{"nodeName":"n2"}})");
  server_.Remove(Pod("b"));
  ASSERT_TRUE(Until([&] { return r.log.size() == 6; }));
  EXPECT_THAT(r.log, ElementsAre("+shop/a", "+shop/b", "sync", "+shop/c", "+shop/a", "-shop/b"));
  EXPECT_EQ(r.reflector->status().objects, 2U);
  EXPECT_EQ(r.reflector->status().lists, 1U);
  EXPECT_TRUE(r.errors.empty());
}

TEST_P(KubeReflector, PagesAndSelectors) {
  for (int i = 0; i < 25; ++i) server_.Put(Pod("p" + std::to_string(i)), kPod);
  server_.Put(Pod("x", "other"),
              R"({"kind":"Pod","metadata":{"labels":{"app":"x"}},"spec":{"nodeName":"n2"}})");
  Recorder all(client_, Pods(), {.page = 4});
  Recorder mine(client_, Pods(), {.field_selector = "spec.nodeName=n2"});
  Recorder one(client_, Pods(), {.ns = "other", .label_selector = "app=x"});
  ASSERT_TRUE(Synced(all) && Synced(mine) && Synced(one));
  EXPECT_EQ(all.objects.size(), 26U);
  EXPECT_EQ(server_.CountRequests("GET", "continue="), 6U);
  EXPECT_THAT(mine.log, ElementsAre("+other/x", "sync"));
  EXPECT_THAT(one.log, ElementsAre("+other/x", "sync"));
  // It leaves the selection without being deleted.
  ASSERT_TRUE(Until([&] { return server_.watches() == 3; }));
  server_.Put(Pod("x", "other"), kPod);
  EXPECT_TRUE(Until([&] { return mine.objects.empty() && one.objects.empty(); }));
  EXPECT_EQ(all.objects.size(), 26U);
}

TEST_P(KubeReflector, ContinueExpires) {
  for (int i = 0; i < 10; ++i) server_.Put(Pod("p" + std::to_string(i)), kPod);
  server_.AddFault({.path_part = "continue=", .count = 3, .status = 410, .reason = "Expired"});
  Recorder r(client_, Pods(), {.page = 3});
  ASSERT_TRUE(Synced(r));
  EXPECT_EQ(r.objects.size(), 10U);
  EXPECT_EQ(r.Count("+shop/p0"), 1U);
  // After two in a row it asks for everything at once.
  EXPECT_FALSE(server_.requests().back().query.find("continue") != std::string::npos);
  EXPECT_TRUE(Same(r));
}

TEST_P(KubeReflector, WatchGoesOnWhereItWas) {
  server_.Put(Pod("a"), kPod);
  Recorder r(client_, Pods());
  ASSERT_TRUE(Synced(r) && Watching());
  server_.DropConnections();
  server_.Put(Pod("b"), kPod);
  server_.Remove(Pod("a"));
  ASSERT_TRUE(Same(r));
  EXPECT_EQ(r.reflector->status().lists, 1U);
  server_.EndWatches();
  server_.Put(Pod("c"), kPod);
  ASSERT_TRUE(Same(r));
  EXPECT_EQ(r.reflector->status().lists, 1U);
  std::erase(r.log, "error");  // a watch that broke off at once is told
  EXPECT_THAT(r.log, ElementsAre("+shop/a", "sync", "+shop/b", "-shop/a", "+shop/c"));
}

TEST_P(KubeReflector, BookmarksMoveIt) {
  Recorder r(client_, Pods());
  ASSERT_TRUE(Synced(r) && Watching());
  EXPECT_EQ(server_.CountRequests("GET", "allowWatchBookmarks=true"), 1U);
  server_.Put("/api/v1/nodes/x", "{}");  // others move the version
  server_.Expire();
  server_.SendBookmarks();
  ASSERT_TRUE(Until([&] { return r.reflector->status().events == 1; }));
  server_.DropConnections();
  server_.Put(Pod("a"), kPod);
  ASSERT_TRUE(Same(r));
  EXPECT_EQ(r.reflector->status().lists, 1U);  // the bookmark's version was good still
}

TEST_P(KubeReflector, ExpiredListsAgainAndReportsTheDifference) {
  for (const bool by_status : {false, true}) {
    server_.ExpiredByStatus(by_status);
    server_.Put(Pod("stays"), kPod);
    server_.Put(Pod("changes"), kPod);
    server_.Put(Pod("goes"), kPod);
    server_.Put(Pod("reborn"), kPod);
    Recorder r(client_, Pods());
    ASSERT_TRUE(Synced(r) && Watching());
    r.log.clear();
    server_.StallWatches(true);
    server_.Put(Pod("changes"), R"({"kind":"Pod"})");
    server_.Remove(Pod("goes"));
    server_.Remove(Pod("reborn"));
    server_.Put(Pod("reborn"), kPod);
    server_.Put(Pod("new"), kPod);
    server_.Expire();
    server_.DropConnections();
    server_.StallWatches(false);
    ASSERT_TRUE(Synced(r, 2));
    EXPECT_EQ(r.log.back(), "sync");
    r.log.pop_back();
    std::sort(r.log.begin(), r.log.end());
    std::erase(r.log, "error");
    EXPECT_THAT(r.log, ElementsAre("+shop/changes", "+shop/new", "+shop/reborn", "-shop/goes",
                                   "-shop/reborn"));
    EXPECT_TRUE(Same(r));
    r.reflector.reset();
    ASSERT_TRUE(Until([&] { return server_.watches() == 0; }));
    server_.Remove(Pod("new"));
  }
}

TEST_P(KubeReflector, ErrorEventAndNonsenseInTheStream) {
  server_.Put(Pod("a"), kPod);
  Recorder r(client_, Pods());
  ASSERT_TRUE(Synced(r) && Watching());
  // An error that is not about the version: the watch goes on from where it was.
  server_.SendLine(
      R"({"type":"ERROR","object":{"kind":"Status","code":500,"reason":"InternalError","message":"etcd"}})");
  server_.EndWatches();
  server_.Put(Pod("b"), kPod);
  ASSERT_TRUE(Same(r));
  EXPECT_EQ(r.reflector->status().lists, 1U);
  EXPECT_THAT(r.errors.back(), HasSubstr("etcd"));
  for (const char* line : {"nonsense", R"({"type":"ADDED"})", R"({"type":"ADDED","object":{}})",
                           R"({"type":"MODIFIED","object":{"metadata":{"name":"x"}}})",
                           R"({"type":"ERROR","object":5})", "{\"type\":\"ADDED\",\"object\":{"}) {
    ASSERT_TRUE(Watching());
    const uint64_t before = r.reflector->status().lists + r.reflector->status().watches;
    server_.SendLine(line);
    ASSERT_TRUE(Until([&] {
      return r.reflector->status().lists + r.reflector->status().watches > before;
    })) << line;
    server_.Put(Pod("b"), kPod);
    EXPECT_TRUE(Same(r)) << line;
  }
}

TEST_P(KubeReflector, BrokenLists) {
  server_.Put(Pod("a"), kPod);
  server_.AddFault({.status = 200, .body = "{\"items\":["});
  server_.AddFault({.status = 200, .body = "[]"});
  server_.AddFault({.status = 200, .body = R"({"metadata":{},"items":[]})"});
  server_.AddFault({.status = 200, .body = R"({"metadata":{"resourceVersion":"5"},"items":[{}]})"});
  server_.AddFault({.status = 200, .body = R"({"metadata":{"resourceVersion":"5"},"items":[1,}})"});
  server_.AddFault({.status = 503, .body = "no backend"});
  Recorder r(client_, Pods());
  ASSERT_TRUE(Synced(r));
  EXPECT_EQ(r.syncs, 1);
  EXPECT_EQ(r.objects.size(), 1U);
  EXPECT_EQ(r.errors.size(), 5U) << ::testing::PrintToString(r.errors);  // two say the same
  EXPECT_TRUE(r.reflector->status().last_error.empty());
}

// A server in trouble is asked less and less often, and soon again once it has answered in between.
TEST_P(KubeReflector, PausesBetweenListsGrow) {
  const Fault busy{.path_part = "limit=", .count = -1, .status = 503, .reason = "Unavailable"};
  ReflectorOptions options;
  options.backoff_first = 20ms;
  int syncs = 0, upserts = 0;
  ReflectorEvents events;
  events.on_sync = [&] { ++syncs; };
  events.on_upsert = [&](const std::string&, std::string_view) { ++upserts; };
  // How long it takes until the server has seen so many LISTs more.
  const auto take = [&](size_t lists) {
    const auto start = event::Clock::now();
    lists += server_.CountRequests("GET", "limit=");
    EXPECT_TRUE(Until([&] { return server_.CountRequests("GET", "limit=") >= lists; }));
    return event::Clock::now() - start;
  };
  server_.AddFault(busy);
  Reflector reflector(client_, Pods(), options, events);
  // 20, 40, ... 640 ms, each up to a fifth less; six that do not grow would be some 120 ms.
  EXPECT_GE(take(7), 900ms);
  server_.ClearFaults();
  ASSERT_TRUE(Until([&] { return syncs == 1; }) && Watching());
  server_.Put(Pod("a"), kPod);
  ASSERT_TRUE(Until([&] { return upserts == 1; }));
  server_.AddFault(busy);
  server_.SendLine("nonsense");  // leads to a LIST
  const auto anew = take(3);     // 20, 40, 80 ms
  EXPECT_GE(anew, 100ms);
  EXPECT_LT(anew, 3s);  // if it went on where it was, these would be seconds
}

TEST_P(KubeReflector, ForbiddenSaysWhichRule) {
  server_.AddFault({.count = 3,
                    .status = 403,
                    .reason = "Forbidden",
                    .message = "User \"system:serviceaccount:a:b\" cannot list resource"});
  Recorder r(client_, Routes());
  ASSERT_TRUE(Synced(r));
  ASSERT_EQ(r.errors.size(), 1U);  // not three times the same
  EXPECT_THAT(r.errors[0], HasSubstr("give system:serviceaccount:a:b a ClusterRole"));
}

TEST_P(KubeReflector, MissingCrdComesAndGoes) {
  const std::string route = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r";
  server_.SetAbsent("httproutes", true);
  Recorder r(client_, Routes());
  ASSERT_TRUE(Synced(r));
  EXPECT_THAT(r.log, ElementsAre("absent", "sync"));
  EXPECT_THAT(r.errors[0], HasSubstr("install its CRD"));
  EXPECT_EQ(r.reflector->status().state, Reflector::State::kAbsent);
  RunFor(loop_, 200ms);
  EXPECT_EQ(r.log.size(), 2U);
  server_.SetAbsent("httproutes", false);
  server_.Put(route, R"({"kind":"HTTPRoute","apiVersion":"gateway.networking.k8s.io/v1"})");
  ASSERT_TRUE(Synced(r, 2));
  EXPECT_EQ(r.objects.size(), 1U);
  ASSERT_TRUE(Watching());
  server_.SetAbsent("httproutes", true);
  server_.EndWatches();
  ASSERT_TRUE(Until([&] { return r.objects.empty(); }));
  ASSERT_TRUE(Synced(r, 3));
  EXPECT_EQ(r.log.back(), "sync");
  EXPECT_EQ(r.Count("absent"), 2U);
}

TEST_P(KubeReflector, AllGoOnWhenOneHearsTheServer) {
  ReflectorOptions patient;
  Recorder quick(client_, Pods());
  ASSERT_TRUE(Synced(quick) && Watching());
  server_.Listen(false);
  ASSERT_TRUE(Until([&] { return !quick.errors.empty(); }));
  // One that would wait for long.
  patient.backoff_first = patient.backoff_max = 30s;
  bool synced = false, failed = false;
  ReflectorEvents events;
  events.on_sync = [&] { synced = true; };
  events.on_error = [&](const Error&) { failed = true; };
  Reflector slow(client_, Routes(), patient, events);
  ASSERT_TRUE(Until([&] { return failed; }));
  server_.Listen(true);
  EXPECT_TRUE(RunUntil(loop_, [&] { return synced; }, 2s));
}

TEST_P(KubeReflector, DiesInItsCallbacks) {
  for (int i = 0; i < 5; ++i) server_.Put(Pod("p" + std::to_string(i)), kPod);
  Recorder in_list(client_, Pods());
  in_list.on_upsert = [&] {
    if (in_list.log.size() == 2) in_list.reflector.reset();
  };
  ASSERT_TRUE(Until([&] { return in_list.reflector == nullptr; }));
  Recorder in_watch(client_, Pods());
  ASSERT_TRUE(Synced(in_watch) && Watching());
  in_watch.on_upsert = [&] { in_watch.reflector.reset(); };
  server_.StallWatches(true);
  for (int i = 0; i < 5; ++i) server_.Put(Pod("p" + std::to_string(i)), kPod);
  server_.StallWatches(false);
  ASSERT_TRUE(Until([&] { return in_watch.reflector == nullptr; }));
  RunFor(loop_, 50ms);
  EXPECT_EQ(in_list.log.size(), 2U);
  EXPECT_EQ(in_watch.log.size(), 7U);
}

// Whatever happens to server and connection, in the end both have the same, and each key's history
// makes sense: nothing goes that is not there.
TEST_P(KubeReflector, AnyTroubleEndsInTheSameState) {
  std::minstd_rand random(7);
  Recorder r(client_, Pods(), {.page = 5});
  for (int round = 0; round < 150; ++round) {
    const std::string path = Pod("p" + std::to_string(random() % 20));
    switch (random() % 12) {
      case 0: server_.DropConnections(); break;
      case 1: server_.EndWatches(); break;
      case 2: server_.Expire(); break;
      case 3: server_.SendBookmarks(); break;
      case 4: server_.GoAway(); break;
      case 5:
        server_.AddFault({.status = random() % 2 == 0 ? 500 : 410, .reason = "Expired"});
        break;
      case 6: server_.SendLine("{\"type\":\"ADD"); break;
      case 7:
      case 8: server_.Remove(path); break;
      default: server_.Put(path, kPod); break;
    }
    RunFor(loop_, std::chrono::milliseconds(random() % 4));
  }
  server_.ClearFaults();
  EXPECT_TRUE(Same(r));
  std::set<std::string> there;
  for (const std::string& entry : r.log) {
    if (entry[0] == '+') there.insert(entry.substr(1));
    if (entry[0] == '-') EXPECT_EQ(there.erase(entry.substr(1)), 1U) << entry;
  }
}

}  // namespace
}  // namespace qanat::kube::testing
