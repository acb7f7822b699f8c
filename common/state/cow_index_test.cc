// SPDX-License-Identifier: Apache-2.0
#include "common/state/cow_index.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace qanat::state {
namespace {

using Index = CowIndex<std::string, 4>;

auto Is(const std::string& wanted) {
  return [wanted](const std::string& value) { return value == wanted; };
}
std::set<std::string> All(const Index& index) {
  std::set<std::string> out;
  index.ForEach([&](const std::string& value) { out.insert(value); });
  EXPECT_EQ(out.size(), index.size());
  return out;
}

TEST(CowIndex, WhatIsFrozenStays) {
  Index index;
  std::set<std::string> expected;
  for (int i = 0; i < 100; ++i) {
    const std::string value = std::to_string(i);
    index.Insert(HashOf(value), value);
    expected.insert(value);
  }
  const Index frozen = index.Freeze();
  for (int i = 0; i < 50; ++i)
    EXPECT_TRUE(index.Erase(HashOf(std::to_string(i)), Is(std::to_string(i))));
  EXPECT_FALSE(index.Erase(HashOf("0"), Is("0")));
  index.Insert(HashOf("new"), "new");
  EXPECT_EQ(All(frozen), expected);
  EXPECT_EQ(frozen.Find(HashOf("new"), Is("new")), nullptr);
  ASSERT_NE(index.Find(HashOf("new"), Is("new")), nullptr);
  EXPECT_EQ(All(index).size(), 51u);
  // Shards that were not touched are those of the snapshot.
  const Index next = index.Freeze();
  index.Put(HashOf("60"), Is("60"), "60");
  EXPECT_NE(next.Find(HashOf("60"), Is("60")), index.Find(HashOf("60"), Is("60")));
  size_t same = 0;
  for (const std::string& value : All(next)) {
    if (next.Find(HashOf(value), Is(value)) == index.Find(HashOf(value), Is(value))) ++same;
  }
  EXPECT_GT(same, 20u);
  EXPECT_LT(same, 51u);
}

TEST(CowIndex, PutReplaces) {
  Index index;
  const auto first = [](const std::string& value) { return value.starts_with("a"); };
  index.Put(1, first, "a1");
  index.Put(1, first, "a2");
  index.Put(1, Is("b"), "b");
  EXPECT_EQ(All(index), (std::set<std::string>{"a2", "b"}));
}

TEST(CowIndex, KeysOfServices) {
  const ServiceKey key("shop/a/b");
  EXPECT_EQ(key.ns, "shop");
  EXPECT_EQ(key.hostname, "a/b");
  EXPECT_EQ(ServiceKey("shop").hostname, "");
  EXPECT_EQ(ServiceKey("/x").ns, "");
  EXPECT_EQ(ServiceKey("/x").hostname, "x");
  EXPECT_EQ(ServiceKey("").hostname, "");
}

}  // namespace
}  // namespace qanat::state
