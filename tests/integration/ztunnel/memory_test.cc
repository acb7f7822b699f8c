// SPDX-License-Identifier: Apache-2.0
// Readers that do not read: the process keeps to its budget of memory and a pod to its own, those
// who hold most are ended with a reason, others go on.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/unknown_field_set.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/integration/ztunnel/bed.h"
#include "ztunnel/memory/limit.h"

// What is freed and kept for finding uses of it later counts as used: here it is kept short.
// NOLINTNEXTLINE(bugprone-reserved-identifier): the sanitizer's name for it
extern "C" const char* __asan_default_options() { return "quarantine_size_mb=8"; }

namespace qanat::ztunnel::test {
namespace {

using testing::Ge;
using testing::HasSubstr;
using testing::Le;

// Takes connections and nothing of what they send: the kernel completes them, nobody accepts.
class Deaf {
 public:
  Deaf(const netns::NetNs& netns, const std::string& address) {
    const net::SocketAddress at = net::SocketAddress::Parse(address).value();
    EXPECT_TRUE(netns.Run([&]() -> Status {
      listener_.Reset(socket(at.ip().family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
      return {};
    }));
    const int one = 1, small = 4096;
    setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener_.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    sockaddr_storage storage;
    const socklen_t size = at.ToSockaddr(storage);
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&storage), size), 0);
    EXPECT_EQ(listen(listener_.get(), 4096), 0);
  }

