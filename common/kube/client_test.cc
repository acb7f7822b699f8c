// SPDX-License-Identifier: Apache-2.0
#include "common/kube/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>

#include "common/kube/test_util.h"
#include "common/kube/token_review.h"
#include "common/tls/test_certs.h"
#include "tests/support/kube/fake_api_server.h"

namespace qanat::kube::testing {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr char kWeb[] = "/api/v1/namespaces/shop/pods/web";

ClientOptions Quick() {
  ClientOptions options;
  options.backoff_first = 10ms;
  options.backoff_max = 50ms;
  return options;
}

class KubeClient : public ::testing::TestWithParam<int> {
 protected:
  static FakeApiServer::Options ServerOptions() {
    FakeApiServer::Options out;
    out.tls = GetParam() != 1;
    out.http1_only = GetParam() == 2;
    return out;
  }
  Result<CallResponse> Do(CallRequest request) { return Wait(loop_, client_, std::move(request)); }

  FakeApiServer server_{ServerOptions()};
  event::EventLoop loop_;
  Client client_{loop_, server_.Config(), Quick()};
};
INSTANTIATE_TEST_SUITE_P(Protocols, KubeClient, ::testing::Values(0, 1, 2), [](const auto& info) {
  return std::string(info.param == 0 ? "Http2" : info.param == 1 ? "PlainHttp1" : "TlsHttp1");
});

TEST_P(KubeClient, CreateReadChangeDelete) {
  auto made = Do(Create(Pods(), "shop", R"({"kind":"Pod","metadata":{"name":"web"}})"));
  ASSERT_TRUE(made.has_value()) << made.error().message;
  EXPECT_EQ(made->status, 201);
  EXPECT_THAT(made->body, HasSubstr("uid-1"));
  auto again = Do(Create(Pods(), "shop", R"({"kind":"Pod","metadata":{"name":"web"}})"));
  ASSERT_FALSE(again.has_value());
  EXPECT_EQ(again.error().code, Code::kAlreadyExists);
  EXPECT_TRUE(Do(MergePatch(Pods(), "shop", "web", R"({"metadata":{"labels":{"a":"b"}}})")));
  EXPECT_THAT(Do(Get(Pods(), "shop", "web"))->body, HasSubstr(R"("a":"b")"));
  auto stale = Do(Replace(Pods(), "shop", "web", R"({"metadata":{"resourceVersion":"1"}})"));
  ASSERT_FALSE(stale.has_value());
  EXPECT_EQ(stale.error().code, Code::kFailedPrecondition);
  EXPECT_TRUE(
      Do(Apply(Pods(), "shop", "api", R"({"kind":"Pod","metadata":{"name":"api"}})", "me")));
  EXPECT_EQ(server_.requests().back().query, "fieldManager=me&force=true");
  EXPECT_EQ(server_.requests().back().content_type, "application/apply-patch+yaml");
  EXPECT_EQ(server_.List("/api/v1/pods").size(), 2U);
  EXPECT_TRUE(Do(Delete(Pods(), "shop", "web")));
  auto gone = Do(Get(Pods(), "shop", "web"));
  ASSERT_FALSE(gone.has_value());
  EXPECT_EQ(gone.error().code, Code::kNotFound);
  EXPECT_EQ(server_.requests().back().token, "test-token");
  EXPECT_EQ(server_.connections(), 1U);
}

TEST_P(KubeClient, ManyAtOnce) {
  for (int i = 0; i < 50; ++i) server_.Put(kWeb + std::to_string(i), R"({"kind":"Pod"})");
  std::vector<HandlePtr> calls;
  int good = 0, done = 0;
  for (int i = 0; i < 50; ++i) {
    calls.push_back(client_.Call(
        Get(Pods(), "shop", "web" + std::to_string(i)), [&, i](const Result<CallResponse>& result) {
          ++done;
          if (result && result->body.find("web" + std::to_string(i)) != std::string::npos) {
            ++good;
          }
        }));
  }
  EXPECT_TRUE(RunUntil(loop_, [&] { return done == 50; }));
  EXPECT_EQ(good, 50);
  if (GetParam() == 0) EXPECT_EQ(server_.connections(), 1U);
}

TEST_P(KubeClient, LargeAnswerAndLimit) {
  server_.Put(kWeb, R"({"kind":"Pod","data":")" + std::string(3 << 20, 'x') + "\"}");
  auto large = Do(Get(Pods(), "shop", "web"));
  ASSERT_TRUE(large.has_value()) << large.error().message;
  EXPECT_GT(large->body.size(), 3U << 20);
  CallRequest request = Get(Pods(), "shop", "web");
  request.max_response_bytes = 1 << 20;
  auto refused = Do(request);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_TRUE(Do(List(Routes(), "")));  // the client is still good
}

