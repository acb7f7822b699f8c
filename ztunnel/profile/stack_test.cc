// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/profile/stack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <thread>

#include "common/event/event_loop.h"
#include "ztunnel/profile/cpu.h"

namespace qanat::ztunnel::profile {
namespace {

constexpr uintptr_t kTop = std::numeric_limits<uintptr_t>::max();

uintptr_t Here() { return reinterpret_cast<uintptr_t>(__builtin_frame_address(0)); }

// As a handler would be told.
size_t WalkFrom(uintptr_t frame, uintptr_t stack_pointer, std::span<void*> out) {
  ucontext_t context{};
  auto& registers = context.uc_mcontext;
#if defined(__x86_64__)
  registers.gregs[REG_RIP] = 0x1234;
  registers.gregs[REG_RBP] = static_cast<greg_t>(frame);
  registers.gregs[REG_RSP] = static_cast<greg_t>(stack_pointer);
#else
  registers.pc = 0x1234;
  registers.regs[29] = frame;
  registers.sp = stack_pointer;
#endif
  return WalkStack(&context, out);
}

__attribute__((noinline)) size_t Deep(int levels, std::span<void*> out) {
  const size_t count = levels == 0 ? WalkOwnStack(out) : Deep(levels - 1, out);
  asm volatile("" ::: "memory");  // no tail call
  return count;
}

TEST(Stack, OfOneself) {
  std::array<void*, 32> frames{};
  std::thread([&] {
    EXPECT_EQ(WalkOwnStack(frames), 0u);  // a thread that is not known is not walked
    RegisterThisThread();
    const size_t shallow = Deep(0, frames);
    EXPECT_EQ(Deep(5, frames), shallow + 5);
    std::array<void*, 3> few{};
    EXPECT_EQ(Deep(5, few), 3u);
  }).join();
  EXPECT_NE(Describe(frames[0]).find("ztunnel_test"), std::string::npos);
}

// Numbers that code without frame pointers may have in that register, none of them to be followed.
TEST(Stack, AnyNumberInTheFrameRegister) {
  std::array<void*, 32> frames{};
  const auto walk_all = [&] {
    const uintptr_t sp = Here();
    for (const uintptr_t frame :
         {uintptr_t{0}, uintptr_t{8}, uintptr_t{4096}, kTop, kTop - 7, kTop - 15, kTop - 23,
          kTop - 31, sp - 16, sp - (64 << 20), sp + (64 << 20), uintptr_t{1} << 63, sp + 1}) {
      EXPECT_EQ(WalkFrom(frame, sp, frames), 1u) << std::hex << frame;
    }
  };
  std::thread([&] {
    walk_all();  // not known yet: the address alone
    RegisterThisThread();
    walk_all();
    EXPECT_GE(WalkFrom(Here(), Here(), frames), 2u);  // and what is good is followed
  }).join();
}

// What a frame says of its caller is no better.
TEST(Stack, AnyNumberInAFrame) {
  std::array<void*, 32> frames{};
  std::thread([&] {
    RegisterThisThread();
    alignas(16) volatile uintptr_t frame[2] = {0, 0x5678};
    const auto at = reinterpret_cast<uintptr_t>(&frame);
    for (const uintptr_t next :
         {uintptr_t{0}, at, at - 16, at + 1, kTop, kTop - 7, kTop - 15, kTop - 23}) {
      frame[0] = next;
      EXPECT_EQ(WalkFrom(at, at, frames), 2u) << std::hex << next;
    }
  }).join();
}

// A handler's own stack, or one that somebody made: what is around there is not known.
TEST(Stack, AnotherStack) {
  std::array<void*, 32> frames{};
  std::thread([&] {
    RegisterThisThread();
    const size_t size = 3 * 4096;
    void* other = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(other, MAP_FAILED);
    const auto at = reinterpret_cast<uintptr_t>(other) + 4096;
    EXPECT_EQ(WalkFrom(at, at, frames), 1u);
    // The thread's own, seen from elsewhere: how far down it is in use cannot be told.
    EXPECT_EQ(WalkFrom(Here(), at, frames), 1u);
    EXPECT_EQ(WalkFrom(Here(), 0, frames), 1u);
    munmap(other, size);
  }).join();
}

// Computes with the frame register as that code does. `until` is somebody else's.
__attribute__((noinline)) void Borrow(uintptr_t value, const std::atomic<bool>& until) {
  while (!until) {
#if defined(__x86_64__)
    asm volatile(
        "sub $128, %%rsp\n push %%rbp\n mov %0, %%rbp\n mov $5000000, %%ecx\n"
        "1: dec %%ecx\n jnz 1b\n pop %%rbp\n add $128, %%rsp\n" ::"r"(value)
        : "rcx", "memory", "cc");
#else
    asm volatile(
        "str x29, [sp, #-16]!\n mov x29, %0\n mov w9, #0x400000\n"
        "1: subs w9, w9, #1\n b.ne 1b\n ldr x29, [sp], #16\n" ::"r"(value)
        : "x9", "memory", "cc");
#endif
  }
}

// The whole profiler over threads that are nearly always inside of such code.
TEST(Stack, AProfileOfCodeWithoutFramePointers) {
  for (const uintptr_t value : {kTop - 15, kTop - 7, uintptr_t{16}, uintptr_t{0x7777'7777'7778}}) {
    event::EventLoop loop;
    event::LoopThread busy("busy");
    CpuProfiler profiler(loop, {&busy.loop()});
    std::string profile;
    std::atomic<bool> over = false;
    ASSERT_TRUE(profiler.Start(std::chrono::milliseconds(300), 500,
                               [&](std::string p) { profile = std::move(p); }));
    event::Timer end(loop, [&] { over = true; });
    end.Start(std::chrono::milliseconds(400));
    busy.loop().Post([&] { Borrow(value, over); });
    for (int i = 0; i < 2000 && profile.empty(); ++i) loop.RunOnce(std::chrono::milliseconds(10));
    EXPECT_FALSE(profile.empty());
  }
}

}  // namespace
}  // namespace qanat::ztunnel::profile
