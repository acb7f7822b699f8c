// SPDX-License-Identifier: Apache-2.0
#include "common/grpc/resolver.h"

#include <gtest/gtest.h>

namespace qanat::grpc {
namespace {

class ResolverTest : public ::testing::Test {
 protected:
  void RunUntil(const std::function<bool()>& done) {
    const auto end = event::Clock::now() + std::chrono::seconds(20);
    while (!done() && event::Clock::now() < end) loop_.RunOnce(std::chrono::milliseconds(20));
    EXPECT_TRUE(done());
  }
  event::EventLoop loop_;
  Resolver resolver_{loop_};
};

TEST_F(ResolverTest, LiteralsAndNames) {
  std::vector<net::IpAddress> v6, name;
  bool failed = false;
  int done = 0;
  auto a = resolver_.Resolve("fd90::fe", [&](auto r) { v6 = *r, ++done; });
  EXPECT_EQ(done, 0) << "never from inside the call";
  auto b = resolver_.Resolve("localhost", [&](auto r) { name = r.value_or(name), ++done; });
  auto c = resolver_.Resolve("no such name", [&](auto r) { failed = !r, ++done; });
  RunUntil([&] { return done == 3; });
  ASSERT_EQ(v6.size(), 1u);
  EXPECT_EQ(v6[0].ToString(), "fd90::fe");
  ASSERT_FALSE(name.empty());
  EXPECT_TRUE(name[0].is_loopback());
  EXPECT_TRUE(failed);
}

TEST_F(ResolverTest, CancelledQueriesAreSilent) {
  auto a = resolver_.Resolve("localhost", [](auto) { FAIL(); });
  auto b = resolver_.Resolve("127.0.0.1", [](auto) { FAIL(); });
  a.reset();
  b.reset();
  bool done = false;
  auto c = resolver_.Resolve("localhost", [&](auto) { done = true; });
  RunUntil([&] { return done; });
}

TEST_F(ResolverTest, TheResolverMayGoBeforeItsAnswers) {
  auto own = std::make_unique<Resolver>(loop_);
  auto query = own->Resolve("localhost", [](auto) { FAIL(); });
  own.reset();
  for (int i = 0; i < 5; ++i) loop_.RunOnce(std::chrono::milliseconds(20));
}

}  // namespace
}  // namespace qanat::grpc
