// SPDX-License-Identifier: Apache-2.0
// The client against a real API server, in a namespace of its own that it removes. What the fake
// one (tests/support/kube) says must be what this one says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "common/kube/test_util.h"
#include "common/kube/token_review.h"

namespace qanat::kube::testing {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using Json = nlohmann::json;

const Resource kNamespaces{"", "v1", "namespaces", "Namespace", false};
const Resource kMaps{"", "v1", "configmaps", "ConfigMap", true};
const Resource kAccounts{"", "v1", "serviceaccounts", "ServiceAccount", true};
const Resource kLeases{"coordination.k8s.io", "v1", "leases", "Lease", true};
const Resource kCrds{"apiextensions.k8s.io", "v1", "customresourcedefinitions",
                     "CustomResourceDefinition", false};
const Resource kThings{"live.qanat.test", "v1", "things", "Thing", true};

class KubeLive : public ::testing::Test {
 protected:
  static ClientConfig Config() {
    auto config = ClientConfig::FromKubeconfig({});
    if (!config) {
      ADD_FAILURE() << config.error().message;
      return {};
    }
    return *config;
  }
  KubeLive() {
    const Json ns = {{"apiVersion", "v1"}, {"kind", "Namespace"}, {"metadata", {{"name", ns_}}}};
    Must(Create(kNamespaces, "", ns.dump()));
  }
  ~KubeLive() override { Must(Delete(kNamespaces, "", ns_)); }

  Result<CallResponse> Do(CallRequest request) { return Wait(loop_, client_, std::move(request)); }
  Json Must(CallRequest request) {
    const std::string what = request.method + " " + request.path;
    auto answer = Do(std::move(request));
    EXPECT_TRUE(answer.has_value()) << what << ": " << (answer ? "" : answer.error().message);
    return answer ? Json::parse(answer->body, nullptr, false) : Json();
  }
  static std::string Map(const std::string& name, const std::string& value = "1") {
    return Json{{"apiVersion", "v1"},
                {"kind", "ConfigMap"},
                {"metadata", {{"name", name}}},
                {"data", {{"x", value}}}}
        .dump();
  }
  bool Until(const std::function<bool()>& so) { return RunUntil(loop_, so, 30s); }

  static inline int number_ = 0;
  const std::string ns_ =
      "qanat-live-" + std::to_string(getpid()) + "-" + std::to_string(++number_);
  event::EventLoop loop_;
  Client client_{loop_, Config()};
};

TEST_F(KubeLive, Objects) {
  EXPECT_EQ(Must(Create(kMaps, ns_, Map("a")))["data"]["x"], "1");
  auto twice = Do(Create(kMaps, ns_, Map("a")));
  ASSERT_FALSE(twice.has_value());
  EXPECT_EQ(twice.error().code, Code::kAlreadyExists) << twice.error().message;
  Json a = Must(MergePatch(kMaps, ns_, "a", R"({"data":{"y":"2"}})"));
  EXPECT_EQ(a["data"]["y"], "2");
  Json stale = a;
  stale["metadata"]["resourceVersion"] = "1";
  auto conflict = Do(Replace(kMaps, ns_, "a", stale.dump()));
  ASSERT_FALSE(conflict.has_value());
  EXPECT_EQ(conflict.error().code, Code::kFailedPrecondition) << conflict.error().message;
  // Server-side apply: made, changed, and refused where another manager owns the field.
  EXPECT_EQ(Must(Apply(kMaps, ns_, "b", Map("b", "1"), "one"))["data"]["x"], "1");
  auto owned = Do(Apply(kMaps, ns_, "b", Map("b", "2"), "two", false));
  ASSERT_FALSE(owned.has_value());
  EXPECT_EQ(owned.error().code, Code::kFailedPrecondition) << owned.error().message;
  EXPECT_EQ(Must(Apply(kMaps, ns_, "b", Map("b", "3"), "two"))["data"]["x"], "3");
  auto bad = Do(Create(kMaps, ns_, Map("Not A Name")));
  ASSERT_FALSE(bad.has_value());
  EXPECT_EQ(bad.error().code, Code::kInvalidArgument) << bad.error().message;
  auto missing = Do(Get(kMaps, ns_, "none"));
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code, Code::kNotFound);
  EXPECT_EQ(missing.error().message.find("CRD"), std::string::npos) << missing.error().message;
  auto no_crd = Do(List(kThings, ""));
  ASSERT_FALSE(no_crd.has_value());
  EXPECT_THAT(no_crd.error().message, HasSubstr("install its CRD"));
  Must(Delete(kMaps, ns_, "a"));
  Must(Create(kLeases, ns_,
              R"({"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"l"},
                  "spec":{"holderIdentity":"x","leaseDurationSeconds":15}})"));
}

