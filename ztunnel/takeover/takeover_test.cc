// SPDX-License-Identifier: Apache-2.0
// Inherited listeners: what a pod takes of them, how they are spread over workers, how they are
// named and written. Needs root, for a network namespace of its own.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sched.h>
#include <sys/socket.h>

#include <set>
#include <thread>

#include "common/net/socket.h"
#include "common/takeover/fields.h"
#include "ztunnel/takeover/predecessor.h"
#include "ztunnel/takeover/sockets.h"
#include "ztunnel/takeover/stock.h"

namespace qanat::ztunnel {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

uint64_t CookieOf(const Fd& fd) {
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  EXPECT_EQ(getsockopt(fd.get(), SOL_SOCKET, SO_COOKIE, &cookie, &size), 0);
  return cookie;
}

Fd Copy(const Fd& fd) { return Fd(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)); }

// The sockets of one role, worker by worker.
std::vector<std::vector<uint64_t>> Of(Role role, const std::vector<Listeners>& sets) {
  std::vector<std::vector<uint64_t>> out;
  for (const Listeners& set : sets) {
    out.emplace_back();
    for (const Listening& one : set) {
      if (one.role == role) out.back().push_back(CookieOf(one.fd));
    }
  }
  return out;
}

// In a fresh network namespace.
void InNamespace(const std::function<void()>& body) {
  std::thread thread([&] {
    ASSERT_EQ(unshare(CLONE_NEWNET), 0) << "needs root";
    body();
  });
  thread.join();
}

TEST(Sockets, OfTheProxysOwnNamespace) {
  const Fd here(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  Fd elsewhere;
  InNamespace([&] { elsewhere = Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); });
  EXPECT_TRUE(CheckNamespace(here.get()).has_value());
  EXPECT_FALSE(CheckNamespace(elsewhere.get()).has_value());
  EXPECT_FALSE(CheckNamespace(-1).has_value());
}

class InheritedTest : public ::testing::Test {
 protected:
  InheritedTest() {
    config.packet_mark = 0;
    config.orig_src = false;
    config.dns_capture = false;
    pod.uid = "uid-1";
  }
  std::vector<Listeners> Open(size_t workers, Listeners inherited) {
    pod.netns_cookie = netns::OwnCookie().value();
    auto sets = OpenListeners(pod, config, workers, std::move(inherited));
    EXPECT_TRUE(sets.has_value()) << sets.error().message;
    return sets ? std::move(*sets) : std::vector<Listeners>();
  }
  // All of them, as another process would have them.
  static Listeners Share(const std::vector<Listeners>& sets) {
    Listeners out;
    for (const Listeners& set : sets) {
      for (const Listening& one : set) out.push_back({one.role, Copy(one.fd)});
    }
    return out;
  }
  Pod pod;
  Config config;
};

TEST_F(InheritedTest, TheSameSocketsGoOn) {
  InNamespace([this] {
    const auto old = Open(2, {});
    ASSERT_EQ(old.size(), 2u);
    const auto fresh = Open(2, Share(old));
    for (const Role role : {Role::kOutbound, Role::kInboundPlain, Role::kInboundHbone}) {
      EXPECT_EQ(Of(role, fresh), Of(role, old));
    }
  });
}

// What the node agent looks for: only then it lets the kernel say by marks what it has drawn.
TEST_F(InheritedTest, OutboundOnesSayThatMarksAreRead) {
  InNamespace([this] {
    const auto old = Open(1, {});
    for (const auto& sets : {Open(2, {}), Open(2, Share(old))}) {
      for (const Listeners& set : sets) {
        for (const Listening& one : set) {
          int on = -1;
          socklen_t size = sizeof on;
          ASSERT_EQ(getsockopt(one.fd.get(), SOL_SOCKET, SO_RCVMARK, &on, &size), 0);
          EXPECT_EQ(on, one.role == Role::kOutbound ? 1 : 0);
        }
      }
    }
  });
}

TEST_F(InheritedTest, MoreWorkersThanSockets) {
  InNamespace([this] {
    const auto old = Open(1, {});
    const auto before = Of(Role::kInboundHbone, old);
    const auto after = Of(Role::kInboundHbone, Open(3, Share(old)));
    EXPECT_EQ(after[0], before[0]);
    EXPECT_EQ(std::set<uint64_t>({after[0].at(0), after[1].at(0), after[2].at(0)}).size(), 3u);
  });
}

TEST_F(InheritedTest, FewerWorkersThanSockets) {
  InNamespace([this] {
    const auto old = Open(3, {});
    const auto before = Of(Role::kOutbound, old);
    const auto after = Of(Role::kOutbound, Open(2, Share(old)));
    EXPECT_THAT(after[0], ElementsAre(before[0].at(0), before[2].at(0)));
    EXPECT_THAT(after[1], ElementsAre(before[1].at(0)));
  });
}

TEST_F(InheritedTest, WithoutPortReuseWorkersShareThem) {
  config.reuse_port = false;
  InNamespace([this] {
    const auto old = Open(2, {});
    const auto before = Of(Role::kInboundPlain, old);
    EXPECT_EQ(before[0], before[1]);
    EXPECT_EQ(Of(Role::kInboundPlain, Open(2, Share(old))), before);  // one socket, counted once
  });
}

