// SPDX-License-Identifier: Apache-2.0
#include "common/kube/pod_dns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace qanat::kube {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

NodeDns Node() {
  return {{"10.96.0.10"},
          "cluster.local",
          ParseResolvConf("nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch corp.example lan\n"
                          "options timeout:3 ndots:2\n")};
}

constexpr const char* kClusterSearch =
    "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example lan";

TEST(PodDns, TheKubeletsTable) {
  struct Case {
    const char* spec;
    std::string wanted;
  };
  const std::string cluster = std::string(kClusterSearch) + "\nnameserver 10.96.0.10\n";
  const std::string node =
      "search corp.example lan\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n"
      "options timeout:3 ndots:2\n";
  const Case cases[] = {
      {R"({})", cluster + "options ndots:5\n"},
      {R"({"dnsPolicy":"ClusterFirst"})", cluster + "options ndots:5\n"},
      {R"({"dnsPolicy":"Default"})", node},
      {R"({"dnsPolicy":"Default","hostNetwork":true})", node},
      // On the node's network the cluster's name server must be asked for.
      {R"({"dnsPolicy":"ClusterFirst","hostNetwork":true})", node},
      {R"({"hostNetwork":true})", node},
      {R"({"dnsPolicy":"ClusterFirstWithHostNet","hostNetwork":true})",
       cluster + "options ndots:5\n"},
      {R"({"dnsPolicy":"ClusterFirstWithHostNet"})", cluster + "options ndots:5\n"},
      {R"({"dnsPolicy":"Tomorrow","hostNetwork":true})", cluster + "options ndots:5\n"},
      {R"({"dnsPolicy":"None"})", ""},
      {R"({"dnsPolicy":"None","dnsConfig":{"nameservers":["203.0.113.5"],"searches":["a.example"],
           "options":[{"name":"ndots","value":"3"},{"name":"edns0"}]}})",
       "search a.example\nnameserver 203.0.113.5\noptions ndots:3 edns0\n"},
      {R"({"dnsPolicy":"None","dnsConfig":{"nameservers":["203.0.113.5"]}})",
       "nameserver 203.0.113.5\n"},
      // What the pod says comes after, each thing once; its options replace those of their name.
      {R"({"dnsConfig":{"nameservers":["203.0.113.5","10.96.0.10"],"searches":["lan","a.example"],
           "options":[{"name":"ndots","value":"2"},{"name":"use-vc"},{"name":"use-vc"}]}})",
       std::string(kClusterSearch) + " a.example\nnameserver 10.96.0.10\nnameserver 203.0.113.5\n"
                                     "options ndots:2 use-vc\n"},
      {R"({"dnsPolicy":"Default","dnsConfig":{"options":[{"name":"timeout","value":""}]}})",
       "search corp.example lan\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n"
       "options timeout: ndots:2\n"},
      // Three servers at most.
      {R"({"dnsPolicy":"Default","dnsConfig":{"nameservers":["203.0.113.5","203.0.113.6"]}})",
       "search corp.example lan\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n"
       "nameserver 203.0.113.5\noptions timeout:3 ndots:2\n"},
      // No API server lets this through: it must do nothing.
      {R"({"dnsPolicy":7,"hostNetwork":"yes","dnsConfig":["x"]})", cluster + "options ndots:5\n"},
      {R"({"dnsConfig":{"nameservers":"x","searches":[1,null],"options":[1,{},{"name":2}]}})",
       cluster + "options ndots:5\n"},
  };
  for (const Case& c : cases) {
    const PodDns pod = ReadPodDns(nlohmann::json::parse(c.spec));
    EXPECT_EQ(FormatResolvConf(ResolverOf(pod, "shop", Node())), c.wanted) << c.spec;
  }
  EXPECT_EQ(ReadPodDns(nlohmann::json::array()), PodDns());
}

TEST(PodDns, WithoutServersOfTheClusterTheNodesHold) {
  NodeDns node = Node();
  node.cluster_servers.clear();
  EXPECT_EQ(ResolverOf({}, "shop", node), node.node);
  node = Node();
  node.cluster_domain.clear();
  EXPECT_THAT(ResolverOf({}, "shop", node).searches, ElementsAre("corp.example", "lan"));
}

TEST(PodDns, SearchListsAreCutAsTheKubeletCutsThem) {
  PodDns pod;
  pod.policy = "None";
  for (int i = 0; i < 40; ++i) pod.searches.push_back("d" + std::to_string(i) + ".example");
  auto searches = ResolverOf(pod, "shop", Node()).searches;
  EXPECT_EQ(searches.size(), 32u);
  EXPECT_EQ(searches.back(), "d31.example");

  // 8 of 250 characters with their blanks are 2007, and one more is too many; 254 alone are.
  pod.searches.clear();
  pod.searches.push_back(std::string(254, 'x'));
  for (char c = 'a'; c < 'a' + 9; ++c) pod.searches.push_back(std::string(250, c));
  searches = ResolverOf(pod, "shop", Node()).searches;
  EXPECT_EQ(searches.size(), 8u);
  EXPECT_EQ(searches.front(), std::string(250, 'a'));
  pod.searches.push_back("after");  // from the end until it fits, not whatever would fit
  searches = ResolverOf(pod, "shop", Node()).searches;
  EXPECT_EQ(searches.size(), 8u);

  pod.searches.assign(8, "");
  for (size_t i = 0; i < 8; ++i) pod.searches[i] = std::string(253, static_cast<char>('a' + i));
  pod.searches.emplace_back("123456789012345");  // 8 * 254 + 15 = 2047
  EXPECT_EQ(ResolverOf(pod, "shop", Node()).searches.size(), 9u);
  pod.searches.back() += "67";  // 2049
  EXPECT_EQ(ResolverOf(pod, "shop", Node()).searches.size(), 8u);
}

TEST(PodDns, ReadsResolvConf) {
  const ResolvConf conf = ParseResolvConf(
      "# nameserver 198.51.100.1\n; comment\nsearch old.example\n  nameserver\t192.0.2.1 x\r\n"
      "nameserver\nnameserver fe80::1%eth0\noptions rotate\nsearch A.example. . b\n"
      "options ndots:3\tedns0\ndomain lan");
  EXPECT_THAT(conf.servers, ElementsAre("192.0.2.1", "fe80::1%eth0"));
  EXPECT_THAT(conf.searches, ElementsAre("A.example", ".", "b"));
  EXPECT_THAT(conf.options, ElementsAre("ndots:3", "edns0"));
  EXPECT_EQ(ParseResolvConf(""), ResolvConf());
  EXPECT_EQ(FormatResolvConf({}), "");
}

TEST(PodDns, Ndots) {
  EXPECT_EQ(Ndots({}), 1u);
  EXPECT_EQ(Ndots({{}, {}, {"edns0", "ndots:5"}}), 5u);
  EXPECT_EQ(Ndots({{}, {}, {"ndots:99"}}), 15u);
  for (const char* bad : {"ndots", "ndots:", "ndots:x", "ndots:-1", "ndots:2x", "xndots:3"}) {
    EXPECT_EQ(Ndots({{}, {}, {bad}}), 1u) << bad;
  }
}

}  // namespace
}  // namespace qanat::kube