TEST_F(KubeLive, Follow) {
  for (int i = 0; i < 7; ++i) Must(Create(kMaps, ns_, Map("m" + std::to_string(i))));
  Recorder r(client_, kMaps, {.ns = ns_, .page = 3});
  ASSERT_TRUE(Until([&] { return r.syncs == 1; }));
  EXPECT_GE(r.objects.size(), 7U);
  const Json first = Json::parse(r.objects[ns_ + "/m0"], nullptr, false);
  EXPECT_EQ(first.value("kind", ""), "ConfigMap");
  EXPECT_EQ(first.value("apiVersion", ""), "v1");
  Must(MergePatch(kMaps, ns_, "m0", R"({"data":{"x":"new"}})"));
  Must(Delete(kMaps, ns_, "m1"));
  Must(Create(kMaps, ns_, Map("m9")));
  EXPECT_TRUE(Until([&] {
    return r.objects.contains(ns_ + "/m9") && !r.objects.contains(ns_ + "/m1") &&
           r.objects[ns_ + "/m0"].find("\"new\"") != std::string::npos;
  }));
  EXPECT_EQ(r.reflector->status().lists, 1U);
  EXPECT_TRUE(r.errors.empty()) << ::testing::PrintToString(r.errors);
}

TEST_F(KubeLive, VersionsOfAnotherTime) {
  const auto watch = [&](const std::string& version) {
    std::string line;
    std::optional<WatchEnd> end;
    const HandlePtr handle = client_.Watch(
        {.path = kMaps.Path("kube-system"), .query = {{"resourceVersion", version}}},
        [&](std::string_view text) { line = text; }, [&](const WatchEnd& e) { end = e; });
    EXPECT_TRUE(Until([&] { return end || !line.empty(); }));
    return line + (end ? " | " + std::to_string(end->http_status) + " " + end->error.message : "");
  };
  // A young server still knows the beginning: events, or 410.
  EXPECT_THAT(watch("1"), ::testing::AnyOf(HasSubstr("410"), HasSubstr("ADDED")));
  auto page = Do([&] {
    CallRequest request = List(kMaps, ns_);
    request.query = {{"limit", "1"}, {"continue", "nonsense"}};
    return request;
  }());
  ASSERT_FALSE(page.has_value());
  EXPECT_EQ(page.error().code, Code::kInvalidArgument) << page.error().message;
}

TEST_F(KubeLive, CrdComesAndGoes) {
  Recorder r(client_, kThings);
  ASSERT_TRUE(Until([&] { return r.Count("absent") == 1; })) << ::testing::PrintToString(r.errors);
  Must(Create(kCrds, "",
              R"({"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",
    "metadata":{"name":"things.live.qanat.test"},"spec":{"group":"live.qanat.test","scope":"Namespaced",
    "names":{"plural":"things","kind":"Thing"},"versions":[{"name":"v1","served":true,"storage":true,
    "schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}})"));
  ASSERT_TRUE(Until([&] { return r.reflector->status().state == Reflector::State::kWatching; }));
  Must(Create(kThings, ns_,
              R"({"apiVersion":"live.qanat.test/v1","kind":"Thing","metadata":{"name":"t"}})"));
  EXPECT_TRUE(Until([&] { return r.objects.size() == 1; }));
  Must(Delete(kCrds, "", "things.live.qanat.test"));
  EXPECT_TRUE(Until([&] { return r.Count("absent") == 2; })) << ::testing::PrintToString(r.log);
  EXPECT_TRUE(r.objects.empty());
}

TEST_F(KubeLive, WhoseTokenAndWhatItMayDo) {
  ASSERT_TRUE(Until([&] { return Do(Get(kAccounts, ns_, "default")).has_value(); }));
  CallRequest request;
  request.method = "POST";
  request.path = kAccounts.Path(ns_, "default", "token");
  request.body =
      R"({"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":["istio-ca"]}})";
  const std::string token = Must(request)["status"]["token"];
  const auto review = [&](const std::string& text, const char* audience) {
    return ParseTokenReview(Must(CreateTokenReview(text, {audience})).dump()).value();
  };
  const TokenReview good = review(token, "istio-ca");
  EXPECT_TRUE(good.authenticated) << good.error;
  EXPECT_EQ(good.ServiceAccountNamespace(), ns_);
  EXPECT_EQ(good.ServiceAccountName(), "default");
  EXPECT_EQ(good.audiences, std::vector<std::string>{"istio-ca"});
  EXPECT_FALSE(review(token, "somebody-else").authenticated);
  EXPECT_FALSE(review("nonsense", "istio-ca").authenticated);

  // For the API server itself: known, and allowed nothing.
  request.body = R"({"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}})";
  ClientConfig config = Config();
  config.client_certificate_pem.clear();
  config.client_key_pem.clear();
  config.token = Must(request)["status"]["token"];
  auto forbidden = CallBlocking(config, List(kMaps, ns_));
  ASSERT_FALSE(forbidden.has_value());
  EXPECT_EQ(forbidden.error().code, Code::kPermissionDenied);
  EXPECT_THAT(forbidden.error().message, HasSubstr("give system:serviceaccount:" + ns_ +
                                                   ":default a Role in namespace " + ns_));
  config.token = "nonsense";
  auto unknown = CallBlocking(config, List(kMaps, ns_));
  ASSERT_FALSE(unknown.has_value());
  EXPECT_EQ(unknown.error().code, Code::kUnauthenticated) << unknown.error().message;
}

}  // namespace
}  // namespace qanat::kube::testing
