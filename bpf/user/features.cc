// SPDX-License-Identifier: Apache-2.0
#include "bpf/user/features.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "common/base/fd.h"

namespace qanat::bpf {
namespace {

constexpr int kSoNetnsCookie = 71;  // asm-generic/socket.h since 5.14
constexpr int kSoPeerPidFd = 77;    // since 6.5

// bpf_set_retval as cgroup/connect4 uses it: the helper exists for other types in older kernels.
bool HasSetRetval() {
  const bpf_insn program[] = {
      {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_1, 0, 0, -111},
      {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_set_retval},
      {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0},
      {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
  };
  LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_CGROUP_INET4_CONNECT);
  Fd fd(bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "qanat_probe", "GPL", program,
                      sizeof program / sizeof program[0], &options));
  return fd.valid();
}

bool HasSocketOption(int family, int option, size_t size) {
  Fd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  char value[16] = {};
  socklen_t length = static_cast<socklen_t>(size);
  if (::getsockopt(fd.get(), SOL_SOCKET, option, value, &length) == 0) return true;
  return errno != ENOPROTOOPT;
}

// tcx came with BPF_LINK_TYPE_TCX; a link to an impossible interface says which of the two it is.
bool HasTcx() {
  const bpf_insn program[] = {
      {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, -1},
      {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
  };
  Fd fd(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "qanat_probe", "GPL", program, 2, nullptr));
  if (!fd) return false;
  Fd link(bpf_link_create(fd.get(), 0x7ffffff0, static_cast<bpf_attach_type>(47), nullptr));
  return !link && errno == ENODEV;
}

}  // namespace

std::vector<Feature> ProbeFeatures() {
  Fd self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  Fd copy(self ? static_cast<int>(::syscall(SYS_pidfd_getfd, self.get(), self.get(), 0)) : -1);
  return {
      {"sk_lookup", libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_SK_LOOKUP, nullptr) == 1, true,
       "chooses the proxy's listener (5.9; its ingress_ifindex 5.17)"},
      {"connect_retval", HasSetRetval(), true, "refuses with ECONNREFUSED (5.18)"},
      {"sk_storage", libbpf_probe_bpf_map_type(BPF_MAP_TYPE_SK_STORAGE, nullptr) == 1, true,
       "remembers a socket's origin (5.2)"},
      {"netns_cookie", HasSocketOption(AF_INET, kSoNetnsCookie, 8), true,
       "tells namespaces apart (5.14)"},
      {"pidfd_getfd", copy.valid(), true,
       "takes the proxy's listeners (5.6; needs CAP_SYS_PTRACE for other processes)"},
      {"peer_pidfd", HasSocketOption(AF_UNIX, kSoPeerPidFd, 4), false,
       "finds the proxy across pid namespaces (6.5); without it the agent needs hostPID"},
      {"tcx", HasTcx(), false, "second guard on the pod's devices (6.6); without it there is none"},
  };
}

Status CheckRequired(const std::vector<Feature>& features) {
  std::string missing;
  for (const Feature& feature : features)
    if (feature.required && !feature.present)
      missing += (missing.empty() ? "" : "; ") + feature.name + ": " + feature.why;
  if (missing.empty()) return {};
  return Fail(Code::kUnimplemented,
              "this kernel lacks " + missing +
                  " (6.1 is the oldest that is supported; also check that the "
                  "agent has CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN)");
}

}  // namespace qanat::bpf
