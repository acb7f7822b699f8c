// SPDX-License-Identifier: Apache-2.0
// The ZDS client against an agent made of a plain seqpacket listener.
#include "ztunnel/zds/client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "common/proto/zds.pb.h"

namespace qanat::ztunnel::zds {
namespace {

namespace wire = istio::workload::zds;
using testing::ElementsAre;
using testing::HasSubstr;

struct Sink final : PodSink {
  void OnConnected() override { log.push_back("connected"); }
  void OnAdd(const Add& add, std::shared_ptr<const netns::NetNs> netns, Done done) override {
    log.push_back(fmt::format("add {} {}/{} {}", add.uid, add.ns, add.name, add.service_account));
    EXPECT_NE(netns, nullptr);
    if (hold) {
      held = std::move(done);
    } else {
      done(answer);
    }
  }
  void OnKeep(const std::string& uid) override { log.push_back("keep " + uid); }
  void OnDel(const std::string& uid) override { log.push_back("del " + uid); }
  void OnSnapshotSent() override { log.push_back("snapshot"); }
  void OnDisconnected() override { log.push_back("disconnected"); }
  std::vector<std::string> log;
  Status answer;
  bool hold = false;
  Done held;
};

class ZdsTest : public ::testing::Test {
 protected:
  ZdsTest() : path(fmt::format("/tmp/qztunnel-zds-{}.sock", getpid())) {
    unlink(path.c_str());
    listener.Reset(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listener.get(), 4), 0);
    client = std::make_unique<Client>(loop, path, sink);
    client->Start();
    AcceptOne();
  }
  ~ZdsTest() override { unlink(path.c_str()); }

