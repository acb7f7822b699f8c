// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/annotations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qanat::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Wishes Of(std::map<std::string, std::string> annotations) {
  Pod pod;
  pod.annotations = std::move(annotations);
  return ReadWishes(pod);
}

constexpr const char* kPlain = "ambient.istio.io/bypass-inbound-capture";

TEST(AnnotationsTest, WithoutAnyEverythingIsCapturedAndNothingIsSaid) {
  const Wishes wishes = Of({{"prometheus.io/scrape", "true"}});
  EXPECT_FALSE(wishes.plain_inbound);
  EXPECT_FALSE(wishes.dns_capture.has_value());
  EXPECT_THAT(wishes.notes, IsEmpty());
}

TEST(AnnotationsTest, PlainInboundIsOpenedByTrueAloneAndSaid) {
  for (const char* yes : {"true", "True", "TRUE", "t", "T", "1"}) {
    const Wishes wishes = Of({{kPlain, yes}});
    EXPECT_TRUE(wishes.plain_inbound) << yes;
    EXPECT_THAT(wishes.notes, ElementsAre(HasSubstr("is not captured"))) << yes;
  }
  for (const char* no : {"false", "0", "F"}) {
    const Wishes wishes = Of({{kPlain, no}});
    EXPECT_FALSE(wishes.plain_inbound) << no;
    EXPECT_THAT(wishes.notes, IsEmpty()) << no;
  }
}

TEST(AnnotationsTest, WhatIsNotUnderstoodOpensNothing) {
  for (const char* odd : {"", "yes", "on", "tRUE", " true", "true\n", "2"}) {
    const Wishes wishes = Of({{kPlain, odd}});
    EXPECT_FALSE(wishes.plain_inbound) << odd;
    EXPECT_THAT(wishes.notes, ElementsAre(HasSubstr("not understood"))) << odd;
  }
}

TEST(AnnotationsTest, DnsCaptureIsReadByTheSameRule) {
  EXPECT_EQ(Of({{"ambient.istio.io/dns-capture", "false"}}).dns_capture, false);
  EXPECT_EQ(Of({{"ambient.istio.io/dns-capture", "1"}}).dns_capture, true);
  const Wishes odd = Of({{"ambient.istio.io/dns-capture", "off"}});
  EXPECT_FALSE(odd.dns_capture.has_value());
  EXPECT_THAT(odd.notes, ElementsAre(HasSubstr("not understood")));
}

TEST(AnnotationsTest, OfOneNodeThePodsOwnWordCounts) {
  Pod pod;
  EXPECT_EQ(ReadWishes(pod).same_node, "");
  pod.namespace_labels["qanat.io/same-node"] = "encrypt";
  EXPECT_EQ(ReadWishes(pod).same_node, "encrypt");
  pod.annotations["qanat.io/same-node"] = "direct";
  EXPECT_EQ(ReadWishes(pod).same_node, "direct");
  pod.labels["qanat.io/same-node"] = "proxy";
  EXPECT_EQ(ReadWishes(pod).same_node, "proxy");
  EXPECT_THAT(ReadWishes(pod).notes, IsEmpty());
  pod.labels["qanat.io/same-node"] = "Direct";
  EXPECT_EQ(ReadWishes(pod).same_node, "proxy") << "what nobody understands opens nothing";
  EXPECT_THAT(ReadWishes(pod).notes, ElementsAre(HasSubstr("Direct is not understood")));
}

TEST(AnnotationsTest, WhatCannotBeHonouredIsSaid) {
  EXPECT_THAT(Of({{"istio.io/reroute-virtual-interfaces", "tap0,tap1"}}).notes,
              ElementsAre(HasSubstr("tap0,tap1 is not honoured")));
  EXPECT_THAT(Of({{"istio.io/exclude-interfaces", "net1"}}).notes,
              ElementsAre(HasSubstr("every interface is captured")));
  EXPECT_THAT(Of({{"traffic.sidecar.istio.io/excludeInterfaces", "net1"}}).notes,
              ElementsAre(HasSubstr("every interface is captured")));
  // All of a sidecar's in one sentence.
  EXPECT_THAT(Of({{"traffic.sidecar.istio.io/excludeOutboundPorts", "80"},
                  {"traffic.sidecar.istio.io/includeInboundPorts", ""}})
                  .notes,
              ElementsAre(HasSubstr("excludeOutboundPorts, traffic.sidecar")));
}

TEST(AnnotationsTest, ALabelOfNoKnownModeIsSaid) {
  Pod pod;
  pod.labels["istio.io/dataplane-mode"] = "ambiant";
  EXPECT_THAT(ReadWishes(pod).notes, ElementsAre(HasSubstr("ambiant is not understood")));
  pod.labels["istio.io/dataplane-mode"] = "ambient";
  EXPECT_THAT(ReadWishes(pod).notes, IsEmpty());
}

TEST(AnnotationsTest, LongValuesAreCut) {
  const Wishes wishes = Of({{kPlain, std::string(10000, 'x')}});
  ASSERT_EQ(wishes.notes.size(), 1u);
  EXPECT_LT(wishes.notes.front().size(), 250u);
}

}  // namespace
}  // namespace qanat::agent