TEST_P(KubeClient, ConnectionLostUnderAGet) {
  EXPECT_TRUE(Do(List(Pods(), "")));
  server_.AddFault({.method = "GET", .drop = true});
  EXPECT_TRUE(Do(List(Pods(), "")));
  // Nobody knows whether a POST was carried out.
  server_.AddFault({.method = "POST", .drop = true});
  auto lost = Do(Create(Pods(), "shop", R"({"metadata":{"name":"x"}})"));
  ASSERT_FALSE(lost.has_value());
  EXPECT_EQ(lost.error().code, Code::kUnavailable);
  EXPECT_THAT(lost.error().message, HasSubstr("is not known"));
}

TEST_P(KubeClient, GoAwayLosesNothing) {
  server_.AddFault({.path_part = "pods", .status = 0, .delay = 300ms});
  int done = 0;
  const HandlePtr slow = client_.Call(List(Pods(), ""), [&](const Result<CallResponse>& result) {
    EXPECT_TRUE(result.has_value());
    ++done;
  });
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_.requests().size() == 1; }));
  server_.GoAway();
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(Do(List(Routes(), "")));
    RunFor(loop_, 5ms);
  }
  EXPECT_TRUE(RunUntil(loop_, [&] { return done == 1; }));
  EXPECT_EQ(server_.requests().size(), 21U);  // none twice
}

TEST_P(KubeClient, ServerAwayThenBack) {
  server_.Listen(false);
  auto refused = Do(List(Pods(), ""));
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, Code::kUnavailable);
  EXPECT_THAT(refused.error().message, HasSubstr(server_.address()));
  EXPECT_THAT(refused.error().message, HasSubstr("is the API server up"));
  EXPECT_FALSE(client_.connection_error().empty());
  server_.Listen(true);
  EXPECT_TRUE(Do(List(Pods(), "")));
  EXPECT_TRUE(client_.connection_error().empty());
}

TEST_P(KubeClient, SlowServerMeetsTheDeadline) {
  server_.AddFault({.stall = true});
  CallRequest request = List(Pods(), "");
  request.timeout = 100ms;
  auto slow = Do(request);
  ASSERT_FALSE(slow.has_value());
  EXPECT_EQ(slow.error().code, Code::kDeadlineExceeded);
  EXPECT_THAT(slow.error().message, HasSubstr("no answer within 100 ms"));
}

TEST_P(KubeClient, ThrottledAndServedLater) {
  server_.AddFault({.count = 2, .status = 429, .reason = "TooManyRequests", .retry_after = 0});
  EXPECT_TRUE(Do(List(Pods(), "")));
  EXPECT_EQ(server_.requests().size(), 3U);
  server_.AddFault({.count = -1, .status = 429, .reason = "TooManyRequests", .retry_after = 0});
  CallRequest request = List(Pods(), "");
  request.timeout = 250ms;
  auto put_off = Do(request);
  ASSERT_FALSE(put_off.has_value());
  EXPECT_THAT(put_off.error().message, HasSubstr("put us off"));
}

TEST_P(KubeClient, CancelAnywhere) {
  server_.AddFault({.status = 0, .delay = 50ms});
  int done = 0;
  HandlePtr call = client_.Call(List(Pods(), ""), [&](const Result<CallResponse>&) { ++done; });
  call.reset();  // before anything
  server_.ClearFaults();
  server_.AddFault({.status = 0, .delay = 50ms});
  call = client_.Call(List(Pods(), ""), [&](const Result<CallResponse>&) { ++done; });
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_.requests().size() == 1; }));
  call.reset();  // on its way
  // In its own callback, and starting another there.
  call = client_.Call(List(Pods(), ""), [&](const Result<CallResponse>&) {
    call = client_.Call(List(Routes(), ""), [&](const Result<CallResponse>&) {
      ++done;
      call.reset();
    });
  });
  EXPECT_TRUE(RunUntil(loop_, [&] { return done == 1; }));
  RunFor(loop_, 80ms);
  EXPECT_EQ(done, 1);
}

TEST_P(KubeClient, ClientDiesInACallbackBeforeItsHandles) {
  auto client = std::make_unique<Client>(loop_, server_.Config(), Quick());
  bool done = false;
  std::vector<HandlePtr> others;
  server_.AddFault({.path_part = "httproutes", .count = -1, .stall = true});
  for (int i = 0; i < 3; ++i) {
    others.push_back(client->Call(List(Routes(), ""), [](const Result<CallResponse>&) { FAIL(); }));
  }
  const HandlePtr call = client->Call(List(Pods(), ""), [&](const Result<CallResponse>&) {
    client.reset();
    done = true;
  });
  EXPECT_TRUE(RunUntil(loop_, [&] { return done; }));
  RunFor(loop_, 30ms);
}

