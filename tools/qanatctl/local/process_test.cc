// SPDX-License-Identifier: Apache-2.0
// What a started program finds: descriptors that were kept for it, and no others.
#include "tools/qanatctl/local/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "common/base/fd.h"

namespace qanat::local {
namespace {

std::string SaidBy(SpawnSpec spec) {
  spec.log = testing::TempDir() + "spawn-" + std::to_string(getpid()) + ".log";
  unlink(spec.log.c_str());
  const auto pid = Spawn(spec);
  if (!pid) return pid.error().message;
  int status = 0;
  EXPECT_EQ(waitpid(*pid, &status, 0), *pid);
  std::ostringstream text;
  text << std::ifstream(spec.log).rdbuf();
  unlink(spec.log.c_str());
  return text.str();
}

// A file whose content says which it is, so that the child can tell.
Fd Marked(const std::string& text) {
  Fd fd(open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  EXPECT_EQ(write(fd.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  return fd;
}

TEST(Spawn, KeptDescriptorsArePassedOn) {
  const Fd a = Marked("first"), b = Marked("second"), other = Marked("other");
  SpawnSpec spec;
  spec.env = {"PATH=/usr/bin:/bin"};
  spec.argv = {"sh", "-c",
               "test $LISTEN_PID = $$ && echo pid; echo $LISTEN_FDS $LISTEN_FDNAMES; "
               "cat /proc/$$/fd/3; echo; cat /proc/$$/fd/4; echo; ls -m /proc/$$/fd"};
  // In the order given, whatever numbers they have here.
  spec.passed = {{"pod-b", b.get()}, {"pod-a", a.get()}};
  EXPECT_EQ(SaidBy(spec), "pid\n2 pod-b:pod-a\nsecond\nfirst\n0, 1, 2, 3, 4\n");
}

TEST(Spawn, WithoutThemNothingIsSaid) {
  const Fd other = Marked("other");
  SpawnSpec spec;
  spec.env = {"PATH=/usr/bin:/bin"};
  spec.argv = {"sh", "-c", "echo \"[$LISTEN_FDS$LISTEN_PID]\"; ls -m /proc/$$/fd"};
  EXPECT_EQ(SaidBy(spec), "[]\n0, 1, 2\n");
}

TEST(Spawn, AFailureIsToldAllTheSame) {
  const Fd a = Marked("first");
  SpawnSpec spec;
  spec.argv = {"/nonexistent/program"};
  spec.passed = {{"a", a.get()}};
  const auto pid = Spawn(spec);
  ASSERT_FALSE(pid);
  EXPECT_NE(pid.error().message.find("/nonexistent/program"), std::string::npos);
}

}  // namespace
}  // namespace qanat::local
