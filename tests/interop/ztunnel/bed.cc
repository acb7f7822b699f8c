// SPDX-License-Identifier: Apache-2.0
#include "tests/interop/ztunnel/bed.h"

#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <future>
#include <latch>
#include <random>
#include <thread>
#include <vector>

namespace qanat::interop {
namespace {

std::string Random(size_t size) {
  std::mt19937_64 random(7);
  std::string out(size, '\0');
  for (size_t i = 0; i + 8 <= size; i += 8) {
    const uint64_t word = random();
    std::memcpy(out.data() + i, &word, 8);
  }
  return out;
}

std::string LastLines(const std::string& text) {
  size_t at = text.size();
  for (int lines = 0; lines < 30 && at != 0 && at != std::string::npos; ++lines) {
    at = at == 0 ? at : text.rfind('\n', at - 1);
  }
  return at == std::string::npos ? text : text.substr(at);
}

}  // namespace

void PeerBed::SetUp() {
  binary_ = FindEnvoy();
  ASSERT_FALSE(binary_.empty()) << "no Envoy: set QANAT_ENVOY or QANAT_ENVOY_SCRIPT";
  char dir[] = "/tmp/qanat-peer-XXXXXX";
  dir_ = ::mkdtemp(dir);
  frontend_ = &AddPod(1);
  backend_ = &AddPod(2);
  there_ = &AddPod(9, Capture::kNone);
  const auto far = [this](TestMesh::Workload& w) { w.set_network(far_); };
  Announce("frontend", *frontend_, "n1", [this](TestMesh::Workload& w) { w.set_network(near_); });
  Announce("backend", *backend_, "n2", far);
  Announce("envoy", *there_, "n3", far);
  n1_ = std::make_unique<Program>("n1", dir_, control_plane_, near_);
  n2_ = std::make_unique<Program>("n2", dir_, control_plane_, far_);
  ASSERT_EQ(n1_->Enrol("frontend", *frontend_), "");
  ASSERT_EQ(n2_->Enrol("backend", *backend_), "");
  for (Program* program : {n1_.get(), n2_.get()}) ASSERT_EQ(program->agent().SnapshotSent(), "");
}

void PeerBed::TearDown() {
  if (HasFailure()) {
    for (const auto& program : {n1_.get(), n2_.get()}) {
      if (program != nullptr) std::cerr << "---- our log" << LastLines(program->Log());
    }
    if (envoy_) std::cerr << "---- Envoy's log" << LastLines(envoy_->Log() + envoy_->AccessLog());
  }
  envoy_.reset();
  n1_.reset();
  n2_.reset();
  std::filesystem::remove_all(dir_);
}

void PeerBed::RunEnvoy(EnvoyOptions options, const std::string& identity) {
  RunEnvoy(std::move(options), tls::testing::TestCa{control_plane_.root()}.Issue(identity));
}

void PeerBed::RunEnvoy(EnvoyOptions options, const tls::testing::TestCa::Identity& identity) {
  envoy_.reset();
  options.netns = &there_->netns();
  options.admin_port = 9901;
  envoy_ = std::make_unique<Envoy>(binary_, dir_, tls::testing::TestCa{control_plane_.root()},
                                   identity, options);
  ASSERT_TRUE(envoy_->running()) << envoy_->Log();
}

testing::AssertionResult PeerBed::EnvoyCounts(const std::string& name,
                                              const testing::Matcher<double>& value) const {
  return ztunnel::test::Comes(name, [&] { return static_cast<double>(envoy_->Stat(name)); }, value);
}

void PeerBed::EchoAndHalfClose() {
  // The server answers only after the client's end: that end must arrive, and only that one.
  auto server = Application([](Tcp& tcp, const std::string&) {
    const std::string all = tcp.Read(1 << 20);
    if (tcp.Next() == "eof") tcp.Send(std::to_string(all.size()));
  });
  Tcp tcp = Call();
  ASSERT_TRUE(tcp.connected());
  ASSERT_TRUE(tcp.Send(std::string(100000, 'x')));
  EXPECT_EQ(tcp.Next(200), "nothing");
  tcp.Finish();
  EXPECT_EQ(tcp.Read(6), "100000");
  EXPECT_EQ(tcp.Next(), "eof");
}

void PeerBed::ServerSpeaksFirst() {
  auto server = Application([](Tcp& tcp, const std::string&) {
    tcp.Send("220 ready\n");
    tcp.Read(4);
    tcp.Send("bye");
  });
  Tcp tcp = Call();
  EXPECT_EQ(tcp.Read(10), "220 ready\n");
  EXPECT_TRUE(tcp.Send("quit"));
  EXPECT_EQ(tcp.Read(3), "bye");
  EXPECT_EQ(tcp.Next(), "eof");
}

std::string PeerBed::ServerEndsFirst(size_t size) {
  const std::string data = Random(size);
  std::promise<std::string> heard;
  auto server = Application([&](Tcp& tcp, const std::string&) {
    tcp.Send(data);
    tcp.Finish();
    heard.set_value(tcp.Read(10) + ", " + tcp.Next());
  });
  Tcp tcp = Call();
  EXPECT_EQ(tcp.Next(), "data");
  ::usleep(300000);  // the server's end is on its way, most of its bytes too
  EXPECT_TRUE(tcp.Send("still here"));
  ::usleep(100000);
  const std::string got = tcp.Read(data.size());
  EXPECT_EQ(got.size(), data.size());
  EXPECT_TRUE(got == data);
  EXPECT_EQ(tcp.Next(), "eof");
  tcp.Finish();
  return heard.get_future().get();
}

void PeerBed::BulkBothWays() {
  const std::string data = Random(64 << 20);
  auto server = Application(Server::Echo());
  Tcp tcp = Call();
  std::thread sender([&] {
    EXPECT_TRUE(tcp.Send(data));
    tcp.Finish();
  });
  const std::string back = tcp.Read(data.size());
  sender.join();
  EXPECT_EQ(back.size(), data.size());
  EXPECT_TRUE(back == data) << "the bytes that came back are not the bytes sent";
  EXPECT_EQ(tcp.Next(), "eof");
}

void PeerBed::Many(size_t count) {
  auto server = Application(Server::Echo());
  std::vector<Tcp> all;
  for (size_t i = 0; i < count; ++i) {
    all.push_back(Call());
    ASSERT_TRUE(all.back().Send("hello " + std::to_string(i)));
    const std::string want = "hello " + std::to_string(i);
    ASSERT_EQ(all.back().Read(want.size()), want);
  }
  // The first is as alive as the last.
  for (Tcp& tcp : all) ASSERT_TRUE(tcp.Send("again"));
  for (Tcp& tcp : all) EXPECT_EQ(tcp.Read(5), "again");
}

int PeerBed::Load(size_t clients, size_t calls, size_t bytes,
                  const std::function<void()>& meanwhile) {
  auto server = Application(Server::Echo());
  std::atomic<int> lost{0};
  std::latch begun(static_cast<std::ptrdiff_t>(clients) + 1);
  std::vector<std::thread> threads;
  for (size_t client = 0; client < clients; ++client) {
    threads.emplace_back([&, client] {
      for (size_t call = 0; call < calls; ++call) {
        Tcp tcp = Call();
        const std::string data(bytes / 2, static_cast<char>('a' + (client + call) % 26));
        bool whole = tcp.Send(data) && tcp.Read(data.size()) == data;
        if (call == 0) begun.arrive_and_wait();
        whole = whole && tcp.Send(data) && tcp.Read(data.size()) == data;
        tcp.Finish();
        if (!whole || tcp.Next() != "eof") ++lost;
      }
    });
  }
  begun.arrive_and_wait();
  if (meanwhile) meanwhile();
  for (std::thread& thread : threads) thread.join();
  return lost;
}

std::string PeerBed::ServerResets() {
  auto server = Application([](Tcp& tcp, const std::string&) {
    if (tcp.Read(5) == "abort") tcp.Reset();
  });
  Tcp tcp = Call();
  EXPECT_TRUE(tcp.Send("abort"));
  return tcp.Next();
}

std::string PeerBed::ClientResets() {
  std::promise<void> arrived;
  std::promise<std::string> seen;
  auto server = Application([&](Tcp& tcp, const std::string&) {
    if (tcp.Read(1) == "x") arrived.set_value();
    seen.set_value(tcp.Next());
  });
  Tcp tcp = Call();
  EXPECT_TRUE(tcp.Send("x"));
  auto there = arrived.get_future();
  if (there.wait_for(std::chrono::seconds(10)) != std::future_status::ready) return "not there";
  tcp.Reset();
  return seen.get_future().get();
}

}  // namespace qanat::interop
