// SPDX-License-Identifier: Apache-2.0
// The parts without sockets: paths, JSON slices, lines, Status, TokenReview.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/kube/files.h"
#include "common/kube/json_slice.h"
#include "common/kube/line_splitter.h"
#include "common/kube/resource.h"
#include "common/kube/status.h"
#include "common/kube/token_review.h"

namespace qanat::kube {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const Resource kPods{"", "v1", "pods", "Pod", true};
const Resource kRoutes{"gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute", true};
const Resource kNodes{"", "v1", "nodes", "Node", false};

TEST(ResourcePath, AllForms) {
  EXPECT_EQ(kPods.Path(), "/api/v1/pods");
  EXPECT_EQ(kPods.Path("shop", "web", "status"), "/api/v1/namespaces/shop/pods/web/status");
  EXPECT_EQ(kRoutes.Path("a"), "/apis/gateway.networking.k8s.io/v1/namespaces/a/httproutes");
  EXPECT_EQ(kNodes.Path("ignored", "n:1"), "/api/v1/nodes/n%3A1");
  EXPECT_EQ(EncodeQuery({{"labelSelector", "a=b,c"}, {"x", "1 2"}}),
            "labelSelector=a%3Db%2Cc&x=1%202");
}

TEST(Describe, WhatRbacCallsIt) {
  const auto text = [](std::string_view method, std::string_view path, bool watch = false) {
    const RequestInfo i = Describe(method, path, watch);
    return i.verb + "|" + i.group + "|" + i.resource + "|" + i.subresource + "|" + i.ns + "|" +
           i.name;
  };
  EXPECT_EQ(text("GET", "/api/v1/pods"), "list||pods|||");
  EXPECT_EQ(text("GET", "/api/v1/namespaces/shop"), "get||namespaces|||shop");
  EXPECT_EQ(text("PUT", "/api/v1/namespaces/shop/status"), "update||namespaces|status||shop");
  EXPECT_EQ(text("GET", "/api/v1/namespaces/shop/pods", true), "watch||pods||shop|");
  EXPECT_EQ(text("PATCH", "/apis/apps/v1/namespaces/a/deployments/d/scale"),
            "patch|apps|deployments|scale|a|d");
  EXPECT_EQ(text("DELETE", "/apis/apps/v1/namespaces/a/deployments"),
            "deletecollection|apps|deployments||a|");
  EXPECT_FALSE(Describe("GET", "/version").is_resource);
  EXPECT_FALSE(Describe("GET", "/api/v1").is_resource);
  EXPECT_FALSE(Describe("GET", "").is_resource);
}

TEST(JsonSlice, CutsWithoutParsing) {
  const std::string text =
      R"( {"a" : [1, {"x":"]}\"" }, "s"] ,"b":null, "metadata":{"name":"n\u00e9\ud83d\ude00","resourceVersion":"7"}})";
  EXPECT_EQ(FindMember(text, "a"), R"([1, {"x":"]}\"" }, "s"])");
  std::vector<std::string> items;
  EXPECT_TRUE(ForEachItem(FindMember(text, "a"), [&](std::string_view item) {
    items.emplace_back(item);
    return true;
  }));
  EXPECT_THAT(items, ElementsAre("1", R"({"x":"]}\"" })", "\"s\""));
  ObjectMeta meta;
  EXPECT_TRUE(ReadMeta(text, meta));
  EXPECT_EQ(meta.name, "n\xC3\xA9\xF0\x9F\x98\x80");
  EXPECT_EQ(meta.resource_version, "7");
  EXPECT_FALSE(meta.has_kind);
  EXPECT_EQ(DecodeString(R"("\n\t\/\\\b")"), "\n\t/\\\b");
  EXPECT_TRUE(ForEachItem("null", [](std::string_view) { return false; }));
}