TEST_P(KubeClient, WatchLines) {
  server_.Put(kWeb, R"({"kind":"Pod"})");
  std::vector<std::string> lines;
  std::optional<WatchEnd> end;
  HandlePtr watch = client_.Watch(
      {.path = Pods().Path()}, [&](std::string_view line) { lines.emplace_back(line); },
      [&](const WatchEnd& e) { end = e; });
  ASSERT_TRUE(RunUntil(loop_, [&] { return lines.size() == 1; }));
  server_.Remove(kWeb);
  ASSERT_TRUE(RunUntil(loop_, [&] { return lines.size() == 2; }));
  EXPECT_THAT(lines[1], HasSubstr("DELETED"));
  server_.EndWatches();
  ASSERT_TRUE(RunUntil(loop_, [&] { return end.has_value(); }));
  EXPECT_TRUE(end->in_order) << end->error.message;

  end.reset();
  watch = client_.Watch(
      {.path = Pods().Path(), .lifetime = 100ms}, [](std::string_view) {},
      [&](const WatchEnd& e) { end = e; });
  ASSERT_TRUE(RunUntil(loop_, [&] { return end.has_value(); }));
  EXPECT_FALSE(end->in_order);
  EXPECT_EQ(end->error.code, Code::kDeadlineExceeded);

  end.reset();
  lines.clear();
  server_.Put(kWeb, R"({"kind":"Pod"})");
  watch = client_.Watch(
      {.path = Pods().Path()}, [&](std::string_view line) { lines.emplace_back(line); },
      [&](const WatchEnd& e) { end = e; });
  ASSERT_TRUE(RunUntil(loop_, [&] { return lines.size() == 1; }));
  server_.DropConnections();
  ASSERT_TRUE(RunUntil(loop_, [&] { return end.has_value(); }));
  EXPECT_FALSE(end->in_order);

  end.reset();
  server_.AddFault({.status = 403, .reason = "Forbidden", .message = "User \"u\" cannot watch"});
  watch = client_.Watch(
      {.path = Pods().Path()}, [](std::string_view) {}, [&](const WatchEnd& e) { end = e; });
  ASSERT_TRUE(RunUntil(loop_, [&] { return end.has_value(); }));
  EXPECT_EQ(end->http_status, 403);
  EXPECT_THAT(end->error.message, HasSubstr("verbs [\"watch\"]"));
}

TEST_P(KubeClient, WatchDiesInItsLine) {
  std::vector<std::string> lines;
  HandlePtr watch;
  watch = client_.Watch(
      {.path = Pods().Path()},
      [&](std::string_view line) {
        lines.emplace_back(line);
        watch.reset();
      },
      [&](const WatchEnd&) { FAIL(); });
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_.watches() == 1; }));
  server_.SendLine("{}\n{}\n{}");
  EXPECT_TRUE(RunUntil(loop_, [&] { return lines.size() == 1; }));
  RunFor(loop_, 30ms);
  EXPECT_EQ(lines.size(), 1U);
}

TEST_P(KubeClient, RotatedToken) {
  const std::string file = "/tmp/qanat-kube-token-" + std::to_string(getpid());
  const auto write = [&](const std::string& token) { std::ofstream(file) << token << "\n"; };
  write("one");
  ClientConfig config = server_.Config();
  config.token.clear();
  config.token_file = file;
  server_.RequireToken("one");
  Client client(loop_, config, Quick());
  EXPECT_TRUE(Wait(loop_, client, List(Pods(), "")));
  server_.RequireToken("two");
  auto refused = Wait(loop_, client, List(Pods(), ""));
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, Code::kUnauthenticated);
  EXPECT_THAT(refused.error().message, HasSubstr("the token in " + file));
  EXPECT_THAT(refused.error().message, HasSubstr("delete the pod"));
  write("two");
  EXPECT_TRUE(Wait(loop_, client, List(Pods(), "")));  // found out by the 401
  unlink(file.c_str());
  EXPECT_TRUE(Wait(loop_, client, List(Pods(), "")));  // the one in hand is good still
  Client fresh(loop_, config, Quick());
  auto missing = Wait(loop_, fresh, List(Pods(), ""));
  ASSERT_FALSE(missing.has_value());
  EXPECT_THAT(missing.error().message, HasSubstr(file));
}

