// SPDX-License-Identifier: Apache-2.0
#include "agent/publish/publisher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/kube/test_util.h"
#include "tests/support/kube/fake_api_server.h"

namespace qanat::agent {
namespace {

using kube::testing::RunFor;
using kube::testing::RunUntil;
using std::chrono::milliseconds;
using Json = nlohmann::json;

constexpr const char* kPath = "/api/v1/namespaces/shop/pods/web";

class PublisherTest : public ::testing::Test {
 protected:
  PublisherTest() {
    server_.Put(kPath, R"({"metadata":{"uid":"u1","annotations":{"keep":"me"}}})");
    client_ = std::make_unique<kube::Client>(loop_, server_.Config());
    PublisherOptions options;
    options.node_name = "n1";
    options.settle = milliseconds(50);
    options.event_after = milliseconds(100);
    options.retry = milliseconds(50);
    options.repeat = milliseconds(200);
    options.events_burst = 3;
    publisher_ = std::make_unique<Publisher>(loop_, *client_, options);
  }
  static PodView View(const std::string& redirection, const std::string& reason = "",
                      const std::string& published = "") {
    PodView view;
    view.uid = "u1";
    view.ns = "shop";
    view.name = "web";
    view.netns = "/run/netns/x";
    view.redirection = redirection;
    view.reason = reason;
    view.enforced = redirection == "enabled";
    view.published = published;
    return view;
  }
  std::string Annotation() {
    const Json pod = Json::parse(server_.Get(kPath));
    EXPECT_EQ(pod["metadata"]["annotations"]["keep"], "me");
    return pod["metadata"]["annotations"].value("ambient.istio.io/redirection", "");
  }
  bool Until(const std::function<bool()>& so) { return RunUntil(loop_, so); }
  std::vector<Json> Events() {
    std::vector<Json> out;
    for (const auto& text : server_.List("/api/v1/namespaces/shop/events"))
      out.push_back(Json::parse(text));
    return out;
  }
  size_t Patches() { return server_.CountRequests("PATCH", "/pods/web/status"); }

