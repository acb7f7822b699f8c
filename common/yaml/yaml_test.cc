// SPDX-License-Identifier: Apache-2.0
// What a text may make of the parser: how deep, how large, how slow. What it means is tested where
// it is read.
#include "common/yaml/yaml.h"

#include <gmock/gmock.h>

#include <chrono>

namespace qanat {
namespace {

using testing::HasSubstr;

size_t DepthOf(const YamlNode& node) {
  size_t most = 0;
  for (const YamlNode& item : node.items) most = std::max(most, DepthOf(item));
  for (const YamlEntry& entry : node.entries) most = std::max(most, DepthOf(entry.value));
  return most + (node.is_map() || node.is_sequence() ? 1 : 0);
}

// `levels` lists inside of each other around `inner`.
std::string Nested(int levels, const std::string& inner) {
  return std::string(levels, '[') + inner + std::string(levels, ']');
}

TEST(Yaml, NestingIsBounded) {
  YamlFile file = ParseYaml(Nested(60, "x"));
  ASSERT_TRUE(file.errors.empty());
  EXPECT_EQ(DepthOf(file.documents.at(0)), 60u);
  file = ParseYaml(Nested(61, "x"));
  ASSERT_EQ(file.errors.size(), 1u);
}

// Each alias stands one level deeper than what it repeats: a short text, a deep tree.
TEST(Yaml, NestingByAliasesIsBounded) {
  const auto text = [](int steps) {
    std::string out = "a0: &a0 [x]\n";
    for (int i = 1; i < steps; ++i) {
      out += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [*a" + std::to_string(i - 1) +
             "]\n";
    }
    return out;
  };
  YamlFile file = ParseYaml(text(59));
  ASSERT_TRUE(file.errors.empty()) << file.errors[0].message;
  EXPECT_EQ(DepthOf(file.documents.at(0)), 60u);
  file = ParseYaml(text(2000));
  ASSERT_EQ(file.errors.size(), 1u);
  EXPECT_THAT(file.errors[0].message, HasSubstr("nested deeper than 60 levels"));
}

TEST(Yaml, AMapOfManyKeysIsReadAtOnce) {
  std::string text = "{";
  for (int i = 0; i < 60'000; ++i) text += "key-of-some-length-" + std::to_string(i) + ": 1,\n";
  const auto begin = std::chrono::steady_clock::now();
  YamlFile file = ParseYaml(text + "z: 1}");
  ASSERT_TRUE(file.errors.empty()) << file.errors[0].message;
  EXPECT_EQ(file.documents.at(0).entries.size(), 60'001u);
  // Compared each with each it is half a minute, with sanitizers.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(8));
  file = ParseYaml(text + "key-of-some-length-7: 2}");
  ASSERT_EQ(file.errors.size(), 1u);
  EXPECT_THAT(file.errors[0].message, HasSubstr("duplicate key \"key-of-some-length-7\": first"));
}

TEST(Yaml, MergedKeysGiveWayToTheMapsOwn) {
  const YamlFile file = ParseYaml(
      "base: &base {a: 1, b: 1}\n"
      "other: &other {b: 2, c: 2}\n"
      "mine: {<<: [*base, *other], a: 3, d: 3}\n"
      "late: {a: 4, <<: *base}\n");
  ASSERT_TRUE(file.errors.empty()) << file.errors[0].message;
  const auto text = [&](const char* map, const char* key) {
    const YamlNode* value = file.documents.at(0).Find(map)->Find(key);
    return value == nullptr ? "none" : value->text;
  };
  EXPECT_EQ(text("mine", "a"), "3");
  EXPECT_EQ(text("mine", "b"), "1");
  EXPECT_EQ(text("mine", "c"), "2");
  EXPECT_EQ(text("mine", "d"), "3");
  EXPECT_EQ(text("late", "a"), "4");
  EXPECT_EQ(text("late", "b"), "1");
  EXPECT_EQ(file.documents.at(0).Find("mine")->entries.size(), 4u);
  EXPECT_EQ(ParseYaml("a: &a {x: 1}\nb: {<<: *a, x: 2, x: 3}\n").errors.size(), 1u);
}

}  // namespace
}  // namespace qanat
