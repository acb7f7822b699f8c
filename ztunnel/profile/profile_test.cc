// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <time.h>

#include "ztunnel/profile/cpu.h"
#include "ztunnel/profile/pprof.h"

namespace qanat::ztunnel::profile {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// The fields of a protobuf message, read without the writer's help.
struct Field {
  unsigned number = 0;
  uint64_t value = 0;
  std::string bytes;
};
std::vector<Field> Decode(const std::string& message) {
  std::vector<Field> out;
  size_t at = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0; at < message.size(); shift += 7) {
      const auto byte = static_cast<uint8_t>(message[at++]);
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) break;
    }
    return value;
  };
  while (at < message.size()) {
    const uint64_t key = varint();
    Field field;
    field.number = static_cast<unsigned>(key >> 3);
    field.value = varint();
    if ((key & 7) == 2) {
      field.bytes = message.substr(at, field.value);
      at += field.value;
    }
    out.push_back(std::move(field));
  }
  return out;
}
std::vector<std::string> All(const std::string& message, unsigned number) {
  std::vector<std::string> out;
  for (const Field& field : Decode(message)) {
    if (field.number == number) out.push_back(field.bytes);
  }
  return out;
}

TEST(Pprof, Encodes) {
  Profile profile;
  profile.types = {{"samples", "count"}, {"cpu", "nanoseconds"}};
  profile.period_type = profile.types.back();
  profile.shown = "samples";
  profile.period = 1000;
  profile.started = std::chrono::nanoseconds(5);
  profile.mappings = {{0x1000, 0x2000, 0x10, "/bin/a"}, {0x5000, 0x6000, 0, "/lib/b"}};
  profile.stacks[{0x1100, 0x5200}] = {3, 3000};
  profile.stacks[{0x9999}] = {1, 1000};  // of nowhere
  const std::string encoded = EncodeProfile(profile);
  EXPECT_THAT(All(encoded, 6),
              ElementsAre("", "samples", "count", "cpu", "nanoseconds", "/bin/a", "/lib/b"));
  EXPECT_EQ(All(encoded, 1).size(), 2u);
  EXPECT_EQ(Decode(encoded).size(), 20u);
  for (const Field& field : Decode(encoded)) {
    if (field.number == 12) {
      EXPECT_EQ(field.value, 1000u);
    } else if (field.number == 14) {
      EXPECT_EQ(field.value, 1u);  // "samples"
    }
  }
  EXPECT_EQ(All(encoded, 3).size(), 2u);
  const auto samples = All(encoded, 2);
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_THAT(All(samples[0], 2), ElementsAre("\x03\xb8\x17"));  // 3 samples, 3,000 ns
  const auto locations = All(encoded, 4);
  ASSERT_EQ(locations.size(), 3u);
  EXPECT_EQ(Decode(locations[0])[1].value, 1u);       // in the first mapping
  EXPECT_EQ(Decode(locations[1])[2].value, 0x51ffu);  // a caller: inside its call
  EXPECT_EQ(Decode(locations[2]).size(), 2u);         // no mapping
}

TEST(Pprof, Mappings) {
  const auto all = ParseMappings(
      "5500-5600 r-xp 00000010 fe:01 123   /usr/bin/qanat ztunnel\n"
      "5600-5700 rw-p 00000010 fe:01 123   /usr/bin/qanat\n"
      "7000-7100 r-xp 00000000 00:00 0     [vdso]\n"
      "8000-8100 r-xp 00000000 00:00 0 \n"
      "nonsense\n\n");
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].start, 0x5500u);
  EXPECT_EQ(all[0].offset, 0x10u);
  EXPECT_EQ(all[0].file, "/usr/bin/qanat ztunnel");
  EXPECT_EQ(all[2].file, "");
}

// So much CPU time, on a machine that may give us little of it; nearly all of it in code of ours:
// the kernel's page that tells the time has no frame pointers, a stack from there ends there.
__attribute__((noinline)) void Busy(int64_t milliseconds) {
  timespec now{};
  do {
    for (int i = 0; i < 20'000; ++i) asm volatile("" ::: "memory");
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  } while (now.tv_sec * 1000 + now.tv_nsec / 1'000'000 < milliseconds);
}

TEST(CpuProfiler, FindsWhereTheTimeGoes) {
  event::EventLoop loop;
  event::LoopThread busy("busy"), idle("idle");
  CpuProfiler profiler(loop, {&busy.loop(), &idle.loop()});
  std::string profile;
  ASSERT_TRUE(
      profiler.Start(std::chrono::seconds(3), 200, [&](std::string p) { profile = std::move(p); }));
  EXPECT_FALSE(profiler.Start(std::chrono::seconds(1), 1, {}));  // one at a time
  busy.loop().Post([] { Busy(100); });
  for (int i = 0; i < 2000 && profile.empty(); ++i) loop.RunOnce(std::chrono::milliseconds(10));
  ASSERT_FALSE(profile.empty());
  int64_t total = 0;
  size_t deep = 0;
  for (const std::string& sample : All(profile, 2)) {
    total += static_cast<uint8_t>(All(sample, 2)[0][0]) & 0x7f;
    deep = std::max(deep, All(sample, 1)[0].size());
  }
  EXPECT_GE(total, 3);  // of the 20 that it should be
  EXPECT_GE(deep, 4u);
  EXPECT_THAT(All(profile, 6), testing::Contains(HasSubstr("ztunnel_test")));
  profile.clear();
  ASSERT_TRUE(profiler.Start(std::chrono::milliseconds(20), 100,
                             [&](std::string p) { profile = std::move(p); }));
  for (int i = 0; i < 2000 && profile.empty(); ++i) loop.RunOnce(std::chrono::milliseconds(10));
  EXPECT_FALSE(profile.empty());
}

}  // namespace
}  // namespace qanat::ztunnel::profile
