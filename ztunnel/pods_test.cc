// SPDX-License-Identifier: Apache-2.0
// What the node agent announces, and what becomes of the pods' listeners with who keeps them. Needs
// root, for a network namespace of its own.
#include "ztunnel/pods.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <set>
#include <thread>

#include "common/takeover/datagram.h"

namespace qanat::ztunnel {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Not;

// Hears what is said at NOTIFY_SOCKET when it is asked to listen.
class Keeper {
 public:
  Keeper() : path(testing::TempDir() + "pods-" + std::to_string(getpid()) + ".sock") {
    unlink(path.c_str());
    fd.Reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    std::strncpy(at.sun_path, path.c_str(), sizeof at.sun_path - 1);
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
  }
  ~Keeper() { unlink(path.c_str()); }
  // The names that it would have now.
  const std::set<std::string>& Listen() {
    while (auto message = takeover::ReceiveDatagram(fd.get(), 4096)) {
      const size_t at = message->text.find("FDNAME=");
      if (at == std::string::npos) continue;
      const std::string name = message->text.substr(at + 7);
      if (message->text.starts_with("FDSTOREREMOVE")) {
        kept.erase(name);
      } else {
        kept.insert(name);
      }
    }
    return kept;
  }
  const std::string path;
  Fd fd;
  std::set<std::string> kept;
};

struct Bed {
  Bed() {
    environment.config.packet_mark = 0;
    environment.config.orig_src = false;
    environment.config.dns_capture = false;
    environment.metrics = &metrics;
    environment.pools = &pools;
    environment.access_log = &log;
    environment.post_main = [this](std::function<void()> task) { loop.Post(std::move(task)); };
    environment.want_certificate = environment.renew_certificate = [](const model::Identity&) {};
    environment.reread_addresses = [](const std::string&) {};
    workers.push_back(std::make_unique<Worker>(0, environment));
    pods = std::make_unique<Pods>(
        loop, environment, workers, stock, listeners, [] {}, [](const std::string&) {});
  }
  ~Bed() {
    for (auto& worker : workers) worker->Stop();
  }
  void Connect() {
    pods->OnConnected();
    keeper.Listen();  // it has room for ten, and answers by this that it has nothing
  }
  void Announce(const std::string& uid) {
    auto netns = netns::NetNs::Current();
    ASSERT_TRUE(netns.has_value());
    zds::Add add;
    add.uid = uid;
    add.name = add.ns = add.service_account = "pod";
    pods->OnAdd(add, std::make_shared<netns::NetNs>(std::move(*netns)),
                [](const Status& status) { EXPECT_TRUE(status) << status.error().message; });
  }
  bool Comes(const std::function<bool()>& look) {
    const auto end = event::Clock::now() + std::chrono::seconds(60);
    while (!look() && event::Clock::now() < end) loop.RunOnce(std::chrono::milliseconds(5));
    return look();
  }

  event::EventLoop loop;
  metrics::Registry registry;
  Metrics metrics{registry};
  PoolMetrics pools{registry};
  Fd null{open("/dev/null", O_WRONLY | O_CLOEXEC)};
  log::LineWriter log{null.get()};
  Environment environment;
  std::vector<std::unique_ptr<Worker>> workers;
  Keeper keeper;
  ListenerStock stock;
  std::unique_ptr<Pods> pods;
  ListenerKeeper listeners{loop, keeper.path, [this] { pods->KeepAll(); },
                           std::chrono::milliseconds(20)};
};

void InNamespace(const std::function<void()>& body) {
  std::thread thread([&] {
    ASSERT_EQ(unshare(CLONE_NEWNET), 0) << "needs root";
    body();
  });
  thread.join();
}

// The node agent has lost what it kept, and says no more than that the pod is to stay.
TEST(Pods, WhatIsToBeKeptIsGivenAgain) {
  InNamespace([] {
    Bed bed;
    bed.Connect();
    bed.Announce("uid-1");
    bed.pods->OnSnapshotSent();
    EXPECT_TRUE(bed.Comes([&] { return bed.keeper.Listen().contains("qanat-uid-1-outbound"); }));
    for (const bool with_namespace : {true, false}) {
      bed.pods->OnDisconnected();
      bed.keeper.Listen();
      bed.keeper.kept.clear();
      bed.Connect();
      if (with_namespace) {
        bed.Announce("uid-1");
      } else {
        bed.pods->OnKeep("uid-1");
        bed.pods->OnKeep("uid-unknown");
      }
      bed.pods->OnSnapshotSent();
      EXPECT_TRUE(bed.Comes([&] { return bed.keeper.Listen().contains("qanat-uid-1-outbound"); }))
          << with_namespace;
    }
    EXPECT_EQ(bed.pods->Up().size(), 1u);
  });
}

// It is too busy to hear of anything for a while: then it hears what is to be forgotten, and what
// is to be kept.
TEST(Pods, WhoWasBusyIsToldLater) {
  InNamespace([] {
    Bed bed;
    bed.Connect();
    for (const char* uid : {"uid-1", "uid-2"}) {
      bed.Announce(uid);
      bed.keeper.Listen();
    }
    bed.pods->OnSnapshotSent();
    EXPECT_THAT(bed.keeper.Listen(), Contains("qanat-uid-2-outbound"));
    // From here on it does not listen.
    takeover::Supervisor other(bed.keeper.path);
    while (other.Ready()) continue;
    bed.pods->OnDel("uid-1");
    bed.Announce("uid-3");
    EXPECT_FALSE(bed.listeners.present());
    EXPECT_TRUE(bed.Comes([&] {
      const auto& kept = bed.keeper.Listen();
      return kept.contains("qanat-uid-3-outbound") && !kept.contains("qanat-uid-1-outbound");
    }));
    EXPECT_THAT(bed.keeper.kept, Contains("qanat-uid-2-hbone"));
    for (const std::string& name : bed.keeper.kept) EXPECT_THAT(name, Not(HasSubstr("uid-1")));
  });
}

}  // namespace
}  // namespace qanat::ztunnel
