// SPDX-License-Identifier: Apache-2.0
// What the tests of our programs rely on to see that a program broke.
#include "tests/support/child.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdio>

namespace qanat::test {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

TEST(FindReport, NamesTheLineAndWhatFollows) {
  EXPECT_EQ(FindReport(""), "");
  EXPECT_EQ(FindReport("2026-11-22T08:00:00Z info app an error: it was refused\n"), "");
  EXPECT_EQ(FindReport("before\n==7==ERROR: AddressSanitizer: heap-use-after-free on x\n  #0 f\n"),
            "==7==ERROR: AddressSanitizer: heap-use-after-free on x\n  #0 f\n");
  EXPECT_THAT(FindReport("a\nfoo.cc:3:5: runtime error: signed integer overflow\n"),
              StartsWith("foo.cc:3:5: runtime error"));
  EXPECT_THAT(FindReport("==7==ERROR: LeakSanitizer: detected memory leaks\n"), HasSubstr("leaks"));
  EXPECT_THAT(FindReport("WARNING: ThreadSanitizer: data race (pid=7)\n"), HasSubstr("data race"));
  EXPECT_THAT(FindReport("Segmentation fault (core dumped)\n"), HasSubstr("Segmentation"));
  EXPECT_THAT(FindReport("debug ca key: -----BEGIN PRIVATE KEY-----\n"), HasSubstr("key"));
  EXPECT_EQ(FindReport("debug ca root: -----BEGIN CERTIFICATE-----\n"), "");
}

TEST(Child, RunsAndEnds) {
  char log[] = "/tmp/qanat-child-XXXXXX";
  ::close(::mkstemp(log));
  {
    Child child({{"/bin/sh", "-c", "echo \"$WORD\"; echo two >&2; exit 3"}, {"WORD=one"}, log, -1});
    EXPECT_EQ(child.Wait(30000), "exit code 3");
    EXPECT_EQ(child.Log(), "one\ntwo\n");
  }
  {
    Child child({{"/bin/sleep", "100"}, {}, log, -1});
    EXPECT_EQ(child.Wait(50), "running");
    EXPECT_TRUE(child.running());
    EXPECT_EQ(child.Stop(), "signal 15");
  }
  {
    Child child({{"/nonexistent/program"}, {}, log, -1});
    EXPECT_EQ(child.Wait(30000), "exit code 127");
    EXPECT_FALSE(child.WaitForLog("anything"));
  }
  std::remove(log);
}

}  // namespace
}  // namespace qanat::test