TEST(JsonSlice, RefusesWhatIsBroken) {
  const auto all = [](std::string_view) { return true; };
  const auto both = [](std::string_view, std::string_view) { return true; };
  for (const char* text : {"", "[", "[1", "[1,", "[1 2]", "[{]", "[\"a]", "[,]x", "{}"}) {
    EXPECT_FALSE(ForEachItem(text, all)) << text;
  }
  for (const char* text : {"", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "{a:1}",
                           "{\"a\" 1}", "{\"a\":]}", "{\"a\":{]}", "[]"}) {
    EXPECT_FALSE(ForEachMember(text, both)) << text;
  }
  for (const char* text : {"", "\"", "\"a", "a\"", R"("\x")", R"("\u12")", R"("\ud800")",
                           R"("\udc00x")", R"("\")", R"("a"b")"}) {
    EXPECT_FALSE(DecodeString(text)) << text;
  }
  ObjectMeta meta;
  EXPECT_FALSE(ReadMeta(R"({"metadata":{"name":5}})", meta));
  EXPECT_FALSE(ReadMeta(R"({"spec":{}})", meta));
  EXPECT_FALSE(ForEachMember("{\"a\":" + std::string(100000, '['), both));
}

TEST(LineSplitter, AnyCutGivesTheSameLines) {
  const std::string stream = "{\"a\":1}\n\n{\"b\":2}\r\n{\"c\":3}\n";
  for (size_t cut = 1; cut <= stream.size(); ++cut) {
    LineSplitter splitter(100);
    std::vector<std::string> lines;
    for (size_t at = 0; at < stream.size(); at += cut) {
      EXPECT_EQ(splitter.Add(std::string_view(stream).substr(at, cut),
                             [&](std::string_view line) {
                               lines.emplace_back(line);
                               return true;
                             }),
                LineSplitter::Result::kOk);
    }
    EXPECT_THAT(lines, ElementsAre("{\"a\":1}", "{\"b\":2}", "{\"c\":3}")) << cut;
    EXPECT_FALSE(splitter.in_line());
  }
}

TEST(LineSplitter, Limits) {
  LineSplitter splitter(4);
  int lines = 0;
  const auto count = [&](std::string_view) { return ++lines < 2; };
  EXPECT_EQ(splitter.Add("abcd\nef", count), LineSplitter::Result::kOk);
  EXPECT_TRUE(splitter.in_line());
  EXPECT_EQ(splitter.Add("gh\nij\n", count), LineSplitter::Result::kStopped);
  EXPECT_EQ(LineSplitter(4).Add("abcde", count), LineSplitter::Result::kTooLong);
  LineSplitter halves(4);
  EXPECT_EQ(halves.Add("abc", count), LineSplitter::Result::kOk);
  EXPECT_EQ(halves.Add("de\n", count), LineSplitter::Result::kTooLong);
}

TEST(StatusText, NamesTheMissingRule) {
  const Error error = ErrorOf(
      "GET", "/apis/gateway.networking.k8s.io/v1/httproutes", true, 403,
      R"({"kind":"Status","reason":"Forbidden","code":403,"message":"httproutes.gateway.networking.k8s.io is forbidden: User \"system:serviceaccount:qanat-system:agent\" cannot watch resource"})");
  EXPECT_EQ(error.code, Code::kPermissionDenied);
  EXPECT_THAT(error.message,
              HasSubstr("give system:serviceaccount:qanat-system:agent a ClusterRole with the rule "
                        "apiGroups [\"gateway.networking.k8s.io\"], resources [\"httproutes\"], "
                        "verbs [\"watch\"]"));
}

TEST(StatusText, AdmissionIsNotRbac) {
  const Error error = ErrorOf(
      "POST", "/api/v1/namespaces/a/pods", false, 403,
      R"({"kind":"Status","reason":"Forbidden","code":403,"message":"pods \"b\" is forbidden: violates PodSecurity"})");
  EXPECT_EQ(error.code, Code::kPermissionDenied);
  EXPECT_EQ(error.message.find("with the rule"), std::string::npos) << error.message;
}

