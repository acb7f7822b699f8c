// SPDX-License-Identifier: Apache-2.0
// A program and who keeps its descriptors, over a real socket.
#include "common/takeover/holder.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <map>

#include "common/takeover/datagram.h"

namespace qanat::takeover {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

Fd NewSocket() { return Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

ino_t InodeOf(int fd) {
  struct stat about{};
  EXPECT_EQ(fstat(fd, &about), 0);
  return about.st_ino;
}

class HolderTest : public ::testing::Test {
 protected:
  ~HolderTest() override { unlink(path.c_str()); }
  HolderTest() {
    path = testing::TempDir() + "hold-" + std::to_string(getpid()) + ".sock";
    options.on_kept = [this](const std::string& name, std::span<const int> fds) {
      said.push_back("kept " + name + " " + std::to_string(fds.size()));
    };
    options.on_forgotten = [this](const std::string& name) { said.push_back("forgot " + name); };
  }
  void Begin() {
    holder = std::make_unique<Holder>(loop, options);
    const Status status = holder->Listen(path);
    ASSERT_TRUE(status) << status.error().message;
  }
  void Turn() {
    for (int i = 0; i < 5; ++i) loop.RunOnce(milliseconds(0));
  }
  std::multimap<std::string, ino_t> Fetch(Supervisor& supervisor) {
    EXPECT_TRUE(supervisor.Ask());
    Turn();
    std::multimap<std::string, ino_t> out;
    for (const auto& [name, fd] : supervisor.Answer(milliseconds(5000))) {
      out.emplace(name, InodeOf(fd.get()));
    }
    return out;
  }
  static size_t OpenDescriptors() {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return static_cast<size_t>(std::distance(begin(all), end(all)));
  }

  event::EventLoop loop;
  HolderOptions options;
  std::unique_ptr<Holder> holder;
  std::string path;
  std::vector<std::string> said;
};

TEST_F(HolderTest, KeptAcrossTheDeathOfWhoHadThem) {
  Begin();
  ino_t a = 0, b = 0;
  {
    Supervisor program(path);
    const Fd one = NewSocket(), two = NewSocket();
    a = InodeOf(one.get());
    b = InodeOf(two.get());
    const std::vector<int> fds = {one.get(), two.get()};
    EXPECT_TRUE(program.Keep("pod-out", fds));
    EXPECT_TRUE(program.Keep("pod-out", fds));  // once more is no more
    EXPECT_TRUE(program.Keep("pod-in", std::span(fds).first(1)));
    EXPECT_TRUE(program.Ready());
    Turn();
  }
  EXPECT_EQ(holder->size(), 3u);
  EXPECT_THAT(said, ElementsAre("kept pod-out 2", "kept pod-in 1"));
  Supervisor next(path);
  EXPECT_THAT(Fetch(next), UnorderedElementsAre(std::pair("pod-out", a), std::pair("pod-out", b),
                                                std::pair("pod-in", a)));
  EXPECT_EQ(holder->counts().fetched, 1u);
  EXPECT_TRUE(next.Forget("pod-out"));
  Turn();
  EXPECT_THAT(Fetch(next), UnorderedElementsAre(std::pair("pod-in", a)));
  EXPECT_EQ(said.back(), "forgot pod-out");
}

// A container's umask takes the group's right to write, which is the right to connect.
TEST_F(HolderTest, ItsGroupMayConnectWhateverTheUmask) {
  holder = std::make_unique<Holder>(loop, options);
  const mode_t before = umask(022);
  const Status with_group = holder->Listen(path, getegid());
  struct stat about{};
  EXPECT_EQ(stat(path.c_str(), &about), 0);
  ASSERT_TRUE(with_group) << with_group.error().message;
  EXPECT_EQ(about.st_mode & 0777, 0660u);
  holder.reset();
  Begin();
  EXPECT_EQ(stat(path.c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0600u);
  umask(before);
}

TEST_F(HolderTest, WhoGaveItLast) {
  Begin();
  const Fd one = NewSocket(), two = NewSocket();
  const auto copy = [](const Fd& fd) {
    std::vector<Fd> out;
    out.emplace_back(dup(fd.get()));
    return out;
  };
  holder->Keep("pod-out", copy(one), 100);
  holder->Keep("pod-out", copy(two), 100);
  holder->Keep("pod-in", copy(two));
  EXPECT_THAT(holder->Givers(), ElementsAre(-1, 100));
  holder->Keep("pod-out", copy(one), 200);  // another process has it now
  EXPECT_EQ(holder->size(), 3u);
  EXPECT_THAT(holder->Givers(), ElementsAre(-1, 100, 200));
  said.clear();
  holder->ForgetOf([](pid_t giver) { return giver == 100; });
  EXPECT_EQ(holder->size(), 2u);
  // Who keeps it above knows names only.
  EXPECT_THAT(said, ElementsAre("forgot pod-out", "kept pod-out 1"));
  holder->ForgetOf([](pid_t giver) { return giver < 0; });
  EXPECT_THAT(said.back(), "forgot pod-in");
  EXPECT_EQ(holder->size(), 1u);
  Supervisor program(path);
  const int fds[] = {one.get()};
  EXPECT_TRUE(program.Keep("pod-out", fds));
  Turn();
  EXPECT_THAT(holder->Givers(), ElementsAre(getpid()));  // by the kernel's word
}

TEST_F(HolderTest, ManyAreFetchedWhole) {
  options.most_per_name = 400;
  Begin();
  std::vector<Fd> sockets;
  std::vector<int> fds;
  for (int i = 0; i < 300; ++i) {
    sockets.push_back(NewSocket());
    fds.push_back(sockets.back().get());
  }
  Supervisor program(path);
  const std::string name(255, 'n');
  EXPECT_TRUE(program.Keep(name, fds));
  Turn();
  EXPECT_EQ(Fetch(program).count(name), 300u);
}

TEST_F(HolderTest, WhatIsKeptIsBoundedAndClosed) {
  options.most = 5;
  options.most_per_name = 3;
  Begin();
  Supervisor program(path);
  const size_t before = OpenDescriptors();
  std::vector<Fd> sockets;
  std::vector<int> fds;
  for (int i = 0; i < 8; ++i) {
    sockets.push_back(NewSocket());
    fds.push_back(sockets.back().get());
  }
  EXPECT_TRUE(program.Keep("a", fds));
  EXPECT_TRUE(program.Keep("b", fds));
  EXPECT_TRUE(program.Keep("c", fds));
  Turn();
  EXPECT_EQ(holder->size(), 5u);
  EXPECT_EQ(OpenDescriptors(), before + 8 + 5);
  EXPECT_EQ(holder->counts().refused, 5u + 6u + 8u);
  EXPECT_THAT(said, ElementsAre("kept a 3", "kept b 2"));
  holder->ForgetIf([](const std::string& name) { return name == "a"; });
  EXPECT_EQ(holder->size(), 2u);
  holder.reset();
  EXPECT_EQ(OpenDescriptors(), before + 8 - 1);  // its socket too
}

TEST_F(HolderTest, OnlyWhatFits) {
  options.fits = [](std::string_view name, int) {
    return name == "good" ? Status() : Fail(Code::kNotFound, "nobody's");
  };
  Begin();
  Supervisor program(path);
  const Fd socket = NewSocket();
  const int fds[] = {socket.get()};
  EXPECT_TRUE(program.Keep("good", fds));
  EXPECT_TRUE(program.Keep("bad", fds));
  Turn();
  EXPECT_EQ(holder->size(), 1u);
  holder->Keep("with:colon", {});
  std::vector<Fd> more;
  more.push_back(NewSocket());
  holder->Keep("", std::move(more));
  EXPECT_EQ(holder->size(), 1u);
}

TEST_F(HolderTest, StrangersAreToldNothing) {
  pid_t seen = 0;
  options.may = [&seen](const ucred& who) {
    seen = who.pid;
    return Fail(Code::kPermissionDenied, "user " + std::to_string(who.uid) + " may not");
  };
  Begin();
  Supervisor program(path);
  const Fd socket = NewSocket();
  const int fds[] = {socket.get()};
  EXPECT_TRUE(program.Keep("a", fds));
  Turn();
  EXPECT_EQ(seen, getpid());
  EXPECT_EQ(holder->size(), 0u);
  EXPECT_TRUE(Fetch(program).empty());
  EXPECT_EQ(holder->counts().refused, 2u);
  EXPECT_EQ(holder->counts().fetched, 0u);
}

TEST_F(HolderTest, GarbageIsNothing) {
  Begin();
  const Fd raw(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  std::snprintf(to.sun_path, sizeof to.sun_path, "%s", path.c_str());
  const Fd socket = NewSocket();
  const size_t before = OpenDescriptors();
  for (const std::string& text :
       {std::string(), std::string("\0\xff\n\n", 4), std::string("FDSTORE=1"),
        std::string("FDNAME=x"), std::string("FDSTORE=1\nFDNAME="), std::string(kFetch),
        std::string(100000, 'x')}) {
    const int fds[] = {socket.get(), socket.get()};
    EXPECT_TRUE(SendDatagram(raw.get(), reinterpret_cast<sockaddr*>(&to), sizeof to, text, fds, 0));
    Turn();
  }
  EXPECT_EQ(holder->size(), 0u);
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_F(HolderTest, NobodyThereIsNoWait) {
  Supervisor program(path);
  const Status status = program.Ready();
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().message, HasSubstr(path));
  EXPECT_FALSE(program.present());
  EXPECT_TRUE(program.Ask());
  EXPECT_FALSE(program.asked());
  EXPECT_TRUE(program.Answer(milliseconds(60000)).empty());
  // It comes later.
  Begin();
  program.TryAgain();
  EXPECT_TRUE(program.Ready());
  EXPECT_TRUE(program.Ask());
  EXPECT_TRUE(program.asked());
}

// Under systemd: the question is dropped, and with it the end that came along.
TEST_F(HolderTest, ASupervisorWithoutTheQuestionGivesNothing) {
  const Fd deaf(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  std::snprintf(at.sun_path, sizeof at.sun_path, "%s", path.c_str());
  unlink(path.c_str());
  ASSERT_EQ(bind(deaf.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
  Supervisor program(path);
  ASSERT_TRUE(program.Ask());
  {
    const auto dropped = ReceiveDatagram(deaf.get(), 100);
  }
  EXPECT_TRUE(program.Answer(milliseconds(60000)).empty());
  unlink(path.c_str());
}

}  // namespace
}  // namespace qanat::takeover
