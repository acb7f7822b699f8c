// SPDX-License-Identifier: Apache-2.0
#include "tests/bpf/killer.h"

#include <bpf/bpf.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <cstdint>

namespace qanat::test {
namespace {

std::string Text(pid_t pid, uint64_t address) {
  char buffer[256] = {};
  // Byte by byte: a text may end where the memory does.
  for (size_t i = 0; i + 1 < sizeof buffer; ++i) {
    iovec to{buffer + i, 1}, from{reinterpret_cast<void*>(address + i), 1};
    if (::process_vm_readv(pid, &to, 1, &from, 1, 0) != 1 || buffer[i] == 0) break;
  }
  return buffer;
}

// "" when it is none of those that count.
std::string Step(pid_t pid, const __ptrace_syscall_info& call, const std::string& folder) {
  const auto& args = call.entry.args;
  const auto below = [&](uint64_t address) {
    const std::string path = Text(pid, address);
    return path.rfind(folder, 0) == 0 ? path : "";
  };
  switch (call.entry.nr) {
    case SYS_bpf: {
      if (args[0] == BPF_LINK_UPDATE) return "replace a link";
      if (args[0] != BPF_OBJ_PIN) return "";
      uint64_t path = 0;
      iovec to{&path, sizeof path}, from{reinterpret_cast<void*>(args[1]), sizeof path};
      if (::process_vm_readv(pid, &to, 1, &from, 1, 0) != sizeof path) return "";
      const std::string pin = below(path);
      return pin.empty() ? "" : "pin " + pin;
    }
    case SYS_renameat2: return "exchange";
    case SYS_unlink:
    case SYS_rmdir: {
      const std::string path = below(args[0]);
      return path.empty() ? "" : "remove " + path;
    }
    case SYS_unlinkat: return "remove " + Text(pid, args[1]);
    default: return "";
  }
}

}  // namespace

Killed KillAtStep(pid_t pid, const std::string& folder, int step) {
  Killed out;
  int status = 0;
  ::waitpid(pid, &status, 0);
  ::ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  int signal = 0;
  for (;;) {
    ::ptrace(PTRACE_SYSCALL, pid, 0, signal);
    signal = 0;
    if (::waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status)) return out;
    if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
      signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
      continue;
    }
    __ptrace_syscall_info call{};
    if (::ptrace(static_cast<__ptrace_request>(PTRACE_GET_SYSCALL_INFO), pid, sizeof call, &call) <=
            0 ||
        call.op != PTRACE_SYSCALL_INFO_ENTRY)
      continue;
    if (call.entry.nr == SYS_epoll_wait || call.entry.nr == SYS_epoll_pwait) break;  // it is up
    const std::string what = Step(pid, call, folder);
    if (what.empty()) continue;
    out.what = what;
    if (++out.reached < step) continue;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, &status, 0);
    return out;
  }
  ::ptrace(PTRACE_DETACH, pid, 0, 0);
  return out;
}

}  // namespace qanat::test