 private:
  Fd listener_;
};

// Clients that send as much as is taken from them.
class Senders {
 public:
  // False: the connection was not even made.
  bool Add(Tcp tcp) {
    if (!tcp.connected()) return false;
    fcntl(tcp.fd(), F_SETFL, fcntl(tcp.fd(), F_GETFL) | O_NONBLOCK);
    const int small = 65536;
    setsockopt(tcp.fd(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    all_.push_back(std::move(tcp));
    return true;
  }
  // Everybody sends what is taken now.
  void Send() {
    static const std::string bytes(65536, 'x');
    for (Tcp& tcp : all_) {
      while (send(tcp.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
      }
    }
  }
  size_t Ended() {
    return static_cast<size_t>(std::count_if(all_.begin(), all_.end(), [](Tcp& tcp) {
      return tcp.Next(0) == "reset" || tcp.Next(0) == "eof";
    }));
  }
  size_t size() const { return all_.size(); }

 private:
  std::vector<Tcp> all_;
};

class MemoryTest : public Bed {
 protected:
  void Make(const std::function<void(Config&)>& change) {
    rlimit files{};  // every connection has four ends here
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    frontend = &AddPod(1);
    backend = &AddPod(2);
    other = &AddPod(3);
    Announce("frontend", *frontend, "n1");
    Announce("backend", *backend, "n2");
    Announce("other", *other, "n2");
    n1 = &AddNode("n1", [](Config& c) {
      c.memory_budget = uint64_t{1} << 40;
      c.max_pod_memory = uint64_t{1} << 40;
      c.max_pod_connections = 1 << 20;
    });
    n2 = &AddNode("n2", [&](Config& c) {
      c.max_pod_connections = 1 << 20;
      change(c);
    });
    ASSERT_EQ(n1->Enrol("frontend", *frontend), "");
    ASSERT_EQ(n2->Enrol("backend", *backend), "");
    ASSERT_EQ(n2->Enrol("other", *other), "");
    ASSERT_EQ(n1->agent().SnapshotSent(), "");
    ASSERT_EQ(n2->agent().SnapshotSent(), "");
    deaf = std::make_unique<Deaf>(backend->netns(), backend->At(8080));
    echo = std::make_unique<Server>(backend->netns(), backend->At(8081), Server::Echo());
    echo_of_other = std::make_unique<Server>(other->netns(), other->At(8081), Server::Echo());
  }
  Tcp Call(const std::string& to) { return ConnectFrom(frontend->netns(), to); }
  static bool Answers(Tcp& tcp) {
    return tcp.connected() && tcp.Send("x") && tcp.Next() == "data" && tcp.Read(1) == "x";
  }
  bool Talks(const std::string& to) {
    Tcp tcp = Call(to);
    return Answers(tcp);
  }
  double Refused() {
    return n2->Metric("qanat_connections_refused_total", {"destination", "memory_exhausted"});
  }
  double Shed(const std::string& scope) {
    return n2->Metric("qanat_memory_shed_connections_total", {scope});
  }
  std::string Why() { return n2->Get("/debug/why/inbound?dst=" + backend->ip() + "&port=8081"); }

  PodNet *frontend, *backend, *other;
  Node *n1, *n2;
  std::unique_ptr<Deaf> deaf;
  std::unique_ptr<Server> echo, echo_of_other;
};

TEST_F(MemoryTest, TheProcessKeepsToItsBudget) {
  const MemoryLimits process;
  // All of the mesh is in this process, and still to be made.
  const uint64_t budget = process.Used() + (256 << 20);
  Make([&](Config& c) {
    c.memory_budget = budget;
    c.max_pod_memory = uint64_t{1} << 40;
  });
  Tcp open = Call(backend->At(8081));
  ASSERT_TRUE(Answers(open));
  // Little waits here, and it stays whoever else is ended.
  Tcp small = Call(backend->At(8080));
  ASSERT_TRUE(small.Send("unread"));
  std::atomic<uint64_t> most{0};
  std::atomic<bool> over{false};
  std::thread watch([&] {
    while (!over) {
      most = std::max(most.load(), process.Used());
      usleep(2000);
    }
  });
  Senders senders;
  bool refused = false, why = false;
  for (int i = 0; i < 4000 && (!refused || !why); ++i) {
    senders.Add(Call(backend->At(8080)));
    if (i % 20 != 19) continue;
    senders.Send();
    ASSERT_TRUE(Answers(open)) << "who reads is ended";
    refused = refused || !Talks(backend->At(8081));  // nothing waits there
    why = why || Why().find("memory_exhausted") != std::string::npos;
  }
  EXPECT_TRUE(refused);
  EXPECT_GE(Refused(), 1);
  // Full for some seconds, or more than that: those with most end.
  EXPECT_TRUE(n2->Counts("qanat_memory_shed_connections_total", {"proxy"}, Ge(1)))
      << senders.size() << " connections, " << most / 1'000'000 << " MB of " << budget / 1'000'000;
  EXPECT_TRUE(why) << "`why` says another thing than what happens";
  // The one that reads goes on meanwhile, the small one was left alone.
  EXPECT_TRUE(Answers(open));
  EXPECT_EQ(small.Next(0), "nothing");
  EXPECT_GE(senders.Ended(), 1u);
  EXPECT_EQ(Shed("pod"), 0);
  // And it recovers by itself, also with those readers still there.
  EXPECT_TRUE(Eventually([&] { return Talks(backend->At(8081)); }, 60000));
  deaf.reset();  // which resets its connections: nobody waits for what they hold
  EXPECT_TRUE(n2->Counts("qanat_memory_level", {}, Le(0), 20000));
  EXPECT_TRUE(n2->Counts("qanat_memory_buffers_bytes", {}, Le(1 << 20)));
  EXPECT_TRUE(Talks(backend->At(8081)));
  over = true;
  watch.join();
  EXPECT_LE(most, budget);
  EXPECT_EQ(n2->Metric("qanat_memory_budget_bytes", {}), static_cast<double>(budget));
}

TEST_F(MemoryTest, APodKeepsToItsOwn) {
  Make([&](Config& c) {
    c.memory_budget = uint64_t{1} << 40;
    c.max_pod_memory = 32 << 20;
  });
  Tcp open = Call(backend->At(8081));
  ASSERT_TRUE(Answers(open));
  Senders senders;
  double most = 0;
  bool refused = false, why = false;
  for (int i = 0; i < 300 && (!refused || !why || Shed("pod") == 0); ++i) {
    senders.Add(Call(backend->At(8080)));
    senders.Send();
    refused = refused || !Talks(backend->At(8081));
    most = std::max(most, n2->Metric("qanat_memory_buffers_bytes", {}));
    why = why || Why().find("memory_exhausted") != std::string::npos;
    EXPECT_TRUE(Talks(other->At(8081))) << "another pod of the node is refused too";
  }
  EXPECT_TRUE(refused);
  EXPECT_GE(Refused(), 1);
  EXPECT_GE(Shed("pod"), 1);
  EXPECT_EQ(Shed("proxy"), 0);
  EXPECT_TRUE(why);
  EXPECT_LE(most, 48 << 20);
  EXPECT_TRUE(Answers(open));
  EXPECT_TRUE(Eventually([&] { return Talks(backend->At(8081)); }, 60000));
}

// The fourth value of all samples: what is in use (pprof's profile.proto). Not with the thread
// sanitizer, which has the allocator to itself.
[[maybe_unused]] uint64_t InUse(const std::string& answer) {
  google::protobuf::UnknownFieldSet profile;
  EXPECT_TRUE(profile.ParseFromString(answer.substr(answer.find("\r\n\r\n") + 4)));
  uint64_t sum = 0;
  for (int i = 0; i < profile.field_count(); ++i) {
    if (profile.field(i).number() != 2) continue;
    google::protobuf::UnknownFieldSet sample;
    EXPECT_TRUE(sample.ParseFromString(profile.field(i).length_delimited()));
    for (int k = 0; k < sample.field_count(); ++k) {
      if (sample.field(k).number() != 2) continue;
      const std::string& packed = sample.field(k).length_delimited();
      google::protobuf::io::CodedInputStream in(reinterpret_cast<const uint8_t*>(packed.data()),
                                                static_cast<int>(packed.size()));
      uint64_t value = 0;
      for (int v = 0; v < 4; ++v) EXPECT_TRUE(in.ReadVarint64(&value));
      sum += value;
    }
  }
  return sum;
}

TEST_F(MemoryTest, TheHeapProfileIsServed) {
  Make([](Config&) {});
  for (const char* name : {"heap", "allocs"}) {
    const std::string path = std::string("/debug/pprof/") + name;
    const std::string answer = n2->Get(path);
#if __has_feature(thread_sanitizer)
    EXPECT_THAT(answer, testing::AllOf(HasSubstr(" 503 "), HasSubstr("no heap profile")));
#else
    EXPECT_THAT(answer, testing::AllOf(HasSubstr(" 200 "), HasSubstr("application/octet-stream"),
                                       HasSubstr(std::string("filename=\"") + name),
                                       HasSubstr("inuse_space"), HasSubstr("alloc_objects")));
    // 64 MiB more are about that in it (one is picked in 512 KiB), and gone when they are.
    constexpr double kMiB = 1 << 20;
    const auto before = static_cast<double>(InUse(answer));
    std::vector<std::unique_ptr<char[]> > held;
    for (int i = 0; i < 64; ++i) held.push_back(std::unique_ptr<char[]>(new char[1 << 20]));
    EXPECT_NEAR(static_cast<double>(InUse(n2->Get(path))) - before, 64 * kMiB, 20 * kMiB);
    held.clear();
    EXPECT_NEAR(static_cast<double>(InUse(n2->Get(path))) - before, 0, 8 * kMiB);
#endif
  }
}

}  // namespace
}  // namespace qanat::ztunnel::test