TEST_P(KubeClient, TokenReview) {
  server_.AddToken("abc", "system:serviceaccount:shop:web", {"istio-ca"},
                   {{"authentication.kubernetes.io/pod-name", "web-1"}});
  auto answer = Do(CreateTokenReview("abc", {"istio-ca"}));
  ASSERT_TRUE(answer.has_value());
  auto review = ParseTokenReview(answer->body);
  ASSERT_TRUE(review.has_value());
  EXPECT_TRUE(review->authenticated);
  EXPECT_EQ(review->Extra("pod-name"), "web-1");
  EXPECT_FALSE(ParseTokenReview(Do(CreateTokenReview("abc", {"other"}))->body)->authenticated);
  EXPECT_FALSE(ParseTokenReview(Do(CreateTokenReview("x", {"istio-ca"}))->body)->authenticated);
}

TEST_P(KubeClient, Blocking) {
  server_.Put(kWeb, R"({"kind":"Pod"})");
  auto kubeconfig = ParseKubeconfig(server_.Kubeconfig(), "/", {});
  ASSERT_TRUE(kubeconfig.has_value()) << kubeconfig.error().message;
  auto answer = CallBlocking(*kubeconfig, Get(Pods(), "shop", "web"));
  ASSERT_TRUE(answer.has_value()) << answer.error().message;
  server_.Listen(false);
  EXPECT_FALSE(CallBlocking(*kubeconfig, Get(Pods(), "shop", "web")).has_value());
}

TEST(KubeClientTls, WhoTheServerIs) {
  FakeApiServer server({.name = "kubernetes.default.svc"});
  event::EventLoop loop;
  {
    Client client(loop, server.Config());
    EXPECT_TRUE(Wait(loop, client, List(Pods(), "")));
  }
  ClientConfig other_name = server.Config();
  other_name.tls_server_name.clear();
  auto wrong_name = CallBlocking(other_name, List(Pods(), ""));
  ASSERT_FALSE(wrong_name.has_value());
  EXPECT_EQ(wrong_name.error().code, Code::kUnauthenticated);
  EXPECT_THAT(wrong_name.error().message, HasSubstr("wanted is 127.0.0.1"));
  ClientConfig other_ca = server.Config();
  other_ca.ca_pem = tls::testing::TestCa::Make().authority.certificate.ToPem();
  auto wrong_ca = CallBlocking(other_ca, List(Pods(), ""));
  ASSERT_FALSE(wrong_ca.has_value());
  EXPECT_EQ(wrong_ca.error().code, Code::kUnauthenticated);
  EXPECT_THAT(wrong_ca.error().message, HasSubstr("does its CA belong to this cluster"));
  ClientConfig no_ca = server.Config();
  no_ca.ca_pem.clear();
  EXPECT_FALSE(CallBlocking(no_ca, List(Pods(), "")).has_value());
}

TEST(KubeClientTls, RefusedIsRepeatedEvenAPost) {
  FakeApiServer server;
  event::EventLoop loop;
  Client client(loop, server.Config(), Quick());
  server.AddFault({.method = "POST", .count = 3, .refuse = true});
  EXPECT_TRUE(Wait(loop, client, Create(Pods(), "shop", R"({"metadata":{"name":"web"}})")));
  EXPECT_EQ(server.CountRequests("POST", "pods"), 4U);
}

TEST(KubeClientTls, HalfOpenConnectionIsNoticed) {
  FakeApiServer server;
  event::EventLoop loop;
  ClientOptions options = Quick();
  options.ping_interval = 50ms;
  options.ping_timeout = 1500ms;
  Client client(loop, server.Config(), options);
  server.Put(kWeb, R"({"kind":"Pod"})");
  bool open = false;
  std::optional<WatchEnd> end;
  const HandlePtr watch = client.Watch(
      {.path = Pods().Path()}, [&](std::string_view) { open = true; },
      [&](const WatchEnd& e) { end = e; });
  ASSERT_TRUE(RunUntil(loop, [&] { return open; }));
  RunFor(loop, 2s);
  EXPECT_FALSE(end.has_value());  // silence alone is no fault
  server.Freeze(5s);
  ASSERT_TRUE(RunUntil(loop, [&] { return end.has_value(); }));
  EXPECT_FALSE(end->in_order);
  EXPECT_THAT(end->error.message, HasSubstr("PING"));
}

TEST(KubeClientTls, MoreStreamsThanTheServerTakes) {
  FakeApiServer server({.max_streams = 2});
  event::EventLoop loop;
  Client client(loop, server.Config(), Quick());
  int done = 0, good = 0;
  std::vector<HandlePtr> calls;
  for (int i = 0; i < 30; ++i) {
    calls.push_back(client.Call(List(Pods(), ""), [&](const Result<CallResponse>& result) {
      ++done;
      if (result) ++good;
    }));
  }
  EXPECT_TRUE(RunUntil(loop, [&] { return done == 30; }));
  EXPECT_EQ(good, 30);
}

}  // namespace
}  // namespace qanat::kube::testing
