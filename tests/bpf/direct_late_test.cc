// SPDX-License-Identifier: Apache-2.0
// The direct path over time: what changes between connect() and the SYN, questions to the agent,
// and the fence behind a change.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>

#include <vector>

#include "bpf/user/fence.h"
#include "common/base/fd.h"
#include "tests/bpf/direct_fixture.h"

namespace qanat::test {
namespace {

// With TCP_FASTOPEN_CONNECT connect() only runs its hook; the SYN leaves with the first write.
class DirectLateTest : public DirectTest {
 protected:
  void SetUp() override {
    DirectTest::SetUp();
    ASSERT_TRUE(t_->bed.Sh(t_->a.netns, "sysctl -qw net.ipv4.tcp_fastopen=5"));
    t_->SetVerdict(8080);
  }
  static std::string Late(const std::function<void()>& between,
                          const std::string& before_write = "") {
    std::string said;
    for (const char* family : {"socket.AF_INET", "socket.AF_INET6"})
      said += t_->Python(t_->a,
                         "import socket,sys\ns=socket.socket(" + std::string(family) +
                             ")\ns.settimeout(3)\n"
                             "s.setsockopt(6,30,1)\n"
                             "s.connect((sys.argv[1 if s.family==2 else 2],8080))\ninput('?')\n" +
                             before_write +
                             "\ntry:\n s.send(b'hi')\n print(s.recv(100).decode().split()[0])\n"
                             "except OSError as e: print('error')",
                         between) +
              " ";
    return said;
  }
};

TEST_F(DirectLateTest, IsDirectIfNothingChanged) {
  EXPECT_EQ(Late([] { EXPECT_TRUE(t_->maps.flows.Keys().empty()) << "the SYN has left"; }),
            "app app ");
}

TEST_F(DirectLateTest, IsCapturedIfTheVerdictIsGoneSince) {
  const uint64_t before = t_->Counter(t_->a, QANAT_CNT_DIRECT_RETAKEN);
  EXPECT_EQ(Late([] {
              t_->SetLease(0);
              t_->SetLease(60, 2);
            }),
            "out out ");
  t_->Reset();
  EXPECT_EQ(t_->Counter(t_->a, QANAT_CNT_DIRECT_RETAKEN), before + 1)
      << "the second was captured at once";
}

TEST_F(DirectLateTest, AMarkSetSinceIsOverwritten) {
  for (const char* mark : {"0x539", "0x53c", "0x1"})
    EXPECT_EQ(Late([] {}, "s.setsockopt(1,36," + std::string(mark) + ")"), "out out ") << mark;
}

TEST_F(DirectLateTest, ADeviceSetSinceDoesNotLetItOut) {
  const uint64_t dropped = t_->Counter(t_->a, QANAT_CNT_GUARD_DROPPED);
  EXPECT_EQ(Late([] {}, "s.setsockopt(1,25,b'eth0\\0')"), "error error ");
  EXPECT_GE(t_->Counter(t_->a, QANAT_CNT_GUARD_DROPPED), dropped + 2);
}

class DirectMissTest : public DirectTest {
 protected:
  // What lies in the ring, taken out.
  static std::vector<qanat_miss> Take() {
    std::vector<qanat_miss> events;
    Fd fd(bpf_obj_get((t_->bed.bpf_dir() + "/maps/misses").c_str()));
    ring_buffer* ring = ring_buffer__new(
        fd.get(),
        [](void* to, void* data, size_t size) {
          EXPECT_EQ(size, sizeof(qanat_miss));
          static_cast<std::vector<qanat_miss>*>(to)->push_back(*static_cast<qanat_miss*>(data));
          return 0;
        },
        &events, nullptr);
    ring_buffer__consume(ring);
    ring_buffer__free(ring);
    return events;
  }
  static uint32_t Asked() { return **t_->maps.asked.Lookup(t_->KernelPod(t_->a).id); }
};

TEST_F(DirectMissTest, AreToldOnceForEachKey) {
  Take();
  for (int i = 0; i < 4; ++i) ExpectCaptured("asked");
  const auto events = Take();
  ASSERT_EQ(events.size(), 2u);
  for (const auto& event : events) {
    EXPECT_EQ(event.key.src_serial, t_->KernelPod(t_->a).serial);
    EXPECT_EQ(event.key.dst_serial, t_->KernelPod(t_->b).serial);
    EXPECT_EQ(event.key.port, 8080);
    EXPECT_EQ(bpf::FromKernel(event.dst).ToString(), event.key.family == 4 ? t_->b.ip4 : t_->b.ip6);
    auto entry = t_->maps.verdicts.Lookup(event.key);
    ASSERT_TRUE(entry && *entry);
    EXPECT_EQ((*entry)->what, uint32_t{QANAT_VERDICT_ASKED});
  }
  EXPECT_EQ(Asked(), 2u);
  t_->SetLease(0);
  ExpectReached({.to = To4(7777)}, "out");
  EXPECT_TRUE(Take().empty()) << "nobody is asked without a lease";
}

TEST_F(DirectMissTest, OnePodAsksNoMoreThanItsShare) {
  Take();
  const uint64_t before = t_->Counter(t_->a, QANAT_CNT_DIRECT_NOT_ASKED);
  ASSERT_TRUE(t_->maps.asked.Update(t_->KernelPod(t_->a).id, QANAT_MAX_ASKED - 1));
  ExpectReached({.to = To4(7001)}, "out");
  ExpectReached({.to = To4(7002)}, "out");
  EXPECT_EQ(Take().size(), 1u);
  EXPECT_EQ(Asked(), uint32_t{QANAT_MAX_ASKED});
  EXPECT_EQ(t_->Counter(t_->a, QANAT_CNT_DIRECT_NOT_ASKED), before + 1);
  EXPECT_FALSE(t_->maps.verdicts.Lookup(t_->Key(7002, 4)).value().has_value());
}

TEST_F(DirectMissTest, AFullVerdictTableOnlyMeansTheProxy) {
  Take();
  qanat_verdict_key key{1u << 30, 0, 1, 4, 0};
  while (t_->maps.verdicts.Update(key, {1, 0, QANAT_VERDICT_NO})) ++key.dst_serial;
  EXPECT_EQ(key.dst_serial, uint32_t{QANAT_MAX_VERDICTS});
  ExpectCaptured("verdicts full");
  EXPECT_TRUE(Take().empty());
  EXPECT_EQ(Asked(), 0u);
}

TEST(FenceTest, Waits) {
  auto fence = bpf::Fence::Make();
  ASSERT_TRUE(fence) << fence.error().message;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(fence->Wait());
}

}  // namespace
}  // namespace qanat::test
