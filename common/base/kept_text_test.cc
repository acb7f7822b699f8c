// SPDX-License-Identifier: Apache-2.0
#include "common/base/kept_text.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace qanat {
namespace {

TEST(KeptText, CopiesHaveTheSameCharacters) {
  const KeptText a = std::string(100, 'x');
  KeptText b = a;
  EXPECT_EQ(a.view().data(), b.view().data());
  const KeptText& itself = b;
  b = itself;
  EXPECT_EQ(b, a);
  const KeptText c = std::move(b);
  EXPECT_EQ(c.size(), 100u);
  const KeptText other = std::string(100, 'x');
  EXPECT_NE(a.view().data(), other.view().data());
  EXPECT_EQ(a, other);
}

TEST(KeptText, NothingIsEmpty) {
  const KeptText none, also = "";
  EXPECT_TRUE(none.empty());
  EXPECT_EQ(none, also);
  EXPECT_EQ(none, "");
  EXPECT_EQ(none.size(), 0u);
}

TEST(KeptText, IsComparedAndPrinted) {
  const KeptText a = "a";
  EXPECT_EQ(a, "a");
  EXPECT_EQ(a, std::string("a"));
  EXPECT_NE(a, std::string_view("b"));
  EXPECT_LT(a, KeptText("b"));
  EXPECT_LT(a, "aa");
  EXPECT_EQ(fmt::format("{}", a), "a");
  EXPECT_EQ(a.str(), "a");
}

TEST(KeptText, TheLastOwnerLetsGo) {
  for (int round = 0; round < 200; ++round) {
    KeptText text = "met by all";
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([copy = text] { EXPECT_EQ(copy, "met by all"); });
    }
    text = {};
    for (std::thread& thread : threads) thread.join();
  }
}

}  // namespace
}  // namespace qanat