  void AcceptOne() {
    for (int i = 0; i < 200; ++i) {
      loop.RunOnce(std::chrono::milliseconds(5));
      agent.Reset(accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK));
      if (agent) break;
    }
    ASSERT_TRUE(agent.valid());
    wire::ZdsHello hello;
    ASSERT_TRUE(hello.ParseFromString(Read()));
    EXPECT_EQ(hello.version(), wire::V1);
  }
  std::string Read() {
    char buffer[2048];
    for (int i = 0; i < 100; ++i) {
      const ssize_t n = recv(agent.get(), buffer, sizeof buffer, 0);
      if (n >= 0) return {buffer, static_cast<size_t>(n)};
      loop.RunOnce(std::chrono::milliseconds(2));
    }
    return "nothing came";
  }
  // The Ack's error.
  std::string ReadAck() {
    wire::WorkloadResponse response;
    if (!response.ParseFromString(Read()) || !response.has_ack()) return "not an ack";
    return response.ack().error();
  }
  bool Closed() {
    for (int i = 0; i < 100; ++i) {
      char byte;
      if (recv(agent.get(), &byte, 1, 0) == 0) return true;
      loop.RunOnce(std::chrono::milliseconds(2));
    }
    return false;
  }
  void SendBytes(std::string_view bytes, std::vector<int> fds = {}) {
    iovec io{const_cast<char*>(bytes.data()), bytes.size()};
    char control[CMSG_SPACE(4 * sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &io;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
      cmsghdr* c = CMSG_FIRSTHDR(&message);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
      std::memcpy(CMSG_DATA(c), fds.data(), fds.size() * sizeof(int));
    }
    ASSERT_EQ(sendmsg(agent.get(), &message, MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  std::string AddMessage(const std::string& uid, bool with_info = true) {
    wire::WorkloadRequest request;
    request.mutable_add()->set_uid(uid);
    if (with_info) {
      auto* info = request.mutable_add()->mutable_workload_info();
      info->set_name("frontend");
      info->set_namespace_("shop");
      info->set_service_account("front");
    }
    return request.SerializeAsString();
  }
  std::string Message(auto fill) {
    wire::WorkloadRequest request;
    fill(request);
    return request.SerializeAsString();
  }
  int OwnNetns() {
    netns.Reset(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
    return netns.get();
  }

  event::EventLoop loop;
  std::string path;
  Fd listener, agent, netns;
  Sink sink;
  std::unique_ptr<Client> client;
};

TEST_F(ZdsTest, Snapshot) {
  SendBytes(AddMessage("u1"), {OwnNetns()});
  EXPECT_EQ(ReadAck(), "");
  SendBytes(Message([](auto& r) { r.mutable_keep()->set_uid("u2"); }));
  EXPECT_EQ(ReadAck(), "");
  EXPECT_EQ(client->agent(), Agent::kAwaited);
  SendBytes(Message([](auto& r) { r.mutable_snapshot_sent(); }));
  EXPECT_EQ(ReadAck(), "");
  EXPECT_EQ(client->agent(), Agent::kHere);
  SendBytes(Message([](auto& r) { r.mutable_del()->set_uid("u1"); }));
  EXPECT_EQ(ReadAck(), "");
  EXPECT_THAT(sink.log, ElementsAre("connected", "add u1 shop/frontend front", "keep u2",
                                    "snapshot", "del u1"));
}

TEST_F(ZdsTest, AFailureToStartIsANackAndTheConnectionStays) {
  sink.answer = Fail(Code::kIo, "no listeners");
  SendBytes(AddMessage("u1"), {OwnNetns()});
  EXPECT_EQ(ReadAck(), "failure to start proxy : no listeners");
  EXPECT_TRUE(client->connected());
}

// Cilium's agent sends no Keep, and adds a pod again under the uid that it had; a removal may come
// before the snapshot is complete. None of it ends the connection.
TEST_F(ZdsTest, AgentsOfOtherKinds) {
  SendBytes(AddMessage("u1"), {OwnNetns()});
  EXPECT_EQ(ReadAck(), "");
  SendBytes(AddMessage("u1"), {OwnNetns()});
  EXPECT_EQ(ReadAck(), "");
  SendBytes(Message([](auto& r) { r.mutable_del()->set_uid("u1"); }));
  EXPECT_EQ(ReadAck(), "");
  SendBytes(Message([](auto& r) { r.mutable_del()->set_uid("never seen"); }));
  EXPECT_EQ(ReadAck(), "");
  SendBytes(Message([](auto& r) { r.mutable_snapshot_sent(); }));
  EXPECT_EQ(ReadAck(), "");
  SendBytes(AddMessage("u1"), {OwnNetns()});
  EXPECT_EQ(ReadAck(), "");
  EXPECT_TRUE(client->connected());
  EXPECT_EQ(client->counters().protocol_errors, 0u);
}

// Both sides read into 1024 bytes.
TEST_F(ZdsTest, TheLongestMessage) {
  wire::WorkloadRequest request;
  ASSERT_TRUE(request.ParseFromString(AddMessage("u1")));
  auto& name = *request.mutable_add()->mutable_workload_info()->mutable_name();
  while (request.ByteSizeLong() < 1024) name += 'n';
  ASSERT_EQ(request.ByteSizeLong(), 1024u);
  SendBytes(request.SerializeAsString(), {OwnNetns()});
  EXPECT_EQ(ReadAck(), "");
  name += 'n';
  SendBytes(request.SerializeAsString(), {OwnNetns()});
  EXPECT_THAT(ReadAck(), HasSubstr("too long"));
  EXPECT_TRUE(Closed());
}

// Nor may the answer be longer than what the agent reads.
TEST_F(ZdsTest, ALongErrorIsCutToWhatTheAgentReads) {
  sink.answer = Fail(Code::kIo, std::string(5000, 'e'));
  SendBytes(AddMessage("u1"), {OwnNetns()});
  const std::string ack = Read();
  EXPECT_LE(ack.size(), 1024u);
  wire::WorkloadResponse response;
  ASSERT_TRUE(response.ParseFromString(ack));
  EXPECT_THAT(response.ack().error(), HasSubstr("failure to start proxy : eee"));
}

TEST_F(ZdsTest, NextMessageIsTakenOnlyAfterTheAnswer) {
  sink.hold = true;
  SendBytes(AddMessage("u1"), {OwnNetns()});
  SendBytes(Message([](auto& r) { r.mutable_snapshot_sent(); }));
  for (int i = 0; i < 10; ++i) loop.RunOnce(std::chrono::milliseconds(1));
  EXPECT_EQ(sink.log.size(), 2u);
  sink.held({});
  EXPECT_EQ(ReadAck(), "");
  EXPECT_EQ(ReadAck(), "");
  EXPECT_EQ(sink.log.back(), "snapshot");
}

TEST_F(ZdsTest, ProtocolErrorsEndTheConnectionAndItComesBack) {
  const auto snapshot = Message([](auto& r) { r.mutable_snapshot_sent(); });
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  Fd a(pipe_fds[0]), b(pipe_fds[1]);
  struct Case {
    const char* name;
    std::vector<std::pair<std::string, std::vector<int>>> messages;
    const char* error;
  };
  const std::vector<Case> cases = {
      {"garbage", {{"\xff\xfe garbage", {}}}, "failure to read message"},
      {"unknown kind", {{std::string("\x7a\x00", 2), {}}}, "unknown kind"},
      {"too long", {{std::string(5000, 'a'), {}}}, "too long"},
      {"add without a namespace", {{AddMessage("u"), {}}}, "without a network namespace"},
      {"add without info", {{AddMessage("u", false), {OwnNetns()}}}, "workload_info"},
      {"add with no namespace fd", {{AddMessage("u"), {a.get()}}}, "AddWorkload"},
      {"two fds", {{AddMessage("u"), {a.get(), b.get()}}}, "more than one"},
      {"fd beside another message", {{snapshot, {a.get()}}}, "takes none"},
      {"second snapshot", {{snapshot, {}}, {snapshot, {}}}, "second SnapshotSent"},
      {"keep after snapshot",
       {{snapshot, {}}, {Message([](auto& r) { r.mutable_keep()->set_uid("u"); }), {}}},
       "after the snapshot"},
      {"no uid", {{Message([](auto& r) { r.mutable_del(); }), {}}}, "without a uid"},
  };
  uint64_t errors = 0;
  for (const Case& c : cases) {
    for (size_t i = 0; i < c.messages.size(); ++i) {
      if (i > 0) {
        EXPECT_EQ(ReadAck(), "") << c.name;
      }
      SendBytes(c.messages[i].first, c.messages[i].second);
    }
    EXPECT_THAT(ReadAck(), HasSubstr(c.error)) << c.name;
    EXPECT_TRUE(Closed()) << c.name;
    EXPECT_EQ(client->counters().protocol_errors, ++errors) << c.name;
    AcceptOne();
  }
  SendBytes(snapshot);
  EXPECT_EQ(ReadAck(), "");
  EXPECT_EQ(client->agent(), Agent::kHere);
}

TEST_F(ZdsTest, AnAnswerForAnOlderConnectionIsDropped) {
  sink.hold = true;
  SendBytes(AddMessage("u1"), {OwnNetns()});
  for (int i = 0; i < 10; ++i) loop.RunOnce(std::chrono::milliseconds(1));
  agent.Reset();
  AcceptOne();
  sink.held({});
  EXPECT_EQ(Read(), "nothing came");
}

TEST_F(ZdsTest, TheAgentMayBeAwayForAWhile) {
  agent.Reset();
  listener.Reset();
  for (int i = 0; i < 20; ++i) loop.RunOnce(std::chrono::milliseconds(5));
  EXPECT_FALSE(client->connected());
  EXPECT_EQ(client->agent(), Agent::kAwaited) << "it has told nothing, so it is not away";
  EXPECT_EQ(sink.log.back(), "disconnected");
}

// Away until it has told everything again: a connection alone is not enough.
TEST_F(ZdsTest, AnAgentThatWasHereIsAwayUntilItHasToldItsPodsAgain) {
  const auto snapshot = Message([](auto& r) { r.mutable_snapshot_sent(); });
  SendBytes(snapshot);
  EXPECT_EQ(ReadAck(), "");
  for (int round = 0; round < 2; ++round) {
    agent.Reset();
    AcceptOne();
    EXPECT_EQ(client->agent(), Agent::kAway);
    SendBytes(Message([](auto& r) { r.mutable_keep()->set_uid("u1"); }));
    EXPECT_EQ(ReadAck(), "") << "what comes before the snapshot is taken as on a first connection";
    EXPECT_EQ(client->agent(), Agent::kAway);
    SendBytes("\xff\xfe garbage");
    EXPECT_THAT(ReadAck(), HasSubstr("failure to read message"));
    AcceptOne();
    EXPECT_EQ(client->agent(), Agent::kAway);
    SendBytes(snapshot);
    EXPECT_EQ(ReadAck(), "");
    EXPECT_EQ(client->agent(), Agent::kHere);
  }
}

}  // namespace
}  // namespace qanat::ztunnel::zds
