// SPDX-License-Identifier: Apache-2.0
// The codec against recorded bytes, and the server against a client that speaks raw datagrams.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "agent/zds/proxy_user.h"
#include "agent/zds/server.h"
#include "bpf/user/mounts.h"
#include "common/proto/zds.pb.h"

namespace qanat::agent::zds {
namespace {

using namespace std::string_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::span<const uint8_t> Bytes(const std::string& s) {
  return {reinterpret_cast<const uint8_t*>(s.data()), s.size()};
}

TEST(ZdsCodecTest, BytesAreThoseOfTheProtocol) {
  // Field numbers of the stock protocol: add=1, del=2 (whose uid is field 2), snapshot_sent=3,
  // keep=5.
  EXPECT_EQ(*EncodeAdd({"u", "n", "s", "a"}),
            "\x0a\x0e\x0a\x01u\x12\x09\x0a\x01n\x12\x01s\x1a\x01"
            "a"s);
  EXPECT_EQ(*EncodeDel("u"), "\x12\x03\x12\x01u"s);
  EXPECT_EQ(EncodeSnapshotSent(), "\x1a\x00"s);
  EXPECT_EQ(*EncodeKeep("u"), "\x2a\x03\x0a\x01u"s);
}

TEST(ZdsCodecTest, MessagesThatProxiesCannotReadAreNotSent) {
  EXPECT_FALSE(EncodeAdd({"u", std::string(1100, 'n'), "s", "a"}));
  EXPECT_FALSE(EncodeDel("\xff\xfe"));
}

TEST(ZdsCodecTest, HelloAndAckAreToldApartFromGarbage) {
  EXPECT_EQ(DecodeHello(Bytes("\x08\x01"s))->version, 1);
  EXPECT_FALSE(DecodeHello(Bytes(""s)));
  EXPECT_FALSE(DecodeHello(Bytes("\x0a\x00"s)));  // an Ack
  EXPECT_FALSE(DecodeHello(Bytes("GET / HTTP/1.1\r\n"s)));
  EXPECT_EQ(DecodeAck(Bytes("\x0a\x00"s))->error, "");
  EXPECT_EQ(DecodeAck(Bytes("\x0a\x04\x0a\x02no"s))->error, "no");
  EXPECT_FALSE(DecodeAck(Bytes("\x08\x01"s)));
  EXPECT_FALSE(DecodeAck(Bytes("\x0a\x7f"s)));
}

class FakeOwner final : public Owner {
 public:
  Status OnPeer(const Peer& peer) override {
    pids.push_back(peer.pid);
    return {};
  }
  std::vector<SnapshotItem> Snapshot() override {
    std::vector<SnapshotItem> items;
    for (const auto& uid : snapshot)
      items.push_back({{uid, "n", "s", "a"}, uid == "keep" ? Fd() : Fd(::dup(0))});
    return items;
  }
  void OnSnapshotAck(const Peer&, const std::string& uid, const Status& status) override {
    log.push_back(uid + (status ? " acked" : " refused"));
  }
  void OnPeerReady(const Peer&) override { log.push_back("ready"); }
  void OnPeerGone(uint64_t) override { log.push_back("gone"); }

  std::vector<std::string> snapshot;
  std::vector<std::string> log;
  std::vector<pid_t> pids;
};

class ZdsServerTest : public ::testing::Test {
 protected:
  ZdsServerTest()
      : path_("/tmp/qanat-zds-test-" + std::to_string(::getpid())), server_(loop_, &owner_) {
    EXPECT_TRUE(server_.Listen(path_));
    server_.StartAccepting();
  }
  ~ZdsServerTest() override { ::unlink(path_.c_str()); }
  // "600 0": mode and group of the socket.
  static std::string Rights(const std::string& path) {
    struct stat is{};
    EXPECT_EQ(::stat(path.c_str(), &is), 0);
    char text[32];
    std::snprintf(text, sizeof text, "%o %u", is.st_mode & 0777, is.st_gid);
    return text;
  }

