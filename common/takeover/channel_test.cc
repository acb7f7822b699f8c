// SPDX-License-Identifier: Apache-2.0
#include "common/takeover/channel.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

namespace qanat::takeover {
namespace {

using testing::HasSubstr;

std::pair<Fd, Fd> Pair() {
  int fds[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
  return {Fd(fds[0]), Fd(fds[1])};
}

class ChannelTest : public ::testing::Test {
 protected:
  struct End {
    std::vector<Message> got;
    std::string closed;
    std::unique_ptr<Channel> channel;
  };
  void Make(End& end, Fd fd, Channel::AtEnd at_end = Channel::AtEnd::kReadAll) {
    end.channel = std::make_unique<Channel>(
        loop, std::move(fd), at_end,
        Channel::Events{[&end](Message message) { end.got.push_back(std::move(message)); },
                        [&end](const std::string& why) { end.closed = why; }});
  }
  void RunUntil(const std::function<bool()>& over) {
    for (int i = 0; i < 2000 && !over(); ++i) loop.RunOnce(std::chrono::milliseconds(5));
  }
  event::EventLoop loop;
};

// Two processes in containers have the same pid, and both may begin to listen at once.
TEST_F(ChannelTest, NobodyElseStandsInTheWayOfListening) {
  const std::string path = testing::TempDir() + "takeover-" + std::to_string(getpid());
  const std::string other = path + "." + std::to_string(getpid());
  ASSERT_EQ(mkdir(other.c_str(), 0700), 0);  // what cannot be replaced
  for (int i = 0; i < 2; ++i) {
    const auto listening = ListenAt(path);
    ASSERT_TRUE(listening.has_value()) << listening.error().message;
    EXPECT_TRUE(ConnectTo(path).has_value());
  }
  rmdir(other.c_str());
  unlink(path.c_str());
}

// It was killed before it read our answer: what it had said before is still read.
TEST_F(ChannelTest, WhatWasSentBeforeTheEndIsRead) {
  auto [a, b] = Pair();
  End left, right;
  Make(left, std::move(a));
  Make(right, std::move(b));
  left.channel->Send({Kind::kCommitted, 7, "", {}, false});
  right.channel->Send({Kind::kAccepted, 8, "not read any more", {}, false});
  left.channel.reset();
  RunUntil([&] { return !right.closed.empty(); });
  EXPECT_NE(right.closed, "");
  ASSERT_EQ(right.got.size(), 1u);
  EXPECT_EQ(right.got[0].item, 7u);
}

TEST_F(ChannelTest, LargeMessagesAndManyDescriptorsThroughASmallBuffer) {
  auto [a, b] = Pair();
  End left, right;
  Make(left, std::move(a));
  Make(right, std::move(b));
  std::string body(10 << 20, 'x');
  for (size_t i = 0; i < body.size(); ++i) body[i] = static_cast<char>(i * 2654435761u >> 24);
  Message large{Kind::kState, 5, body, {}, false};
  for (int i = 0; i < 600; ++i) {
    const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    large.fds.emplace_back(fd);
  }
  left.channel->Send(std::move(large));
  left.channel->Send({Kind::kCommitted, 5, "", {}, false});
  EXPECT_FALSE(left.channel->flushed());
  RunUntil([&] { return right.got.size() == 2; });
  ASSERT_EQ(right.got.size(), 2u);
  EXPECT_EQ(right.got[0].body, body);
  ASSERT_EQ(right.got[0].fds.size(), 600u);
  EXPECT_FALSE(right.got[0].damaged);
  struct stat info;
  EXPECT_EQ(fstat(right.got[0].fds[599].get(), &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode));
  EXPECT_EQ(right.got[1].kind, Kind::kCommitted);
  EXPECT_TRUE(left.channel->flushed());
}

TEST_F(ChannelTest, WhatWasSaidBeforeTheEnd) {
  for (const auto at_end : {Channel::AtEnd::kReadAll, Channel::AtEnd::kEndFirst}) {
    auto [a, b] = Pair();
    End left, right;
    Make(left, std::move(a));
    Make(right, std::move(b), at_end);
    left.channel->Send({Kind::kAccepted, 1, "", {}, false});
    left.channel.reset();
    RunUntil([&] { return !right.closed.empty(); });
    EXPECT_THAT(right.closed, HasSubstr("ended"));
    EXPECT_EQ(right.got.size(), at_end == Channel::AtEnd::kReadAll ? 1u : 0u);
  }
}

TEST_F(ChannelTest, GarbageEndsIt) {
  auto [a, b] = Pair();
  End right;
  Make(right, std::move(b));
  ASSERT_EQ(send(a.get(), "GET / HTTP/1.1\r\n\r\n123", 21, 0), 21);
  RunUntil([&] { return !right.closed.empty(); });
  EXPECT_THAT(right.closed, HasSubstr("not our protocol"));
  right.channel->Send({Kind::kHello, 0, "", {}, false});  // no harm
}

TEST_F(ChannelTest, AnEventMayDestroyIt) {
  auto [a, b] = Pair();
  End left;
  Make(left, std::move(a));
  std::unique_ptr<Channel> right;
  int messages = 0;
  right = std::make_unique<Channel>(loop, std::move(b), Channel::AtEnd::kReadAll,
                                    Channel::Events{[&](const Message&) {
                                                      ++messages;
                                                      right.reset();
                                                    },
                                                    [](const std::string&) {}});
  left.channel->Send({Kind::kHello, 1, "", {}, false});
  left.channel->Send({Kind::kHello, 2, "", {}, false});
  RunUntil([&] { return !left.closed.empty(); });
  EXPECT_EQ(messages, 1);
}

class SocketFile : public ::testing::Test {
 protected:
  std::string path = "/tmp/qto-" + std::to_string(getpid()) + ".sock";
  ~SocketFile() override { unlink(path.c_str()); }
};

TEST_F(SocketFile, TheNewestListenerHasThePath) {
  EXPECT_EQ(ConnectTo(path).error().code, Code::kNotFound);
  auto first = ListenAt(path);
  ASSERT_TRUE(first.has_value()) << first.error().message;
  struct stat info;
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  auto second = ListenAt(path);
  ASSERT_TRUE(second.has_value()) << second.error().message;
  auto connected = ConnectTo(path);
  ASSERT_TRUE(connected.has_value());
  EXPECT_LT(accept4(first->get(), nullptr, nullptr, SOCK_CLOEXEC), 0);
  Fd accepted(accept4(second->get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(accepted.valid());
  EXPECT_TRUE(CheckPeer(accepted.get()).has_value());
  EXPECT_TRUE(CheckPeer(connected->get()).has_value());
  second->Reset();
  EXPECT_EQ(ConnectTo(path).error().code, Code::kNotFound);  // a file without anybody behind it
  EXPECT_FALSE(ListenAt("/tmp/" + std::string(200, 'x')).has_value());
}

// Needs root, to be somebody else for a moment.
TEST_F(SocketFile, AnotherUserIsRefused) {
  auto listening = ListenAt(path);
  ASSERT_TRUE(listening.has_value());
  ASSERT_EQ(chmod(path.c_str(), 0666), 0);  // even where the file would let it
  const pid_t child = fork();
  if (child == 0) {
    if (setuid(65534) != 0) _exit(2);
    _exit(ConnectTo(path) ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_EQ(status, 0);
  Fd accepted(accept4(listening->get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(accepted.valid());
  const Status checked = CheckPeer(accepted.get());
  ASSERT_FALSE(checked.has_value());
  EXPECT_THAT(checked.error().message, HasSubstr("user id 65534"));
}

}  // namespace
}  // namespace qanat::takeover
