// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "common/base/fd.h"
#include "common/base/log.h"
#include "common/base/result.h"

namespace qanat {
namespace {

Result<int> Half(int n) {
  if (n % 2 != 0) return Fail(Code::kInvalidArgument, "odd");
  return n / 2;
}
Result<int> Quarter(int n) {
  QANAT_ASSIGN_OR_RETURN(int half, Half(n));
  return Half(half);
}

TEST(ResultTest, MacrosPassErrorsOn) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Quarter(6).error().message, "odd");
  EXPECT_EQ(Quarter(6).error().Annotate("quarter").message, "quarter: odd");
}

TEST(ResultTest, RunningOutOfFdsIsItsOwnCode) {
  EXPECT_EQ(FailErrno("accept", EMFILE).value().code, Code::kResourceExhausted);
  EXPECT_EQ(FailErrno("open", ENOENT).value().code, Code::kNotFound);
  EXPECT_EQ(FailErrno("bind", EPERM).value().sys_errno, EPERM);
}

TEST(FdTest, ClosesOnceAndMoves) {
  int raw = open("/dev/null", O_RDONLY | O_CLOEXEC);
  {
    Fd a(raw);
    Fd b(std::move(a));
    EXPECT_FALSE(a.valid());
    EXPECT_EQ(b.get(), raw);
  }
  EXPECT_EQ(fcntl(raw, F_GETFD), -1);
}

TEST(LogTest, LevelsPerScope) {
  ASSERT_TRUE(log::SetLevels("warn,zds=trace,pool:debug"));
  EXPECT_TRUE(log::Enabled("zds", log::Level::kTrace));
  EXPECT_TRUE(log::Enabled("pool", log::Level::kDebug));
  EXPECT_FALSE(log::Enabled("pool", log::Level::kTrace));
  EXPECT_FALSE(log::Enabled("other", log::Level::kInfo));
  EXPECT_EQ(log::Levels(), "warn,pool=debug,zds=trace");
  EXPECT_FALSE(log::SetLevels("info,zds=loud"));
  EXPECT_EQ(log::Levels(), "warn,pool=debug,zds=trace") << "a bad spec changes nothing";
  ASSERT_TRUE(log::SetLevels("info"));
}

TEST(LogTest, JsonQuoting) { EXPECT_EQ(log::JsonQuote("a\"b\\c\n\x01"), R"("a\"b\\c\n\u0001")"); }

}  // namespace
}  // namespace qanat
