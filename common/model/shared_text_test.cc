// SPDX-License-Identifier: Apache-2.0
#include "common/model/shared_text.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "common/model/shared_value.h"

namespace qanat::model {
namespace {

TEST(SharedText, IsKeptOnce) {
  const std::string long_one(100, 'x');
  const SharedText a = long_one, b = std::string_view(long_one);
  EXPECT_EQ(&a.str(), &b.str());
  EXPECT_EQ(a, b);
  EXPECT_EQ(a, long_one);
  EXPECT_NE(a, SharedText("y"));
  EXPECT_NE(a, "y");
  EXPECT_LT(a, SharedText("y"));
  SharedText c = a;
  const SharedText& itself = c;
  c = itself;
  EXPECT_EQ(&c.str(), &a.str());
  const SharedText d = std::move(c);
  EXPECT_EQ(d.size(), 100u);
}

TEST(SharedText, NothingIsEmpty) {
  SharedText text;
  EXPECT_TRUE(text.empty());
  EXPECT_EQ(text, "");
  EXPECT_EQ(text, SharedText(""));
  text = "a";
  EXPECT_FALSE(text.empty());
  text.clear();
  EXPECT_TRUE(text.empty());
}

TEST(SharedText, GoesWhereStringsGo) {
  const SharedText text = "shop";
  std::string copied = text;
  const std::string_view seen = text;
  EXPECT_EQ(copied, seen);
  copied += "!";
  EXPECT_EQ(text, "shop");
  EXPECT_EQ(fmt::format("{}", text), "shop");
  EXPECT_EQ(text + "/" + text, "shop/shop");
  EXPECT_EQ("a" + text, "ashop");
}

// Made, copied and let go of at once, so that the last owner and a new one meet.
TEST(SharedText, ManyThreads) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 20'000; ++i) {
        const SharedText one = i % 2 == 0 ? "met by all" : "met by all as well";
        SharedText copy = one;
        ASSERT_EQ(copy.size(), i % 2 == 0 ? 10u : 18u);
        copy.clear();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(SharedText, ANumberIsUsedAgain) {
  for (int i = 0; i < 5000; ++i) {
    const SharedText one = "one " + std::to_string(i), two = "two " + std::to_string(i);
    EXPECT_EQ(one, "one " + std::to_string(i));
    EXPECT_NE(one, two);
  }
  std::vector<SharedText> many;  // more than a block has
  for (int i = 0; i < 5000; ++i) many.push_back(std::to_string(i));
  for (int i = 0; i < 5000; ++i) EXPECT_EQ(many[static_cast<size_t>(i)], std::to_string(i));
}

TEST(Shared, IsTheSameOneInAllCopies) {
  const Shared<std::string> a(std::string(100, 'x'));
  Shared<std::string> b = a;
  EXPECT_EQ(a, b);
  EXPECT_EQ(a.use_count(), 2u);
  EXPECT_NE(a, Shared<std::string>(*a));
  b.reset();
  EXPECT_EQ(b, nullptr);
  EXPECT_EQ(b.get(), nullptr);
  EXPECT_EQ(a.use_count(), 1u);
}

TEST(SharedValue, IsEqualByWhatItHas) {
  const SharedValue<std::string> none, a = std::string("a"), same = std::string("a");
  EXPECT_FALSE(none);
  EXPECT_EQ(a, same);
  EXPECT_NE(a, none);
  const SharedList<int> empty, list = {1, 2}, equal = std::vector<int>{1, 2};
  EXPECT_TRUE(empty.empty());
  EXPECT_EQ(empty.begin(), empty.end());
  EXPECT_EQ(list, equal);
  EXPECT_NE(list, empty);
  EXPECT_EQ(list[1], 2);
}

}  // namespace
}  // namespace qanat::model