TEST(StatusText, CodesAndRemedies) {
  const auto status = [](int code, const char* reason, const char* details = "{}") {
    return ErrorOf("PATCH", "/api/v1/namespaces/a/pods/b/status", false, code,
                   std::string(R"({"kind":"Status","message":"m","reason":")") + reason +
                       R"(","details":)" + details + "}");
  };
  EXPECT_EQ(status(401, "Unauthorized").code, Code::kUnauthenticated);
  EXPECT_THAT(status(401, "Unauthorized").message, HasSubstr("expired"));
  EXPECT_EQ(status(409, "AlreadyExists").code, Code::kAlreadyExists);
  EXPECT_EQ(status(409, "Conflict").code, Code::kFailedPrecondition);
  EXPECT_EQ(status(410, "Expired").code, Code::kFailedPrecondition);
  EXPECT_EQ(status(422, "Invalid").code, Code::kInvalidArgument);
  EXPECT_EQ(status(503, "").code, Code::kUnavailable);
  const Error rbac = ErrorOf("PATCH", "/api/v1/namespaces/a/pods/b/status", false, 403,
                             R"({"kind":"Status","reason":"Forbidden","message":"cannot patch"})");
  EXPECT_THAT(rbac.message, HasSubstr("resources [\"pods/status\"]"));
  EXPECT_THAT(status(404, "NotFound", R"({"name":"b"})").message,
              HasSubstr("patch pods/status a/b: the API server answered 404 NotFound: m"));
  // A resource that nobody serves, as the real one says it.
  const Error missing = ErrorOf("GET", "/apis/x.io/v1/foos", false, 404, "404 page not found\n");
  EXPECT_EQ(missing.code, Code::kNotFound);
  EXPECT_THAT(missing.message, HasSubstr("install its CRD"));
  EXPECT_TRUE(ParseStatus(R"({"kind":"Status","message":"Too large resource version: 5"})")
                  .version_too_large);
  EXPECT_TRUE(ParseStatus("nonsense").reason.empty());
  EXPECT_TRUE(
      ParseStatus(R"({"kind":"Status","details":{"causes":[5]},"code":"x"})").reason.empty());
}

TEST(TokenReviewText, BothWays) {
  EXPECT_THAT(CreateTokenReview("t\"\xff", {"istio-ca"}).body, HasSubstr("istio-ca"));
  const auto review = ParseTokenReview(
      R"({"kind":"TokenReview","status":{"authenticated":true,"audiences":["istio-ca"],"user":{
      "username":"system:serviceaccount:shop:web","uid":"u","groups":["g"],
      "extra":{"authentication.kubernetes.io/pod-name":["web-1"]}}}})");
  ASSERT_TRUE(review.has_value());
  EXPECT_TRUE(review->authenticated);
  EXPECT_EQ(review->ServiceAccountNamespace(), "shop");
  EXPECT_EQ(review->ServiceAccountName(), "web");
  EXPECT_EQ(review->Extra("pod-name"), "web-1");
  EXPECT_EQ(review->Extra("node-name"), "");
  EXPECT_THAT(review->audiences, ElementsAre("istio-ca"));
  // Nobody is authenticated without a name.
  for (const char* text :
       {R"({"kind":"TokenReview","status":{"authenticated":true}})",
        R"({"kind":"TokenReview","status":{"authenticated":true,"user":{}}})",
        R"({"kind":"TokenReview","status":{"authenticated":"yes","user":{"username":"x"}}})",
        R"({"kind":"TokenReview"})"}) {
    const auto nobody = ParseTokenReview(text);
    ASSERT_TRUE(nobody.has_value());
    EXPECT_FALSE(nobody->authenticated) << text;
  }
  EXPECT_FALSE(ParseTokenReview("{}").has_value());
}

TEST(ServerUrlText, AllForms) {
  EXPECT_EQ(ParseServerUrl("https://10.0.0.1")->authority, "10.0.0.1:443");
  EXPECT_EQ(ParseServerUrl("http://h:8001/k8s/x/")->prefix, "/k8s/x");
  EXPECT_EQ(ParseServerUrl("https://[fd00::1]:6443")->host, "fd00::1");
  for (const char* text :
       {"", "10.0.0.1", "https://", "https://h:0", "https://h:99999", "https://h:x",
        "https://[fd00::1", "https://u@h", "https://h/?x", "ftp://h"}) {
    EXPECT_FALSE(ParseServerUrl(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace qanat::kube
