// SPDX-License-Identifier: Apache-2.0
#include "agent/cni/conflist.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace qanat::agent::cni {
namespace {

using ::testing::HasSubstr;

const std::string kEntry = FormatEntry({});

TEST(ConflistTest, InsertsLastAndTakesOutExactlyThat) {
  const char* lists[] = {
      R"({"cniVersion":"0.4.0","name":"lab","plugins":[{"type":"ptp"},
 {"type":"portmap","capabilities":{"portMappings":true}}]})",
      R"({
  "name": "x",
  "plugins": [
    {
      "type": "bridge",
      "odd": [1.50, 1e3, "]", "\"}"]
    }
  ],
  "unknown": {"plugins": []}
})",
      R"({"plugins":[ {"type":"a"} ]})",
      ("\n\t{\"z\":1,\"plugins\"\n:\n[{\"type\":\"a\",\"x\":{\"plugins\":[{\"type\":\"qanat-cni\"}]"
       "}"
       "}]}"),
      R"({"\u0070lugins":[{"type":"a"}]})",
  };
  for (const std::string text : lists) {
    auto with = InsertEntry(text, kEntry);
    ASSERT_TRUE(with) << text << with.error().message;
    const auto json = nlohmann::ordered_json::parse(*with);
    EXPECT_EQ(json["plugins"].back(), nlohmann::ordered_json::parse(kEntry)) << *with;
    EXPECT_TRUE(HasEntry(*with));
    EXPECT_FALSE(HasEntry(text));
    EXPECT_EQ(*InsertEntry(*with, kEntry), *with) << "nothing to do the second time";
    EXPECT_EQ(*RemoveEntry(*with), text) << "to the byte";
    EXPECT_EQ(*RemoveEntry(text), text);
  }
}

TEST(ConflistTest, ChangedSettingsReplaceTheEntryWhereItStands) {
  const std::string text = R"({"plugins":[{"type":"a"},{"type":"b"}]})";
  auto with = InsertEntry(text, kEntry);
  // Somebody appended himself behind us: the order stays as it is.
  std::string more = *with;
  more.insert(more.rfind(']'), R"(,{"type":"c"})");
  PluginSettings other;
  other.cache = "/elsewhere";
  auto changed = InsertEntry(more, FormatEntry(other));
  ASSERT_TRUE(changed);
  const auto plugins = nlohmann::json::parse(*changed)["plugins"];
  ASSERT_EQ(plugins.size(), 4u);
  EXPECT_EQ(plugins[2]["cache"], "/elsewhere");
  EXPECT_EQ(plugins[3]["type"], "c");
  EXPECT_EQ(*RemoveEntry(*changed), R"({"plugins":[{"type":"a"},{"type":"b"},{"type":"c"}]})");
  EXPECT_EQ(*RemoveEntry(R"({"plugins":[{"type":"qanat-cni"},{"type":"c"}]})"),
            R"({"plugins":[{"type":"c"}]})");
}

TEST(ConflistTest, SingleConfigurationIsWrappedAsItIs) {
  const std::string conf =
      "{ \"cniVersion\": \"0.3.1\", \"name\": \"n\\\"x\", \"type\": \"flannel\" }\n";
  auto list = WrapSingle(conf);
  ASSERT_TRUE(list);
  EXPECT_THAT(*list, HasSubstr(conf.substr(0, conf.size() - 1)));
  const auto json = nlohmann::json::parse(*InsertEntry(*list, kEntry));
  EXPECT_EQ(json["name"], "n\"x");
  EXPECT_EQ(json["cniVersion"], "0.3.1");
  EXPECT_EQ(json["plugins"].size(), 2u);
  EXPECT_FALSE(WrapSingle("{}"));
}

TEST(ConflistTest, WhatIsNoConfigurationIsRefused) {
  for (const char* text : {"", "[]", "{", "{}", R"({"plugins":{}})", R"({"plugins":[]})", "null"})
    EXPECT_FALSE(InsertEntry(text, kEntry)) << text;
  const std::string end(1, '\0');
  EXPECT_FALSE(InsertEntry(R"({"plugins":[{"type":"a"}]})" + end, kEntry));
  EXPECT_FALSE(WrapSingle(R"({"type":"a"})" + end));
  EXPECT_FALSE(KindOf(R"({"type":"a"})" + end));
}

TEST(ConflistTest, AVersionThatThePluginCannotSpeakIsLeftAlone) {
  const auto list = [](const std::string& version) {
    return R"({"cniVersion":)" + version + R"(,"plugins":[{"type":"a"}]})";
  };
  for (const char* fine : {R"("0.3.0")", R"("0.4.0")", R"("1.1.0")", R"("")"})
    EXPECT_TRUE(InsertEntry(list(fine), kEntry)) << fine;
  for (const char* bad : {R"("0.2.0")", R"("2.0.0")", "1"}) {
    auto with = InsertEntry(list(bad), kEntry);
    ASSERT_FALSE(with) << "no pod of the node could start: " << bad;
    EXPECT_THAT(with.error().message, HasSubstr("cniVersion"));
  }
}

TEST(ConflistTest, ThePrimaryIsTheFirstUsableByName) {
  EXPECT_EQ(PrimaryOf({}), "");
  EXPECT_EQ(PrimaryOf({{"20-b.conflist", R"({"plugins":[{"type":"b"}]})"},
                       {"10-a.conf", R"({"type":"a"})"},
                       {"05-broken.conflist", "{"},
                       {"04-note.txt", R"({"type":"a"})"},
                       {".03-x.conf", R"({"type":"a"})"},
                       {"06-saved.conf.qanat-saved", R"({"type":"a"})"}}),
            "10-a.conf");
}

}  // namespace
}  // namespace qanat::agent::cni
