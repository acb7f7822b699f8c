// SPDX-License-Identifier: Apache-2.0
// The seccomp filter, assembled by hand (seccomp(2); the kernel keeps a bitmap of the calls that
// are allowed whatever their arguments, so these cost next to nothing since 5.11). A refused call
// traps: the handler names it on stderr once and lets it return EPERM.
#include "common/sandbox/filter.h"

#include <fmt/format.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <vector>

#include "common/sandbox/calls.h"

#ifndef SECCOMP_FILTER_FLAG_SPEC_ALLOW
#define SECCOMP_FILTER_FLAG_SPEC_ALLOW (1UL << 2)
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif

namespace qanat::sandbox {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
auto& ResultOf(ucontext_t* context) { return context->uc_mcontext.gregs[REG_RAX]; }
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
auto& ResultOf(ucontext_t* context) { return context->uc_mcontext.regs[0]; }
#else
#error "the sandbox knows x86-64 and arm64"
#endif

// ---- the program

class Assembler {
 public:
  void Load(size_t offset) { Add(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)); }
  void LoadArgument(int index) {  // its low half: all that is checked are ints and flags
    Load(offsetof(seccomp_data, args) + static_cast<size_t>(index) * 8);
  }
  void Return(uint32_t action) { Add(BPF_RET | BPF_K, action); }
  void ReturnIfEqual(uint32_t value, uint32_t action) {
    Add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
    Return(action);
  }
  void Add(uint16_t code, uint32_t k, uint8_t if_true = 0, uint8_t if_false = 0) {
    program_.push_back({code, if_true, if_false, k});
  }
  std::vector<sock_filter>& program() { return program_; }

 private:
  std::vector<sock_filter> program_;
};

void AddChecked(Assembler& out, const Checked& checked) {
  const size_t values = checked.bits ? 1 : checked.values.size();
  const size_t body = 1 + (checked.bits ? 1 : 0) + 2 * values + 1;
  out.Add(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(checked.call), 0,
          static_cast<uint8_t>(body));
  out.LoadArgument(checked.argument);
  if (checked.bits) out.Add(BPF_ALU | BPF_AND | BPF_K, checked.values[0]);
  for (size_t i = 0; i < values; ++i) out.ReturnIfEqual(checked.values[i], SECCOMP_RET_ALLOW);
  out.Return(SECCOMP_RET_TRAP);
}

std::vector<sock_filter> Assemble(const Allowed& allowed) {
  Assembler out;
  out.Load(offsetof(seccomp_data, arch));
  out.Add(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0);
  out.Return(SECCOMP_RET_KILL_PROCESS);  // 32-bit calls: nothing of ours makes them
  out.Load(offsetof(seccomp_data, nr));
  // Its flags lie behind a pointer, where no filter sees them; libc takes clone() instead.
  out.ReturnIfEqual(SYS_clone3, SECCOMP_RET_ERRNO | ENOSYS);
  for (const Checked& checked : CheckedCalls()) AddChecked(out, checked);
  for (const std::span<const int> calls : {CommonCalls(), allowed.calls, SanitizerCalls()}) {
    for (const int call : calls) {
      out.ReturnIfEqual(static_cast<uint32_t>(call), SECCOMP_RET_ALLOW);
    }
  }
  out.Return(SECCOMP_RET_TRAP);  // x32's numbers too
  return std::move(out.program());
}

// ---- what was refused

constexpr size_t kNumbers = 1024;
std::array<std::atomic<bool>, kNumbers> named;
bool as_json = false;

// A handler may not format or lock: pieces are put together by hand and written at once.
void Name(unsigned number) {
  char digits[12];
  size_t at = sizeof digits;
  do {
    digits[--at] = static_cast<char>('0' + number % 10);
  } while ((number /= 10) != 0);
  char line[200];
  size_t size = 0;
  const auto put = [&](const char* text, size_t length) {
    for (size_t i = 0; i < length && size < sizeof line; ++i) line[size++] = text[i];
  };
  const auto text = [&](const char* literal) { put(literal, __builtin_strlen(literal)); };
  text(as_json ? R"({"level":"warn","scope":"sandbox","message":")" : "warn\tsandbox\t");
  text("system call ");
  put(digits + at, sizeof digits - at);
  text(" was refused (said once; QANAT_SANDBOX=off if it is needed here)");
  text(as_json ? "\"}\n" : "\n");
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line, size);
}

void OnRefused(int, siginfo_t* info, void* context) {
  const int saved = errno;
  const auto number = static_cast<unsigned>(info->si_syscall);
  if (!named[number < kNumbers ? number : kNumbers - 1].exchange(true)) Name(number);
  ResultOf(static_cast<ucontext_t*>(context)) = -EPERM;
  errno = saved;
}

}  // namespace

Status InstallFilter(const Allowed& allowed, log::Format format) {
  as_json = format == log::Format::kJson;
  struct sigaction action{};
  action.sa_sigaction = OnRefused;
  action.sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER;
  if (sigaction(SIGSYS, &action, nullptr) != 0) return FailErrno("SIGSYS");
  std::vector<sock_filter> program = Assemble(allowed);
  const sock_fprog fprog{static_cast<unsigned short>(program.size()), program.data()};
  // SPEC_ALLOW: before 5.16 a filter switched the processor's store bypass off, for every load of
  // the data path. TSYNC: runtimes of sanitizers have a thread by now.
  const unsigned long flags = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
  const long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &fprog);
  if (result < 0) {
    return FailErrno("install the filter of system calls (QANAT_SANDBOX=off leaves it out)");
  }
  if (result > 0) {
    return Fail(Code::kInternal, fmt::format("the filter did not reach thread {}", result));
  }
  return {};
}

}  // namespace qanat::sandbox
