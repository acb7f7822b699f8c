// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/profile/stack.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <pthread.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>

namespace qanat::ztunnel::profile {
namespace {

struct Bounds {
  uintptr_t low = 0, high = 0;
};
thread_local Bounds bounds;  // of the executable, hence there without allocation in a handler

// Whether a frame's two words are on this thread's stack and not below `least`. Said without a sum
// of the frame's: it may be any number, also one that a sum with would wrap around to a small one.
bool OnStack(uintptr_t frame, uintptr_t least) {
  constexpr uintptr_t kPair = 2 * sizeof(uintptr_t);
  return frame % sizeof(uintptr_t) == 0 && frame >= least && least >= bounds.low &&
         bounds.high >= kPair && frame <= bounds.high - kPair;
}

// Above the stack pointer all of a stack is there to be read, so nothing but that is read. Where
// the stack pointer itself is elsewhere (a signal's own stack), nothing is.
__attribute__((no_sanitize("address"))) size_t Follow(uintptr_t frame, uintptr_t stack_pointer,
                                                      std::span<void*> out, size_t count) {
  // Frames are linked lists towards higher addresses: [frame] = caller's frame, [frame + 8] =
  // return address (x86-64 and AArch64).
  uintptr_t least = stack_pointer;
  while (count < out.size() && OnStack(frame, least)) {
    const auto* pair = reinterpret_cast<const uintptr_t*>(frame);
    const uintptr_t next = pair[0];
    const uintptr_t address = pair[1];
    if (address < 4096) break;
    out[count++] = reinterpret_cast<void*>(address);
    least = frame + 2 * sizeof(uintptr_t);
    frame = next;
  }
  return count;
}

}  // namespace

void RegisterThisThread() {
  pthread_attr_t attributes;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return;
  void* low = nullptr;
  size_t size = 0;
  if (pthread_attr_getstack(&attributes, &low, &size) == 0) {
    bounds.low = reinterpret_cast<uintptr_t>(low);
    bounds.high = bounds.low + size;
  }
  pthread_attr_destroy(&attributes);
}

size_t WalkStack(const void* context, std::span<void*> out) {
  if (out.empty()) return 0;
  const auto& registers = static_cast<const ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
  const auto pc = static_cast<uintptr_t>(registers.gregs[REG_RIP]);
  const auto frame = static_cast<uintptr_t>(registers.gregs[REG_RBP]);
  const auto sp = static_cast<uintptr_t>(registers.gregs[REG_RSP]);
#elif defined(__aarch64__)
  const auto pc = static_cast<uintptr_t>(registers.pc);
  const auto frame = static_cast<uintptr_t>(registers.regs[29]);
  const auto sp = static_cast<uintptr_t>(registers.sp);
#else
#error "name the registers of this machine"
#endif
  out[0] = reinterpret_cast<void*>(pc);
  return Follow(frame, sp, out, 1);
}

size_t WalkOwnStack(std::span<void*> out) {
  const auto frame = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  return Follow(frame, frame, out, 0);
}

std::string Describe(void* address) {
  Dl_info info;
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) {
    return fmt::format("{}", address);
  }
  const auto at = reinterpret_cast<uintptr_t>(address);
  std::string name;
  if (info.dli_sname != nullptr) {
    int status = 0;
    char* demangled = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
    name = fmt::format("{}+{:#x} ", status == 0 ? demangled : info.dli_sname,
                       at - reinterpret_cast<uintptr_t>(info.dli_saddr));
    std::free(demangled);
  }
  return fmt::format("{}({}+{:#x})", name, info.dli_fname,
                     at - reinterpret_cast<uintptr_t>(info.dli_fbase));
}

}  // namespace qanat::ztunnel::profile
