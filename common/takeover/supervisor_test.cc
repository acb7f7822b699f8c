// SPDX-License-Identifier: Apache-2.0
#include "common/takeover/supervisor.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <map>

namespace qanat::takeover {
namespace {

using testing::HasSubstr;

std::vector<PassedFd> Read(std::map<std::string, std::string> environment) {
  return ReadPassedFds([&](const char* name) -> const char* {
    const auto it = environment.find(name);
    return it == environment.end() ? nullptr : it->second.c_str();
  });
}

TEST(Supervisor, WhatItPassed) {
  const std::string self = std::to_string(getpid());
  const auto passed =
      Read({{"LISTEN_PID", self}, {"LISTEN_FDS", "3"}, {"LISTEN_FDNAMES", "a:b-c"}});
  ASSERT_EQ(passed.size(), 3u);
  EXPECT_EQ(passed[0].name, "a");
  EXPECT_EQ(passed[0].fd, 3);
  EXPECT_EQ(passed[1].name, "b-c");
  EXPECT_EQ(passed[2].name, "");
  EXPECT_EQ(passed[2].fd, 5);
  EXPECT_TRUE(Read({{"LISTEN_PID", "1"}, {"LISTEN_FDS", "3"}}).empty());
  EXPECT_TRUE(Read({{"LISTEN_FDS", "3"}}).empty());
  EXPECT_TRUE(Read({{"LISTEN_PID", self}, {"LISTEN_FDS", "-3"}}).empty());
  EXPECT_TRUE(Read({{"LISTEN_PID", self}, {"LISTEN_FDS", "1x"}}).empty());
}

TEST(Supervisor, TakenDescriptorsAreOfNoChild) {
  const int fd = open("/dev/null", O_RDONLY);
  ASSERT_GE(fd, 0);
  const Fd taken = TakePassed({"x", fd});
  EXPECT_EQ(taken.get(), fd);
  EXPECT_NE(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_FALSE(TakePassed({"x", 99999}).valid());
}

class NotifyTest : public ::testing::Test {
 protected:
  NotifyTest() {
    fd.Reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    name = "@qanat-notify-" + std::to_string(getpid());
    std::memcpy(address.sun_path + 1, name.data() + 1, name.size() - 1);
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address),
                   static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())),
              0);
  }
  std::string Receive(size_t* fds) {
    char bytes[1000];
    iovec io{bytes, sizeof bytes};
    alignas(cmsghdr) char control[CMSG_SPACE(300 * sizeof(int))];
    msghdr message{};
    message.msg_iov = &io;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t n = recvmsg(fd.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    *fds = 0;
    if (n < 0) return {};
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      *fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < *fds; ++i) {
        int one;
        std::memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof one);
        close(one);
      }
    }
    return std::string(bytes, static_cast<size_t>(n));
  }
  Fd fd;
  std::string name;
};

TEST_F(NotifyTest, WhatItIsTold) {
  Supervisor supervisor(name);
  ASSERT_TRUE(supervisor.present());
  const Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const std::vector<int> many(300, null.get());
  EXPECT_TRUE(supervisor.Keep("qanat-uid-outbound", many).has_value());
  size_t fds = 0;
  EXPECT_EQ(Receive(&fds), "FDSTORE=1\nFDPOLL=0\nFDNAME=qanat-uid-outbound");
  EXPECT_EQ(fds, 253u);
  Receive(&fds);
  EXPECT_EQ(fds, 47u);
  EXPECT_TRUE(supervisor.Forget("qanat-uid-outbound").has_value());
  EXPECT_EQ(Receive(&fds), "FDSTOREREMOVE=1\nFDNAME=qanat-uid-outbound");
  EXPECT_TRUE(supervisor.Ready().has_value());
  EXPECT_EQ(Receive(&fds), "READY=1");
  EXPECT_FALSE(supervisor.Keep("with:colon", many).has_value());
  EXPECT_FALSE(supervisor.Keep(std::string(256, 'x'), many).has_value());
}

// A listener that is not read any more must not come back to the next process.
TEST_F(NotifyTest, WhatItDidNotTakeInIsOwed) {
  Supervisor supervisor(name);
  Status status;
  for (int i = 0; i < 2000 && status; ++i) status = supervisor.Ready();
  ASSERT_TRUE(supervisor.away());
  supervisor.Forget("qanat-a-outbound");  // it is busy
  supervisor.Forget("qanat-b-outbound");
  EXPECT_FALSE(supervisor.TryAgain());  // still
  size_t fds = 0;
  while (!Receive(&fds).empty()) continue;
  EXPECT_TRUE(supervisor.TryAgain());
  EXPECT_EQ(Receive(&fds), kHere);
  EXPECT_EQ(Receive(&fds), "FDSTOREREMOVE=1\nFDNAME=qanat-a-outbound");
  EXPECT_EQ(Receive(&fds), "FDSTOREREMOVE=1\nFDNAME=qanat-b-outbound");
  EXPECT_EQ(Receive(&fds), "");
  EXPECT_TRUE(supervisor.TryAgain());  // once
  EXPECT_EQ(Receive(&fds), kHere);
  EXPECT_EQ(Receive(&fds), "");
}

TEST_F(NotifyTest, OneThatDoesNotListenIsNotAskedAgain) {
  Supervisor supervisor(name);
  Status status;
  for (int i = 0; i < 2000 && status; ++i) status = supervisor.Ready();
  ASSERT_FALSE(status.has_value());
  EXPECT_THAT(status.error().message, HasSubstr(name));
  EXPECT_FALSE(supervisor.present());
  EXPECT_TRUE(Supervisor("").Ready().has_value());
}

}  // namespace
}  // namespace qanat::takeover
