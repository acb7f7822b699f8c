// SPDX-License-Identifier: Apache-2.0
// Whatever is taken away from an enrolled pod is back within a second, with the agent's default
// settings; what cannot be put back cuts the pod off, and it says so. One case for each thing.
#include <bpf/bpf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <unistd.h>

#include <filesystem>

#include "bpf/user/link.h"
#include "bpf/user/node_maps.h"
#include "common/netns/netns.h"
#include "tests/bpf/bed.h"

namespace qanat::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr const char* kOut4 = "10.66.9.9:8080";
constexpr const char* kOut6 = "[fd66:9::9]:8080";
constexpr int kSecond = 1000;

// A foreign program of any of our types that lets everything pass.
Fd PassAll(bpf_prog_type type, bpf_attach_type attach, int verdict) {
  const bpf_insn program[] = {{BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, verdict},
                              {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
  LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = attach);
  return Fd(bpf_prog_load(type, "foreign", "GPL", program, std::size(program), &options));
}

class RepairTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    bed_ = new Bed("qKERNEL");
    a_ = bed_->MakePod("a", 10);
    bed_->ShowPod(a_);
    bed_->StartAgent();
    bed_->StartPeer();
    ASSERT_TRUE(bed_->WaitEnabled(a_)) << bed_->StatusText(a_) << bed_->Log();
    servers_.push_back(bed_->Spawn({a_.netns, "pods/a"}, [] { ServeApp(8080); }));
    servers_.push_back(bed_->Spawn({bed_->out_ns(), "host"}, [] { ServeApp(8080); }));
    auto maps = bpf::NodeMaps::Open(bed_->bpf_dir() + "/maps");
    ASSERT_TRUE(maps) << maps.error().message;
    maps_ = new bpf::NodeMaps(std::move(*maps));
    ASSERT_EQ(maps_->pods.Keys().size(), 1u);
    cookie_ = maps_->pods.Keys()[0];
    id_ = (*maps_->pods.Lookup(cookie_))->id;
  }
  static void TearDownTestSuite() {
    servers_.clear();
    EXPECT_EQ(bed_->SanitizerReport(), "");
    if (Test::HasFailure()) std::fprintf(stderr, "%s\n", bed_->Log().c_str());
    delete maps_;
    delete bed_;
  }
  // Every case begins with a pod that is whole.
  void SetUp() override {
    ASSERT_TRUE(bed_->WaitFor([] { return Whole(); })) << bed_->StatusText(a_) << bed_->Log();
  }
  static std::string From(const Dial& dial) {
    return bed_->Run({a_.netns, "pods/a"}, [&] { return Call(dial); });
  }
  static std::string FromOut(const Dial& dial) {
    return bed_->Run({bed_->out_ns(), "host"}, [&] { return Call(dial); });
  }
  static bool Whole() {
    const std::string inbound = a_.ip4 + ":8080";
    return From({.to = kOut4}).rfind("out", 0) == 0 && From({.to = kOut6}).rfind("out", 0) == 0 &&
           FromOut({.to = inbound}).rfind("in", 0) == 0 &&
           bed_->StatusText(a_).find("\"reason\":\"\"") != std::string::npos;
  }
  // The clock starts when the harm is done.
  static void ExpectWithinASecond(const std::string& what, const std::function<bool()>& repaired) {
    EXPECT_TRUE(bed_->WaitFor(repaired, kSecond)) << what;
  }
  static std::string Pin(const std::string& link) { return bed_->bpf_dir() + "/links/" + link; }
  static bool Attached(const std::string& link) {
    auto pinned = bpf::Link::OpenPinned(Pin(link));
    if (!pinned) return false;
    auto info = pinned->Info();
    return info && info->attached;
  }
  static uint32_t ProgramOf(const std::string& link) {
    auto pinned = bpf::Link::OpenPinned(Pin(link));
    if (!pinned) return 0;
    auto info = pinned->Info();
    return info ? info->program_id : 0;
  }
  static std::vector<std::string> Links() {
    std::vector<std::string> names;
    for (const auto& pin : std::filesystem::directory_iterator(Pin("")))
      names.push_back(pin.path().filename().string());
    return names;
  }

  static Bed* bed_;
  static Bed::PodInfo a_;
  static bpf::NodeMaps* maps_;
  static uint64_t cookie_;
  static uint32_t id_;
  static std::vector<Process> servers_;
};
Bed* RepairTest::bed_;
Bed::PodInfo RepairTest::a_;
bpf::NodeMaps* RepairTest::maps_;
uint64_t RepairTest::cookie_;
uint32_t RepairTest::id_;
std::vector<Process> RepairTest::servers_;

