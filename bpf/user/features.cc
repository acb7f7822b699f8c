// SPDX-License-Identifier: Apache-2.0
#include "bpf/user/features.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "common/base/fd.h"

namespace qanat::bpf {
namespace {

constexpr int kSoNetnsCookie = 71;  // asm-generic/socket.h since 5.14
constexpr int kSoPeerPidFd = 77;    // since 6.5
constexpr int kLoopback = 1;        // its interface index in every namespace

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

// In a network namespace of its own, which goes with its thread.
Trial InFreshNamespace(const std::function<Trial()>& trial) {
  Trial result;
  std::thread([&] {
    result = ::unshare(CLONE_NEWNET) == 0 ? trial() : Trial{false, errno};
  }).join();
  return result;
}

// The filter that stands in for tcx; the kernel loads the modules that it needs for that.
Trial TryClsact() {
  Fd program = Load(BPF_PROG_TYPE_SCHED_CLS, {}, kReturnOne, 2);
  if (!program) return {false, errno};
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = kLoopback, .attach_point = BPF_TC_EGRESS);
  LIBBPF_OPTS(bpf_tc_opts, filter, .prog_fd = program.get());
  int error = bpf_tc_hook_create(&hook);
  if (error == 0) error = bpf_tc_attach(&hook, &filter);
  return {error == 0, -error};
}

// Asks to end a connection that is not there: a kernel that could says so, another that it cannot.
Trial TryDiagDestroy() {
  struct {
    nlmsghdr header;
    inet_diag_req_v2 request;
  } ask{};
  ask.header = {sizeof ask, SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, 1, 0};
  ask.request.sdiag_family = AF_INET;
  ask.request.sdiag_protocol = IPPROTO_TCP;
  ask.request.idiag_states = ~0u;
  ask.request.id.idiag_dport = htons(1);
  ask.request.id.idiag_sport = htons(1);
  ask.request.id.idiag_cookie[0] = 1;
  Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!fd || ::send(fd.get(), &ask, sizeof ask, 0) < 0) return {false, errno};
  struct {
    nlmsghdr header;
    nlmsgerr said;
    char rest[256];
  } answer{};
  if (::recv(fd.get(), &answer, sizeof answer, 0) < 0) return {false, errno};
  if (answer.header.nlmsg_type != NLMSG_ERROR) return {false, EPROTO};
  return {answer.said.error == -ENOENT, -answer.said.error};
}

struct FreeBtf {
  void operator()(btf* types) const { btf__free(types); }
};
using Btf = std::unique_ptr<btf, FreeBtf>;

// Storage needs its value described.
Fd SocketStorage() {
  Btf types(btf__new_empty());
  const int number = types ? btf__add_int(types.get(), "int", 4, BTF_INT_SIGNED) : -ENOMEM;
  if (number < 0 || btf__load_into_kernel(types.get()) != 0) return Fd();
  LIBBPF_OPTS(bpf_map_create_opts, options, .btf_fd = static_cast<__u32>(btf__fd(types.get())),
              .btf_key_type_id = static_cast<__u32>(number),
              .btf_value_type_id = static_cast<__u32>(number), .map_flags = BPF_F_NO_PREALLOC);
  return Fd(bpf_map_create(BPF_MAP_TYPE_SK_STORAGE, "qanat_probe", 4, 4, 0, &options));
}

// A program that walks TCP sockets and reads what is kept with each.
Trial TryIterator() {
  const int target = libbpf_find_vmlinux_btf_id("tcp", BPF_TRACE_ITER);
  if (target < 0) return {false, -target};
  Fd storage = SocketStorage();
  if (!storage) return {false, errno};
  const bpf_insn program[] = {
      {BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_2, BPF_REG_1, 8, 0},  // the socket, after `meta`
      {BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_2, 0, 5, 0},
      {BPF_LD | BPF_IMM | BPF_DW, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, storage.get()},
      {0, 0, 0, 0, 0},
      {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_3, 0, 0, 0},
      {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_4, 0, 0, 0},
      {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_sk_storage_get},
      {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0},
      {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
  };
  LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_TRACE_ITER,
              .attach_btf_id = static_cast<__u32>(target));
  Fd fd(bpf_prog_load(BPF_PROG_TYPE_TRACING, "qanat_probe", "GPL", program, std::size(program),
                      &options));
  return {fd.valid(), errno};
}