TEST_F(InheritedTest, DnsSocketsToo) {
  config.dns_capture = true;
  config.dns_address = "0.0.0.0:15053";
  InNamespace([this] {
    const auto old = Open(2, {});
    const auto udp = Of(Role::kDnsUdp, old);
    EXPECT_EQ(udp[0].size() + udp[1].size(), 1u);
    const auto fresh = Open(2, Share(old));
    EXPECT_EQ(Of(Role::kDnsUdp, fresh), udp);
    EXPECT_EQ(Of(Role::kDnsTcp, fresh), Of(Role::kDnsTcp, old));
  });
}

TEST_F(InheritedTest, WhatDoesNotFitIsNotUsed) {
  Listeners foreign;
  InNamespace([&] { foreign = Share(Open(1, {})); });  // another namespace, same ports
  InNamespace([&] {
    net::ListenOptions options;
    options.address = net::SocketAddress::Parse("0.0.0.0:7").value();  // another port and family
    Fd port = net::Listen(options).value();
    const std::set<uint64_t> unfit = {CookieOf(port), CookieOf(foreign[0].fd)};
    foreign.push_back({Role::kOutbound, std::move(port)});
    foreign.push_back({Role::kInboundHbone, Fd(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0))});
    const auto sets = Open(1, std::move(foreign));
    for (const Role role : kRoles) {
      for (const auto& cookies : Of(role, sets)) {
        for (const uint64_t cookie : cookies) EXPECT_FALSE(unfit.contains(cookie));
      }
    }
    EXPECT_EQ(Of(Role::kOutbound, sets)[0].size(), 1u);
    EXPECT_EQ(Of(Role::kInboundHbone, sets)[0].size(), 1u);
  });
}

// ---- on the wire

Listeners Some(std::initializer_list<Role> roles) {
  Listeners out;
  for (const Role role : roles) {
    out.push_back({role, Fd(open("/dev/null", O_RDONLY | O_CLOEXEC))});
  }
  return out;
}

TEST(ListenersOnTheWire, ThereAndBack) {
  auto out = DecodeListeners(EncodeListeners(Some({Role::kInboundHbone, Role::kDnsUdp})));
  ASSERT_TRUE(out.has_value());
  ASSERT_EQ(out->size(), 2u);
  EXPECT_EQ((*out)[0].role, Role::kInboundHbone);
  EXPECT_EQ((*out)[1].role, Role::kDnsUdp);
  EXPECT_TRUE((*out)[1].fd.valid());
  EXPECT_EQ(DecodeAbout(EncodeAbout("uid-7")).value(), "uid-7");
  EXPECT_FALSE(DecodeAbout("").has_value());
}

TEST(ListenersOnTheWire, OfAnotherVersionStayWhereTheyAre) {
  takeover::FieldWriter writer;
  writer.Number(2 | takeover::kCritical, 99);  // a role that nobody knows here
  takeover::Parcel parcel{writer.Take(), {}};
  parcel.fds.emplace_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_THAT(DecodeListeners(std::move(parcel)).error().message, HasSubstr("unknown kind"));
  takeover::Parcel few = EncodeListeners(Some({Role::kOutbound, Role::kOutbound}));
  few.fds.pop_back();
  EXPECT_FALSE(DecodeListeners(std::move(few)).has_value());
  takeover::Parcel newer = EncodeListeners(Some({Role::kOutbound}));
  writer.Bytes(77 | takeover::kCritical, "matters");
  newer.state += writer.Take();
  EXPECT_THAT(DecodeListeners(std::move(newer)).error().message, HasSubstr("field 77"));
}

// ---- in stock

TEST(ListenerStock, WhoWaitsIsTold) {
  ListenerStock stock;
  std::string told;
  const auto tell = [&told](const char* who) {
    return [&told, who](const Status& status) { told += who + std::string(status ? "+" : "-"); };
  };
  stock.Add("a", Some({Role::kOutbound}), tell("a"));
  stock.Add("a", Some({Role::kInboundHbone}));
  stock.Add("b", Some({Role::kOutbound}), tell("b"));
  EXPECT_EQ(stock.Take("a").size(), 2u);
  EXPECT_EQ(stock.Take("a").size(), 0u);
  EXPECT_EQ(stock.Take("c").size(), 0u);
  stock.Settle("a", {});
  stock.Settle("a", {});
  EXPECT_EQ(told, "a+");
  EXPECT_THAT(stock.Clear("gone"), ElementsAre("b"));
  EXPECT_EQ(told, "a+b-");
  EXPECT_THAT(stock.Clear("gone"), IsEmpty());
}

TEST(ListenerStock, NamesOfASupervisor) {
  const std::string uid = "0b5d5c2e-2bd1-4a52-8b9c-0d5e6f7a8b9c";
  EXPECT_EQ(ListenerKeeper::Name(uid, Role::kInboundPlain), "qanat-" + uid + "-inbound");
  ListenerStock stock;
  std::vector<takeover::PassedFd> passed;
  for (const Role role : kRoles) {
    passed.push_back({ListenerKeeper::Name(uid, role), open("/dev/null", O_RDONLY)});
  }
  const int foreign = open("/dev/null", O_RDONLY);
  passed.push_back({"dbus", foreign});
  passed.push_back({"qanat-outbound", open("/dev/null", O_RDONLY)});   // of no pod
  passed.push_back({ListenerKeeper::Name(uid, Role::kSocks), 99999});  // no such descriptor
  stock.AddPassed(passed);
  const Listeners taken = stock.Take(uid);
  ASSERT_EQ(taken.size(), std::size(kRoles));
  for (size_t i = 0; i < taken.size(); ++i) EXPECT_EQ(taken[i].role, kRoles[i]);
  EXPECT_LT(fcntl(foreign, F_GETFD), 0);
}

}  // namespace
}  // namespace qanat::ztunnel