TEST_F(RepairTest, EachLinkThatIsDetached) {
  const auto links = Links();
  ASSERT_EQ(links.size(), 11u + 5u) << "eleven of the node, five of the pod";
  for (const std::string& link : links) {
    auto pinned = bpf::Link::OpenPinned(Pin(link));
    ASSERT_TRUE(pinned) << link;
    ASSERT_EQ(bpf_link_detach(pinned->fd()), 0) << link;
    ASSERT_FALSE(pinned->Info()->attached) << link;
    ExpectWithinASecond(link, [&] { return Attached(link); });
  }
}

TEST_F(RepairTest, EachPinThatIsRemoved) {
  for (const std::string& link : Links()) {
    ASSERT_TRUE(std::filesystem::remove(Pin(link))) << link;
    ExpectWithinASecond(link, [&] { return Attached(link); });
  }
}

TEST_F(RepairTest, EachLinkWhoseProgramWasReplaced) {
  struct Kind {
    const char* link;
    bpf_prog_type type;
    bpf_attach_type attach;
    int verdict;
  };
  constexpr int kTcxNext = -1;
  const std::vector<Kind> kinds = {
      {"connect4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, 1},
      {"connect6", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_CONNECT, 1},
      {"bind4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_BIND, 1},
      {"bind6", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_BIND, 1},
      {"sockops", BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, 1},
      {"-lookup", BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP, 1},
      {"-guard-", BPF_PROG_TYPE_SCHED_CLS, {}, kTcxNext},
      {"-ingress-", BPF_PROG_TYPE_SCHED_CLS, {}, kTcxNext},
      {"-host_", BPF_PROG_TYPE_SCHED_CLS, {}, kTcxNext},
  };
  for (const Kind& kind : kinds)
    for (const std::string& link : Links()) {
      if (link.find(kind.link) == std::string::npos) continue;
      const uint32_t ours = ProgramOf(link);
      Fd foreign = PassAll(kind.type, kind.attach, kind.verdict);
      ASSERT_TRUE(foreign.valid()) << link;
      auto pinned = bpf::Link::OpenPinned(Pin(link));
      ASSERT_TRUE(pinned && pinned->Replace(foreign.get())) << link;
      const uint32_t theirs = ProgramOf(link);
      ASSERT_NE(theirs, ours);
      ExpectWithinASecond(link, [&] { return ProgramOf(link) != theirs; });
    }
}

TEST_F(RepairTest, EachMapEntry) {
  const qanat_pod_state state = **maps_->pod_state.Lookup(id_);
  ASSERT_EQ(state.mode, QANAT_MODE_ENFORCED);

  ASSERT_TRUE(maps_->pods.Erase(cookie_));
  ExpectWithinASecond("pods", [&] { return maps_->pods.Lookup(cookie_)->has_value(); });

  for (const std::string& text : {a_.ip4, a_.ip6}) {
    const qanat_ip ip = bpf::ToKernel(*net::IpAddress::Parse(text));
    ASSERT_TRUE(maps_->pod_ips.Erase(ip));
    ExpectWithinASecond("pod_ips " + text, [&] {
      auto owner = maps_->pod_ips.Lookup(ip);
      return owner && *owner && **owner == cookie_;
    });
    ASSERT_TRUE(maps_->pod_ips.Update(ip, uint64_t{77}));  // of nobody that is known
    ExpectWithinASecond("pod_ips of a stranger " + text,
                        [&] { return **maps_->pod_ips.Lookup(ip) == cookie_; });
  }

  ASSERT_TRUE(maps_->pod_state.Update(id_, qanat_pod_state{}));
  ExpectWithinASecond("pod_state",
                      [&] { return (*maps_->pod_state.Lookup(id_))->mode == QANAT_MODE_ENFORCED; });

  ASSERT_TRUE(maps_->config.Update(0, qanat_config{}));
  ExpectWithinASecond("config", [&] {
    return (*maps_->config.Lookup(0))->host_cookie != 0 &&
           (*maps_->config.Lookup(0))->peers[0].id != 0;
  });

  for (uint32_t role = 0; role < QANAT_ROLES; ++role)
    for (uint32_t worker = 0; worker < state.workers[role]; ++worker) {
      const uint32_t slot = qanat_slot(id_, role, worker);
      const uint64_t listener = **maps_->listeners.Lookup(slot);
      ASSERT_TRUE(maps_->listeners.Erase(slot));
      ExpectWithinASecond("listener " + std::to_string(slot), [&] {
        auto now = maps_->listeners.Lookup(slot);
        return now && *now && **now == listener;
      });
    }
}

TEST_F(RepairTest, EachRuleRouteAndSysctl) {
  struct Harm {
    std::string command, check;
  };
  std::vector<Harm> harms;
  for (const char* ip : {"ip", "ip -6"}) {
    for (const char* preference : {"99", "100", "101"})
      harms.push_back({std::string(ip) + " rule del pref " + preference,
                       std::string(ip) + " rule show pref " + preference + " | grep -q 101"});
    harms.push_back({std::string(ip) + " route flush table 101",
                     std::string(ip) + " route show table 101 | grep -q local"});
  }
  // With another source the application's address would not be the pod's.
  harms.push_back({"ip route replace local default dev lo src 127.0.0.1 table 101",
                   "ip route show table 101 | grep -q " + a_.ip4});
  for (const char* name :
       {"net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect"})
    harms.push_back({std::string("sysctl -qw ") + name + "=0",
                     std::string("test $(sysctl -n ") + name + ") = 1"});
  for (const Harm& harm : harms) {
    ASSERT_TRUE(bed_->Sh(a_.netns, harm.command)) << harm.command;
    ASSERT_FALSE(bed_->Sh(a_.netns, harm.check)) << harm.command;
    ExpectWithinASecond(harm.command, [&] { return bed_->Sh(a_.netns, harm.check); });
  }
}

TEST_F(RepairTest, ARuleInFrontOfOursCutsThePodOffAndItSaysSo) {
  // Ours are all there, and nothing is captured: there is nothing to put back.
  for (const char* ip : {"ip", "ip -6"}) {
    ASSERT_TRUE(bed_->Sh(a_.netns, std::string(ip) + " rule add pref 50 lookup main"));
    ExpectWithinASecond(ip, [] {
      return bed_->StatusText(a_).find("cut off") != std::string::npos &&
             (*maps_->pod_state.Lookup(id_))->mode == QANAT_MODE_CUT;
    });
    EXPECT_THAT(From({.to = kOut4, .timeout_ms = 500}), StartsWith("error"));
    EXPECT_THAT(From({.to = kOut6, .timeout_ms = 500}), StartsWith("error"));
    EXPECT_THAT(FromOut({.to = a_.ip4 + ":8080", .timeout_ms = 500}), StartsWith("error"));
    ASSERT_TRUE(bed_->Sh(a_.netns, std::string(ip) + " rule del pref 50"));
    ASSERT_TRUE(bed_->WaitFor([] { return Whole(); })) << bed_->StatusText(a_);
  }
}

TEST_F(RepairTest, AnotherInterfaceIsGuarded) {
  ASSERT_TRUE(
      bed_->Sh(a_.netns, "ip link add second type veth peer name third && ip link set second up"));
  ExpectWithinASecond("second", [] { return Links().size() == 11u + 9u; });
  ASSERT_TRUE(bed_->Sh(a_.netns, "ip link del second"));
}

// Who may take an address away may also add an interface.
TEST_F(RepairTest, AnotherInterfaceIsGuardedAlsoWhereAnAddressIsMissing) {
  ASSERT_TRUE(bed_->Sh(a_.netns, "ip addr del " + a_.ip4 + "/24 dev eth0"));
  ASSERT_TRUE(
      bed_->Sh(a_.netns, "ip link add second type veth peer name third && ip link set second up"));
  ExpectWithinASecond("second", [] {
    std::string index = bed_->Run({a_.netns, "host"}, []() -> std::string {
      return std::to_string(::if_nametoindex("second"));
    });
    return Attached("pod-" + std::to_string(id_) + "-guard-" + index);
  });
  ASSERT_TRUE(bed_->Sh(a_.netns, "ip link del second; ip addr add " + a_.ip4 +
                                     "/24 dev eth0; ip route replace default via 10.66.1.1"));
  EXPECT_TRUE(bed_->WaitFor([] { return Whole(); })) << bed_->StatusText(a_);
}

// Last: the pod's namespace is another one after it.
TEST_F(RepairTest, ZAnotherNamespaceUnderTheSamePath) {
  // The processes of the first one go, as those of a sandbox that is made anew do.
  servers_.clear();
  bed_->DeletePodNs(a_);
  a_ = bed_->MakePod("a", 10);
  auto ns = netns::NetNs::Open("/run/netns/" + a_.netns);
  ASSERT_TRUE(ns);
  const uint64_t next = *ns->Cookie();
  ASSERT_NE(next, cookie_);
  ExpectWithinASecond("the pod is closed in its new namespace", [&] {
    auto pod = maps_->pods.Lookup(next);
    if (!pod || !*pod) return false;
    auto state = maps_->pod_state.Lookup((*pod)->id);
    return state && *state && (*state)->mode != QANAT_MODE_OFF;
  });
  EXPECT_FALSE(maps_->pods.Lookup(cookie_)->has_value());
  servers_.push_back(bed_->Spawn({a_.netns, "pods/a"}, [] { ServeApp(8080); }));
  servers_.push_back(bed_->Spawn({bed_->out_ns(), "host"}, [] { ServeApp(8080); }));
  EXPECT_TRUE(bed_->WaitFor([] { return Whole(); })) << bed_->StatusText(a_);
  EXPECT_THAT(bed_->Log(), HasSubstr("has a new network namespace"));
}

}  // namespace
}  // namespace qanat::test
