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
  EXPECT_TRUE(log::Enabled("other", log::Level::kInfo));
  EXPECT_FALSE(log::Enabled("zds", log::Level::kDebug));
  ASSERT_TRUE(log::SetLevels("info,access=off"));
  EXPECT_FALSE(log::Enabled("access", log::Level::kError));
  ASSERT_TRUE(log::SetLevels("info"));
}

TEST(LogTest, TimestampsHaveTheirPlaces) {
  std::string last;
  for (int i = 0; i < 20; ++i) {
    const std::string now = log::Timestamp();
    ASSERT_EQ(now.size(), 27u);
    const std::string shape = "0000-00-00T00:00:00.000000Z";
    for (size_t at = 0; at < now.size(); ++at) {
      EXPECT_TRUE(shape[at] == '0' ? now[at] >= '0' && now[at] <= '9' : now[at] == shape[at])
          << now;
    }
    EXPECT_LE(last, now);
    last = now;
  }
}

TEST(LogTest, JsonQuoting) {
  EXPECT_EQ(log::JsonQuote("a\"b\\c\n\x01"), R"("a\"b\\c\n\u0001")");
  EXPECT_EQ(log::JsonQuote(""), R"("")");
  // What is no UTF-8 does not make a line that no reader takes.
  EXPECT_EQ(log::JsonQuote("gr\xc3\xbc\xc3\x9f\xff\xc3"), "\"gr\xc3\xbc\xc3\x9f\\ufffd\\ufffd\"");
  EXPECT_EQ(log::JsonQuote("\xed\xa0\x80."), R"("\ufffd\ufffd\ufffd.")");
}

TEST(LogTest, AMessageIsOneLineAndNoTerminalObeysIt) {
  testing::internal::CaptureStderr();
  log::Write("test", log::Level::kInfo, "a\r\nb\x1b[2Jc\x7f");
  const std::string line = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(line.ends_with("\ttest\ta  b [2Jc \n")) << line;
}

}  // namespace
}  // namespace qanat