  event::EventLoop loop_;
  kube::testing::FakeApiServer server_;
  std::unique_ptr<kube::Client> client_;
  std::unique_ptr<Publisher> publisher_;
};

TEST_F(PublisherTest, TellsTheStateAndTakesItBack) {
  publisher_->OnPod(View("pending", ""));
  publisher_->OnPod(View("enabled"));
  ASSERT_TRUE(Until([&] { return Annotation() == "enabled"; }));
  EXPECT_EQ(Patches(), 1u) << "a state that passes at once is not told";
  ASSERT_TRUE(Until([&] { return Events().size() == 1; }));
  const Json event = Events()[0];
  EXPECT_EQ(event["reason"], "QanatEnrolled");
  EXPECT_EQ(event["involvedObject"]["uid"], "u1");
  EXPECT_EQ(event["type"], "Normal");
  publisher_->OnPod(View("enabled", "", "enabled"));
  RunFor(loop_, milliseconds(100));
  EXPECT_EQ(Patches(), 1u);
  publisher_->OnPod(View("disabled", "", "enabled"));
  ASSERT_TRUE(Until([&] { return Annotation().empty(); }));
  EXPECT_EQ(Events().size(), 1u);
}

TEST_F(PublisherTest, PendingHasItsReasonAsAnEventOnce) {
  publisher_->OnPod(View("pending", "no proxy is connected"));
  ASSERT_TRUE(Until([&] { return Annotation() == "pending"; }));
  ASSERT_TRUE(Until([&] { return Events().size() == 1; }));
  EXPECT_EQ(Events()[0]["reason"], "QanatPending");
  EXPECT_THAT(Events()[0]["message"].get<std::string>(), ::testing::HasSubstr("no proxy"));
  for (int i = 0; i < 5; ++i)
    publisher_->OnPod(View("pending", "no proxy is connected", "pending"));
  RunFor(loop_, milliseconds(300));
  EXPECT_EQ(Events().size(), 1u);
  EXPECT_EQ(Patches(), 1u);
}

TEST_F(PublisherTest, APodWithoutASandboxIsNotSpokenOf) {
  PodView view = View("pending", "the pod has no address yet");
  view.netns.clear();
  publisher_->OnPod(view);
  RunFor(loop_, milliseconds(200));
  EXPECT_EQ(Events().size(), 0u);
  EXPECT_EQ(Patches(), 0u);
}

TEST_F(PublisherTest, ARefusedPodKeepsWhatAnotherMeshWrote) {
  PodView view = View("pending", "istio-cni is in the chain", "enabled");
  view.blocked = true;
  publisher_->OnPod(view);
  ASSERT_TRUE(Until([&] { return Events().size() == 1; }));
  EXPECT_EQ(Events()[0]["reason"], "QanatRefused");
  EXPECT_EQ(Patches(), 0u);
}

TEST_F(PublisherTest, APodThatAsksForTheMeshAndCannotBeInItHearsWhy) {
  PodView view = View("pending", "it has a sidecar: restart it without");
  view.blocked = view.refused = true;
  view.netns.clear();  // never looked for
  publisher_->OnPod(view);
  ASSERT_TRUE(Until([&] { return Events().size() == 1 && Annotation() == "pending"; }));
  EXPECT_EQ(Events()[0]["reason"], "QanatRefused");
  EXPECT_EQ(Events()[0]["type"], "Warning");
  EXPECT_THAT(Events()[0]["message"].get<std::string>(),
              ::testing::HasSubstr("restart it without"));
  view.published = "pending";
  publisher_->OnPod(view);
  RunFor(loop_, milliseconds(300));
  EXPECT_EQ(Events().size(), 1u) << "once";
  // Its label was taken away.
  publisher_->OnPod(View("disabled", "no label", "pending"));
  ASSERT_TRUE(Until([&] { return Annotation().empty(); }));
  EXPECT_EQ(Events().size(), 1u);
}

TEST_F(PublisherTest, WhatAnEarlierAgentToldIsNotToldAgain) {
  publisher_->OnPod(View("enabled", "", "enabled"));
  RunFor(loop_, milliseconds(150));
  EXPECT_EQ(Patches(), 0u);
  EXPECT_EQ(Events().size(), 0u);
}

TEST_F(PublisherTest, AWriteThatOthersUndoIsRepeatedSlowly) {
  const auto begun = event::Clock::now();
  publisher_->OnPod(View("enabled"));
  ASSERT_TRUE(Until([&] { return Annotation() == "enabled"; }));
  ASSERT_TRUE(Until([&] { return publisher_->stats().patches == 1; }));
  ASSERT_TRUE(Until([&] {
    publisher_->OnPod(View("enabled", "", ""));  // the source shows it without
    return Patches() == 3;
  }));
  EXPECT_GE(event::Clock::now() - begun, 2 * milliseconds(200)) << "each after the time for that";
}

TEST_F(PublisherTest, FailuresAreTriedAgainAndGoneOrOtherPodsAreNot) {
  server_.AddFault({.method = "PATCH", .count = 2, .status = 500});
  publisher_->OnPod(View("enabled"));
  ASSERT_TRUE(Until([&] { return publisher_->stats().patches == 1; }));
  EXPECT_EQ(Annotation(), "enabled");
  PodView other = View("enabled");
  other.uid = "u9";  // the pod of that name is another one
  other.name = "gone";
  publisher_->OnPod(other);
  RunFor(loop_, milliseconds(200));
  EXPECT_EQ(server_.CountRequests("PATCH", "/pods/gone/status"), 1u);
}

TEST_F(PublisherTest, TrafficOutsideTheMeshIsToldOnceAKind) {
  PodView view = View("enabled");
  publisher_->OnPod(view);
  ASSERT_TRUE(Until([&] { return Events().size() == 1; }));
  view.outside = {"UDP"};
  publisher_->OnPod(view);
  publisher_->OnPod(view);
  ASSERT_TRUE(Until([&] { return Events().size() == 2; }));
  EXPECT_EQ(Events()[1]["reason"], "QanatUncaptured");
  EXPECT_EQ(Events()[1]["type"], "Normal");
  view.outside = {"UDP", "SCTP"};
  publisher_->OnPod(view);
  ASSERT_TRUE(Until([&] { return Events().size() == 3; }));
  const std::string message = Events()[2]["message"];
  EXPECT_NE(message.find("SCTP"), std::string::npos) << message;
  EXPECT_EQ(message.find("UDP"), std::string::npos) << message;
  view.outside = {"SCTP"};
  publisher_->OnPod(view);
  view.outside = {"UDP", "SCTP"};
  publisher_->OnPod(view);
  RunFor(loop_, milliseconds(200));
  EXPECT_EQ(Events().size(), 3u) << "each kind once";
}

TEST_F(PublisherTest, EventsAreBounded) {
  for (int i = 0; i < 20; ++i) {
    PodView view = View("pending", "reason");
    view.uid = "u" + std::to_string(i);
    publisher_->OnPod(view);
  }
  ASSERT_TRUE(Until([&] { return publisher_->stats().events_dropped > 0; }));
  RunFor(loop_, milliseconds(100));
  EXPECT_LE(Events().size(), 5u);
}

TEST_F(PublisherTest, FlushWaitsForWhatIsOnItsWay) {
  publisher_->OnPod(View("disabled", "", "enabled"));
  bool done = false;
  publisher_->Flush(std::chrono::seconds(5), [&] { done = true; });
  ASSERT_TRUE(Until([&] { return done; }));
  EXPECT_EQ(Annotation(), "");
  EXPECT_EQ(Patches(), 1u);
}

TEST_F(PublisherTest, APodThatCannotBeCapturedIsAnEventWhetherItIsEnrolledOrNot) {
  PodView view = View("enabled", "cannot be captured: by a packet socket on eth0");
  view.uncapturable = true;
  publisher_->OnPod(view);
  ASSERT_TRUE(Until([&] { return Events().size() == 1; }));
  EXPECT_EQ(Events()[0]["reason"], "QanatCannotCapture");
  EXPECT_EQ(Events()[0]["type"], "Warning");
  EXPECT_EQ(Events()[0]["message"], view.reason);
  EXPECT_EQ(EventOf(view).reason, "QanatCannotCapture");
  view.redirection = "pending";
  view.enforced = false;
  EXPECT_EQ(EventOf(view).reason, "QanatCannotCapture");
  view.cut_off = true;
  EXPECT_EQ(EventOf(view).reason, "QanatRefused");
}

TEST_F(PublisherTest, NotesOfAnEnrolledPodAreInItsEvent) {
  PodView view = View("enabled");
  view.notes = {"a is not honoured", "b is not understood"};
  EXPECT_EQ(EventOf(view).message, "captured and proven; a is not honoured; b is not understood");
}

}  // namespace
}  // namespace qanat::agent
