// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/sandbox/debugger.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

namespace qanat::test {

#if defined(__x86_64__)
namespace {

constexpr long kSyscallInstruction = 0x050f;
constexpr int kMostSteps = 2'000'000;  // a handler of signals may run in between

Status Stopped(pid_t process, int& signal) {
  int status = 0;
  if (waitpid(process, &status, __WALL) != process) return FailErrno("wait for the process");
  if (!WIFSTOPPED(status)) return Fail(Code::kInternal, "the process ended");
  signal = WSTOPSIG(status);
  return {};
}

Result<long> CallStopped(pid_t process, long number, const std::array<unsigned long, 6>& a) {
  user_regs_struct before{};
  if (ptrace(PTRACE_GETREGS, process, nullptr, &before) != 0) return FailErrno("registers");
  errno = 0;
  const long code = ptrace(PTRACE_PEEKTEXT, process, before.rip - 2, nullptr);
  if (errno != 0 || (code & 0xffff) != kSyscallInstruction) {
    return Fail(Code::kFailedPrecondition, "the process is not inside of a system call");
  }
  user_regs_struct call = before;
  call.orig_rax = static_cast<unsigned long>(-1);  // nothing to restart
  call.rip -= 2;
  call.rax = static_cast<unsigned long>(number);
  call.rdi = a[0], call.rsi = a[1], call.rdx = a[2], call.r10 = a[3], call.r8 = a[4],
  call.r9 = a[5];
  if (ptrace(PTRACE_SETREGS, process, nullptr, &call) != 0) return FailErrno("registers");
  user_regs_struct now{};
  int pass = 0;
  for (int step = 0; step < kMostSteps; ++step) {
    if (ptrace(PTRACE_SINGLESTEP, process, nullptr, pass) != 0) return FailErrno("step");
    int signal = 0;
    QANAT_RETURN_IF_ERROR(Stopped(process, signal));
    pass = signal == SIGTRAP ? 0 : signal;  // its own handler gets what is not ours
    if (ptrace(PTRACE_GETREGS, process, nullptr, &now) != 0) return FailErrno("registers");
    if (pass == 0 && now.rip == before.rip && now.rsp == before.rsp) {
      if (ptrace(PTRACE_SETREGS, process, nullptr, &before) != 0) return FailErrno("registers");
      return static_cast<long>(now.rax);
    }
  }
  return Fail(Code::kDeadlineExceeded, "the call did not come back");
}

}  // namespace

static Result<long> TryCallInside(pid_t process, long number,
                                  const std::array<unsigned long, 6>& arguments) {
  if (ptrace(PTRACE_SEIZE, process, nullptr, nullptr) != 0) return FailErrno("attach");
  if (ptrace(PTRACE_INTERRUPT, process, nullptr, nullptr) != 0) return FailErrno("interrupt");
  int signal = 0;
  QANAT_RETURN_IF_ERROR(Stopped(process, signal));
  auto result = CallStopped(process, number, arguments);
  if (ptrace(PTRACE_DETACH, process, nullptr, nullptr) != 0) return FailErrno("detach");
  return result;
}

// It may be at work just then: soon it waits in a call again.
Result<long> CallInside(pid_t process, long number, const std::array<unsigned long, 6>& arguments) {
  for (int i = 0; i < 200; ++i) {
    auto result = TryCallInside(process, number, arguments);
    if (result || result.error().code != Code::kFailedPrecondition) return result;
    usleep(10'000);
  }
  return Fail(Code::kDeadlineExceeded, "the process never waits in a system call");
}
#else
Result<long> CallInside(pid_t, long, const std::array<unsigned long, 6>&) {
  return Fail(Code::kUnimplemented, "this test's debugger knows x86-64 only");
}
#endif

}  // namespace qanat::test
