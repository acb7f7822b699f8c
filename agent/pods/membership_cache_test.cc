// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/membership_cache.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace qanat::agent {
namespace {

MembershipCache Sample() {
  MembershipCache cache;
  cache.namespaces = {{"shop", "ambient"}, {"default", ""}};
  cache.pods = {{"shop/web-0", {"u1", true}}, {"default/x", {"u2", false}}};
  return cache;
}

TEST(MembershipCacheTest, ComesBackAsItWas) {
  auto back = ParseMembershipCache(FormatMembershipCache(Sample()));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(*back, Sample());
}

TEST(MembershipCacheTest, KnowsOnlyThePodsThatItHasSeen) {
  const MembershipCache cache = Sample();
  EXPECT_EQ(cache.InMesh("shop", "web-0", "u1"), true);
  EXPECT_EQ(cache.InMesh("shop", "web-0", ""), true);
  EXPECT_EQ(cache.InMesh("default", "x", "u2"), false);
  EXPECT_EQ(cache.InMesh("shop", "web-0", "u9"), std::nullopt) << "another pod of that name";
  EXPECT_EQ(cache.InMesh("default", "y", "u3"), std::nullopt) << "it may have a label of its own";
}

TEST(MembershipCacheTest, ATornOrEditedFileSaysNothing) {
  const std::string good = FormatMembershipCache(Sample());
  for (size_t cut = 0; cut < good.size(); cut += 7)
    EXPECT_FALSE(ParseMembershipCache(good.substr(0, cut))) << cut;
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] ^= 1;
    EXPECT_FALSE(ParseMembershipCache(bad)) << at;
  }
}

TEST(MembershipCacheTest, IsKeptOnDisk) {
  char name[] = "/tmp/qanat-cache-XXXXXX";
  const std::string dir = ::mkdtemp(name);
  EXPECT_EQ(LoadMembershipCache(dir + "/cache").error().code, Code::kNotFound);
  ASSERT_TRUE(SaveMembershipCache(dir + "/cache", Sample()));
  EXPECT_EQ(*LoadMembershipCache(dir + "/cache"), Sample());
  EXPECT_EQ(std::filesystem::status(dir + "/cache").permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace qanat::agent
