// SPDX-License-Identifier: Apache-2.0
#include "bpf/user/features.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "common/base/fd.h"

namespace qanat::bpf {
namespace {

constexpr int kSoNetnsCookie = 71;  // asm-generic/socket.h since 5.14
constexpr int kSoPeerPidFd = 77;    // since 6.5

// What a trial says: it worked, or with which error it did not.
struct Trial {
  bool works = false;
  int error = 0;
  // A seccomp profile or a missing capability; a kernel that lacks a thing says EINVAL instead.
  bool forbidden() const { return !works && (error == EPERM || error == EACCES); }
};

Trial Opened(int fd_or_error) {
  if (fd_or_error < 0) return {false, errno};
  Fd closed(fd_or_error);
  return {true, 0};
}

Fd Load(bpf_prog_type type, bpf_attach_type attach, const bpf_insn* program, size_t size) {
  LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = attach);
  return Fd(bpf_prog_load(type, "qanat_probe", "GPL", program, size, &options));
}

constexpr bpf_insn kReturnOne[] = {
    {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 1},
    {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
};

Trial TryBpf() {
  return Opened(bpf_map_create(BPF_MAP_TYPE_ARRAY, "qanat_probe", 4, 4, 1, nullptr));
}

Trial TrySkLookup() {
  Fd fd = Load(BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP, kReturnOne, 2);
  return {fd.valid(), errno};
}

// A link to a control group that cannot be: a kernel with links says so, another says EINVAL.
Trial TryLinks() {
  Fd fd = Load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, kReturnOne, 2);
  if (!fd) return {false, errno};
  Fd link(bpf_link_create(fd.get(), -1, BPF_CGROUP_INET4_CONNECT, nullptr));
  return {errno == EBADF, errno};
}

// bpf_set_retval as cgroup/connect4 uses it: the helper exists for other types in older kernels.
Trial TrySetRetval() {
  const bpf_insn program[] = {
      {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_1, 0, 0, -111},
      {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_set_retval},
      {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0},
      {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
  };
  Fd fd = Load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, program,
               sizeof program / sizeof program[0]);
  return {fd.valid(), errno};
}

Trial TrySocketOption(int family, int option, size_t size) {
  Fd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  char value[16] = {};
  socklen_t length = static_cast<socklen_t>(size);
  if (::getsockopt(fd.get(), SOL_SOCKET, option, value, &length) == 0) return {true, 0};
  return {errno != ENOPROTOOPT, errno};
}

// tcx came with BPF_LINK_TYPE_TCX; a link to an impossible interface says which of the two it is.
Trial TryTcx() {
  const bpf_insn program[] = {
      {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, -1},
      {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
  };
  Fd fd = Load(BPF_PROG_TYPE_SCHED_CLS, {}, program, 2);
  if (!fd) return {false, errno};
  Fd link(bpf_link_create(fd.get(), 0x7ffffff0, static_cast<bpf_attach_type>(47), nullptr));
  return {!link && errno == ENODEV, errno};
}

Trial TryPidfdGetfd() {
  Fd self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!self) return {false, errno};
  return Opened(static_cast<int>(::syscall(SYS_pidfd_getfd, self.get(), self.get(), 0)));
}

Trial TryMap(bpf_map_type type) {
  errno = 0;
  const bool works = libbpf_probe_bpf_map_type(type, nullptr) == 1;
  return {works, errno};
}

Feature Of(std::string name, Trial trial, bool required, std::string why) {
  return {std::move(name), trial.works, required, std::move(why), trial.forbidden()};
}

}  // namespace

std::vector<Feature> ProbeFeatures() {
  return {
      Of("bpf", TryBpf(), true, "is what capture is made of (CONFIG_BPF_SYSCALL)"),
      Of("bpf_link", TryLinks(), true,
         "keeps programs attached while the agent is away (5.7; CONFIG_CGROUP_BPF)"),
      Of("sk_lookup", TrySkLookup(), true,
         "chooses the proxy's listener (5.9; its ingress_ifindex 5.17)"),
      Of("connect_retval", TrySetRetval(), true, "refuses with ECONNREFUSED (5.18)"),
      Of("sockmap", TryMap(BPF_MAP_TYPE_SOCKMAP), true,
         "holds the proxy's listeners (5.8 for listeners; CONFIG_BPF_STREAM_PARSER)"),
      Of("sk_storage", TryMap(BPF_MAP_TYPE_SK_STORAGE), true,
         "remembers a socket's origin (5.2; CONFIG_DEBUG_INFO_BTF)"),
      Of("netns_cookie", TrySocketOption(AF_INET, kSoNetnsCookie, 8), true,
         "tells namespaces apart (5.14)"),
      Of("pidfd_getfd", TryPidfdGetfd(), true,
         "takes the proxy's listeners (5.6; needs CAP_SYS_PTRACE for other processes)"),
      Of("peer_pidfd", TrySocketOption(AF_UNIX, kSoPeerPidFd, 4), false,
         "finds the proxy across pid namespaces (6.5); without it the agent needs hostPID"),
      Of("tcx", TryTcx(), false,
         "second guard on the pod's devices (6.6); without it there is none"),
  };
}

std::string KernelRelease() {
  utsname name{};
  return ::uname(&name) == 0 ? name.release : "?";
}

Status CheckRequired(const std::vector<Feature>& features, std::string_view kernel) {
  std::string missing, forbidden;
  for (const Feature& feature : features) {
    if (!feature.required || feature.present) continue;
    std::string& list = feature.forbidden ? forbidden : missing;
    list += (list.empty() ? "" : "; ") + feature.name + ", which " + feature.why;
  }
  if (missing.empty() && forbidden.empty()) return {};
  std::string text;
  if (!missing.empty())
    text = "this node's kernel (" + std::string(kernel) + ") lacks " + missing +
           ": run 6.1 or newer on the node, built with these options, or keep the agent off it "
           "(nodeSelector), and see that no seccomp profile hides them";
  if (!forbidden.empty())
    text +=
        (text.empty() ? "" : "; also, ") + std::string("the agent may not use ") + forbidden +
        ": give it the capabilities SYS_ADMIN (or BPF), NET_ADMIN and SYS_PTRACE and a seccomp "
        "profile that allows bpf(), and see that the kernel's lockdown is not \"confidentiality\"";
  return Fail(missing.empty() ? Code::kPermissionDenied : Code::kUnimplemented, std::move(text));
}

}  // namespace qanat::bpf
