// SPDX-License-Identifier: Apache-2.0
#include "common/base/environment.h"

#include <gtest/gtest.h>

#include <map>

namespace qanat {
namespace {

GetEnvironment Of(std::map<std::string, std::string> variables) {
  return [variables = std::move(variables)](const char* name) -> const char* {
    const auto it = variables.find(name);
    return it == variables.end() ? nullptr : it->second.c_str();
  };
}

TEST(Environment, WhatIsNotSetLeavesTheDefault) {
  const GetEnvironment get = Of({{"EMPTY", ""}});
  EnvironmentReader reader(get);
  std::string text = "default";
  bool flag = true;
  int number = 7;
  std::chrono::seconds duration{3};
  for (const char* name : {"NONE", "EMPTY"}) {
    reader.Bool(name, flag);
    reader.Number(name, number);
    reader.Duration(name, duration);
  }
  reader.Text("NONE", text);
  EXPECT_EQ(text, "default");
  reader.Text("EMPTY", text);
  EXPECT_EQ(text, "") << "how an address is switched off";
  EXPECT_TRUE(flag);
  EXPECT_EQ(number, 7);
  EXPECT_EQ(duration, std::chrono::seconds(3));
  EXPECT_TRUE(reader.status());
}

TEST(Environment, Values) {
  const GetEnvironment get =
      Of({{"ON", "1"}, {"N", "-5"}, {"D", "90m"}, {"HOST", "cp:15012"}, {"URL", "http://cp:1"}});
  EnvironmentReader reader(get);
  bool flag = false;
  int number = 0;
  std::chrono::seconds duration{};
  std::string host, url, none;
  reader.Bool("ON", flag);
  reader.Number("N", number, -10, 10);
  reader.Duration("D", duration);
  reader.Url("HOST", host);
  reader.Url("URL", url);
  reader.Url("NONE", none);
  EXPECT_TRUE(reader.status());
  EXPECT_TRUE(flag);
  EXPECT_EQ(number, -5);
  EXPECT_EQ(duration, std::chrono::minutes(90));
  EXPECT_EQ(host, "https://cp:15012");
  EXPECT_EQ(url, "http://cp:1");
  EXPECT_EQ(none, "");
}

TEST(Environment, TheFirstBadValueIsTheError) {
  const GetEnvironment get = Of({{"N", "12x"}, {"B", "maybe"}, {"D", "soon"}, {"BIG", "300"}});
  const auto error_of = [&](auto read) {
    EnvironmentReader reader(get);
    read(reader);
    const Status status = reader.status();
    return status ? std::string() : status.error().message;
  };
  int number = 1;
  bool flag = true;
  std::chrono::milliseconds duration{5};
  EXPECT_EQ(error_of([&](auto& r) {
              r.Number("BIG", number, 1, 256);
              r.Bool("B", flag);
            }),
            "BIG=\"300\": expected a number from 1 to 256");
  EXPECT_NE(error_of([&](auto& r) { r.Number("N", number); }), "");
  EXPECT_EQ(error_of([&](auto& r) { r.Bool("B", flag); }), "B=\"maybe\": expected true or false");
  EXPECT_EQ(error_of([&](auto& r) { r.Duration("D", duration); }),
            "D=\"soon\": expected a duration as 30s or 5m");
  EXPECT_EQ(number, 1);
  EXPECT_TRUE(flag);
  EXPECT_EQ(duration, std::chrono::milliseconds(5));
}

TEST(Environment, Durations) {
  EXPECT_EQ(ParseDuration("250ms")->count(), 250);
  EXPECT_EQ(ParseDuration("1.5s")->count(), 1500);
  EXPECT_EQ(ParseDuration("30")->count(), 30000);
  EXPECT_EQ(ParseDuration("24h")->count(), 86400000);
  for (const char* bad : {"", "s", "-1s", "1d", "1e30s", "nan"}) {
    EXPECT_FALSE(ParseDuration(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace qanat