  Fd Connect() { return Connect(path_); }
  static Fd Connect(const std::string& path) {
    Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    std::strcpy(to.sun_path, path.c_str());
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    return fd;
  }
  static void Send(const Fd& fd, const std::string& bytes) {
    EXPECT_EQ(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  // The next message as "add:UID+fd", "closed", or "" when none comes in time.
  std::string Receive(const Fd& fd, int rounds = 100) {
    for (int i = 0; i < rounds; ++i) {
      char buffer[2048];
      iovec iov{buffer, sizeof buffer};
      alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
      msghdr msg{};
      msg.msg_iov = &iov;
      msg.msg_iovlen = 1;
      msg.msg_control = control;
      msg.msg_controllen = sizeof control;
      const ssize_t n = ::recvmsg(fd.get(), &msg, 0);
      if (n == 0) return "closed";
      if (n < 0) {
        if (errno == ECONNRESET) return "closed";
        loop_.RunOnce(std::chrono::milliseconds(5));
        continue;
      }
      istio::workload::zds::WorkloadRequest request;
      EXPECT_TRUE(request.ParseFromArray(buffer, static_cast<int>(n)));
      std::string text = request.has_add()    ? "add:" + request.add().uid()
                         : request.has_keep() ? "keep:" + request.keep().uid()
                         : request.has_del()  ? "del:" + request.del().uid()
                                              : "snapshot_sent";
      if (cmsghdr* h = CMSG_FIRSTHDR(&msg)) {
        int got = -1;
        std::memcpy(&got, CMSG_DATA(h), sizeof got);
        ::close(got);
        text += "+fd";
      }
      return text;
    }
    return "";
  }
  void Settle() {
    for (int i = 0; i < 10; ++i) loop_.RunOnce(std::chrono::milliseconds(2));
  }

  const std::string hello_ = "\x08\x01"s, ack_ = "\x0a\x00"s, nack_ = "\x0a\x04\x0a\x02no"s;
  std::string path_;
  event::EventLoop loop_;
  FakeOwner owner_;
  Server server_;
};

TEST_F(ZdsServerTest, OpenToRootOrToAGroupToo) {
  EXPECT_EQ(Rights(path_), "600 " + std::to_string(::getegid()));
  const std::string path = path_ + "-group";
  Server server(loop_, &owner_);
  ASSERT_TRUE(server.Listen(path, {.group = 1337}));
  server.StartAccepting();
  EXPECT_EQ(Rights(path), "660 1337");
  ::chmod(path.c_str(), 0666);  // the rights of the file are not all that is looked at
  for (const auto& [group, answer] : {std::pair(1337, "snapshot_sent"), {1338, "closed"}}) {
    ASSERT_EQ(::setegid(static_cast<gid_t>(group)), 0);
    ASSERT_EQ(::seteuid(1337), 0);
    Fd proxy = Connect(path);
    ASSERT_EQ(::seteuid(0), 0);
    ASSERT_EQ(::setegid(0), 0);
    Send(proxy, hello_);
    EXPECT_EQ(Receive(proxy), answer);
  }
  ::unlink(path.c_str());
}

TEST(ProxyUserTest, RootAndWhoFitsAllThatIsSet) {
  const auto admits = [](const ProxyUser& user, uid_t uid, gid_t gid) {
    return user.Admit({.pid = ::getpid(), .uid = uid, .gid = gid}).has_value();
  };
  EXPECT_TRUE(admits({}, 0, 5));
  EXPECT_FALSE(admits({}, 5, 5)) << "nothing is set";
  EXPECT_TRUE(admits({.group = 1337}, 5, 1337));
  const ProxyUser both{.group = 1337, .user = 1338};
  EXPECT_TRUE(admits(both, 1338, 1337));
  EXPECT_FALSE(admits(both, 5, 1337));
  EXPECT_FALSE(admits(both, 1338, 5));
  EXPECT_TRUE(admits({.user = 1338}, 1338, 5));
  auto own = bpf::CgroupOfProcess(::getpid());
  ASSERT_TRUE(own);
  EXPECT_TRUE(admits({.user = 5, .cgroup = *own}, 5, 5));
  EXPECT_FALSE(admits({.user = 5, .cgroup = *own + "x"}, 5, 5));
  EXPECT_FALSE(admits({.user = 5, .cgroup = *own + "/below"}, 5, 5));
  EXPECT_TRUE(admits({.user = 5, .cgroup = *own + "/below"}, 0, 0));
  EXPECT_FALSE(both.Admit({.pid = 0, .uid = 0xffff, .gid = 1337}));
}

TEST(ProxyUserTest, TheFolderIsClosedUnlessOthersUseIt) {
  const std::string folder = "/tmp/qanat-zds-folder-" + std::to_string(::getpid());
  const auto rights = [&] {
    struct stat is{};
    EXPECT_EQ(::stat(folder.c_str(), &is), 0);
    return std::pair(is.st_mode & 07777u, is.st_gid);
  };
  EXPECT_TRUE(CloseSocketFolder(folder, gid_t{1337}));
  EXPECT_EQ(rights(), std::pair(0750u, gid_t{1337}));
  // With an earlier agent's sockets in it, and opened by somebody.
  EXPECT_EQ(::chmod(folder.c_str(), 0755), 0);
  event::EventLoop loop;
  FakeOwner owner;
  Server server(loop, &owner);
  EXPECT_TRUE(server.Listen(folder + "/zds"));
  EXPECT_TRUE(CloseSocketFolder(folder, gid_t{1338}));
  EXPECT_EQ(rights(), std::pair(0750u, gid_t{1338}));
  EXPECT_EQ(::chmod(folder.c_str(), 0755), 0);
  std::ofstream(folder + "/file") << "of another";
  const Status left = CloseSocketFolder(folder, {});
  ASSERT_FALSE(left);
  EXPECT_NE(left.error().message.find(folder), std::string::npos);
  EXPECT_EQ(rights(), std::pair(0755u, gid_t{1338}));
  std::filesystem::remove_all(folder);
}

TEST_F(ZdsServerTest, SnapshotGoesOneByOneAndNewPodsFollow) {
  owner_.snapshot = {"one", "keep"};
  Fd proxy = Connect();
  EXPECT_EQ(Receive(proxy, 5), "") << "nothing before the Hello";
  Send(proxy, hello_);
  EXPECT_EQ(Receive(proxy), "add:one+fd");
  EXPECT_EQ(Receive(proxy, 5), "") << "one outstanding";
  Send(proxy, ack_);
  EXPECT_EQ(Receive(proxy), "keep:keep");
  Send(proxy, nack_);
  EXPECT_EQ(Receive(proxy), "snapshot_sent");
  EXPECT_EQ(server_.ready_peer(), nullptr);
  Send(proxy, ack_);
  Settle();
  ASSERT_NE(server_.ready_peer(), nullptr);
  EXPECT_EQ(server_.ready_peer()->pid, ::getpid());
  EXPECT_THAT(owner_.log, ElementsAre("one acked", "keep refused", "ready"));

  Status outcome = Fail(Code::kInternal, "not called");
  server_.Add({"two", "n", "s", "a"}, Fd(::dup(0)), [&](Status s) { outcome = std::move(s); });
  EXPECT_EQ(Receive(proxy), "add:two+fd");
  Send(proxy, nack_);
  Settle();
  ASSERT_FALSE(outcome);
  EXPECT_THAT(outcome.error().message, HasSubstr("no"));
  server_.Del("two");
  EXPECT_EQ(Receive(proxy), "del:two");
}

TEST_F(ZdsServerTest, AddGoesToTheNewestAndDelToAll) {
  Fd first = Connect();
  Send(first, hello_);
  EXPECT_EQ(Receive(first), "snapshot_sent");
  Send(first, ack_);
  Settle();
  Fd second = Connect();
  Send(second, hello_);
  EXPECT_EQ(Receive(second), "snapshot_sent");
  Send(second, ack_);
  Settle();
  server_.Add({"x", "n", "s", "a"}, Fd(::dup(0)), [](const Status&) {});
  EXPECT_EQ(Receive(second), "add:x+fd");
  EXPECT_EQ(Receive(first, 5), "");
  Send(second, ack_);
  Settle();
  server_.Del("x");
  EXPECT_EQ(Receive(first), "del:x");
  EXPECT_EQ(Receive(second), "del:x");
  const uint64_t newest = server_.newest_peer()->id;
  second.Reset();
  Settle();
  EXPECT_LT(server_.newest_peer()->id, newest) << "the older one counts again";
}

TEST_F(ZdsServerTest, GarbageEndsTheConnectionAndIsCounted) {
  for (const std::string& bytes :
       {"\xff\xff\xff"s, ack_, std::string(3000, 'x'), "GET / HTTP/1.1\r\n\r\n"s}) {
    Fd fd = Connect();
    Send(fd, bytes);
    EXPECT_EQ(Receive(fd), "closed");
  }
  EXPECT_EQ(server_.stats().protocol_errors, 4u);
  Fd fd = Connect();
  Send(fd, hello_);
  EXPECT_EQ(Receive(fd), "snapshot_sent");
  Send(fd, ack_);
  Settle();
  Send(fd, ack_);  // nobody asked
  EXPECT_EQ(Receive(fd), "closed");
  EXPECT_EQ(server_.stats().protocol_errors, 5u);
  EXPECT_EQ(server_.connections(), 0u);
}

TEST_F(ZdsServerTest, LostConnectionFailsWhatWasInFlight) {
  Fd fd = Connect();
  Send(fd, hello_);
  EXPECT_EQ(Receive(fd), "snapshot_sent");
  Send(fd, ack_);
  Settle();
  std::vector<Code> codes;
  auto done = [&](Status s) { codes.push_back(s ? Code::kInternal : s.error().code); };
  server_.Add({"a", "n", "s", "a"}, Fd(::dup(0)), done);
  server_.Add({"b", "n", "s", "a"}, Fd(::dup(0)), done);
  EXPECT_EQ(Receive(fd), "add:a+fd");
  fd.Reset();
  Settle();
  EXPECT_THAT(codes, ElementsAre(Code::kUnavailable, Code::kUnavailable));
  server_.Add({"c", "n", "s", "a"}, Fd(), done);
  EXPECT_EQ(codes.back(), Code::kUnavailable) << "no proxy at all";
}

TEST_F(ZdsServerTest, SilentProxyIsGivenUpAfterTheDeadline) {
  Fd fd = Connect();
  Send(fd, hello_);
  EXPECT_EQ(Receive(fd), "snapshot_sent");
  EXPECT_EQ(Receive(fd, 1200), "closed");
  EXPECT_EQ(server_.stats().timeouts, 1u);
}

}  // namespace
}  // namespace qanat::agent::zds