// The kernel's own description of its types.
struct KernelTypes {
  Btf types{btf__load_vmlinux_btf()};

  Trial Present() const { return {types != nullptr, ENOENT}; }
  Trial Function(const char* name) const {
    return {types && btf__find_by_name_kind(types.get(), name, BTF_KIND_FUNC) > 0, ENOENT};
  }
  // What a closed connection's record reads of it beside what programs are given.
  Trial TcpFields() const {
    const int id = types ? btf__find_by_name_kind(types.get(), "tcp_sock", BTF_KIND_STRUCT) : -1;
    if (id <= 0) return {false, ENOENT};
    const btf_type* type = btf__type_by_id(types.get(), static_cast<__u32>(id));
    const auto has = [&](std::string_view name) {
      const btf_member* first = btf_members(type);
      return std::any_of(first, first + btf_vlen(type), [&](const btf_member& member) {
        return name == btf__name_by_offset(types.get(), member.name_off);
      });
    };
    return {has("chrono_stat") && has("reord_seen") && has("delivered"), ENOENT};
  }
};

Feature Of(std::string name, Trial trial, bool required, std::string why,
           std::string instead = "") {
  return {std::move(name), trial.works,       required,
          std::move(why),  trial.forbidden(), std::move(instead)};
}

// What is not there is what a trial is for: libbpf is not to complain about it.
class QuietLibbpf {
 public:
  QuietLibbpf() : before_(libbpf_set_print(nullptr)) {}
  ~QuietLibbpf() { libbpf_set_print(before_); }
  QuietLibbpf(const QuietLibbpf&) = delete;
  QuietLibbpf& operator=(const QuietLibbpf&) = delete;

 private:
  libbpf_print_fn_t before_;
};

}  // namespace

std::vector<Feature> ProbeFeatures() {
  QuietLibbpf quiet;
  const KernelTypes kernel;
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
         "finds the proxy across pid namespaces (6.5)",
         "the process id, which the agent can use in the node's pid namespace only (hostPID)"),
      Of("tcx", TryTcx(), false, "second guard on the pod's devices, as a link (6.6)",
         "clsact: the same guard as a filter, without a link of its own"),
      Of("clsact", InFreshNamespace(TryClsact), false,
         "carries the second guard where there is no tcx (4.5; CONFIG_NET_SCH_INGRESS, "
         "CONFIG_NET_CLS_BPF)",
         "with neither tcx nor clsact there is no second guard"),
      Of("ringbuf", TryMap(BPF_MAP_TYPE_RINGBUF), false,
         "takes records of connections to the agent (5.8)", "there are counters only"),
      Of("inet_diag_destroy", InFreshNamespace(TryDiagDestroy), false,
         "ends a connection from outside (4.9; CONFIG_INET_DIAG_DESTROY)",
         "connections go on until one of their ends closes them"),
      Of("sock_destroy", kernel.Function("bpf_sock_destroy"), false,
         "ends connections out of a walk over sockets (6.5)",
         "inet_diag_destroy: one message for each connection"),
      Of("iter_tcp", TryIterator(), false,
         "walks the TCP sockets of a pod with what is kept of each (5.11; CONFIG_DEBUG_INFO_BTF)",
         "inet_diag's list of sockets, which knows less of each"),
      Of("btf", kernel.Present(), false,
         "tells where the kernel keeps what programs are not given (CONFIG_DEBUG_INFO_BTF)",
         "programs read only what every kernel gives them"),
      Of("tcp_fields", kernel.TcpFields(), false,
         "reordering, delivery and waiting times of a connection, read from the kernel's own "
         "structures (4.19)",
         "these figures are left out"),
  };
}

bool Has(const std::vector<Feature>& features, std::string_view name) {
  return std::any_of(features.begin(), features.end(), [&](const Feature& feature) {
    return feature.name == name && feature.present;
  });
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
