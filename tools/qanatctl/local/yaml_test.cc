// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/yaml.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace qanat::local {
namespace {

using nlohmann::json;

json One(const std::string& text) {
  YamlStream stream = ParseYaml(text);
  EXPECT_FALSE(stream.error) << stream.error->message;
  EXPECT_EQ(stream.documents.size(), 1u);
  return stream.documents.empty() ? json() : json::parse(stream.documents[0].json);
}

TEST(Yaml, ScalarsHaveTheTypesOfTheCoreSchema) {
  const json value =
      One("a: 1\nb: '1'\nc: true\nd: 1.5\ne: null\nf: ~\ng: yes\nh: 0x1\ni: -7\nj: .5\n");
  EXPECT_EQ(value["a"], 1);
  EXPECT_EQ(value["b"], "1");
  EXPECT_EQ(value["c"], true);
  EXPECT_EQ(value["d"], 1.5);
  EXPECT_TRUE(value["e"].is_null());
  EXPECT_TRUE(value["f"].is_null());
  EXPECT_EQ(value["g"], "yes");
  EXPECT_EQ(value["h"], "0x1");
  EXPECT_EQ(value["i"], -7);
}

TEST(Yaml, DocumentsKnowTheirLines) {
  YamlStream stream = ParseYaml("# comment\na: 1\n---\n\n# more\nb: 2\n---\n---\nc: 3\n");
  ASSERT_FALSE(stream.error);
  ASSERT_EQ(stream.documents.size(), 3u);  // an empty one is no object
  EXPECT_EQ(stream.documents[0].line, 2);
  EXPECT_EQ(stream.documents[1].line, 6);
  EXPECT_EQ(stream.documents[2].line, 9);
}

TEST(Yaml, AnErrorSaysWhereAndKeepsWhatCameBefore) {
  YamlStream stream = ParseYaml("a: 1\n---\nb:\n  - [oops\n");
  ASSERT_TRUE(stream.error);
  EXPECT_GE(stream.error->line, 4);
  EXPECT_FALSE(stream.error->message.empty());
  EXPECT_EQ(stream.documents.size(), 1u);
}

TEST(Yaml, DuplicateKeysAreErrors) { EXPECT_TRUE(ParseYaml("a: 1\na: 2\n").error); }

TEST(Yaml, AliasesAreExpandedUnderABudget) {
  EXPECT_EQ(One("a: &x {k: v}\nb: *x\n")["b"]["k"], "v");
  std::string bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 10; ++i) {
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int j = 0; j < 10; ++j) bomb += (j > 0 ? ",*a" : "*a") + std::to_string(i - 1);
    bomb += "]\n";
  }
  ASSERT_TRUE(ParseYaml(bomb).error);
  EXPECT_TRUE(ParseYaml("a: *nowhere\n").error);
}

TEST(Yaml, BadBytesDoNotCrash) {
  EXPECT_TRUE(ParseYaml(std::string_view("a: \0", 4)).error);
  (void)ParseYaml("\xff\xfe\x00");
  (void)ParseYaml("a: \"\\ud800\"\n");
  (void)ParseYaml(std::string(5000, '['));
  EXPECT_TRUE(ParseYaml("").documents.empty());
}

TEST(EmitYaml, IsReadBackAsTheSameValue) {
  const json value = {{"name", "x"},
                      {"list", {1, "two", {{"k", "v"}, {"deep", {1, 2}}}, json::array()}},
                      {"empty", json::object()},
                      {"odd", {"true", "12", "", " lead", "a: b", "- x", "line\nbreak", "no"}},
                      {"flag", true},
                      {"none", nullptr},
                      {"10.0.0.1", 1}};
  EXPECT_EQ(One(EmitYaml(value)), value) << EmitYaml(value);
}

}  // namespace
}  // namespace qanat::local
