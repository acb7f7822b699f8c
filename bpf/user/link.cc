// SPDX-License-Identifier: Apache-2.0
#include "bpf/user/link.h"

#include <bpf/bpf.h>
#include <unistd.h>

#include <cerrno>

namespace qanat::bpf {
namespace {

// linux/bpf.h of kernel 6.6; Debian 12's headers are older than tcx.
constexpr int kBpfTcxIngress = 46;
constexpr int kBpfTcxEgress = 47;
constexpr uint32_t kLinkTypeTcx = 11;

}  // namespace

int KernelAttachType(AttachType type) {
  switch (type) {
    case AttachType::kConnect4: return BPF_CGROUP_INET4_CONNECT;
    case AttachType::kConnect6: return BPF_CGROUP_INET6_CONNECT;
    case AttachType::kBind4: return BPF_CGROUP_INET4_BIND;
    case AttachType::kBind6: return BPF_CGROUP_INET6_BIND;
    case AttachType::kSendMsg4: return BPF_CGROUP_UDP4_SENDMSG;
    case AttachType::kSendMsg6: return BPF_CGROUP_UDP6_SENDMSG;
    case AttachType::kRecvMsg4: return BPF_CGROUP_UDP4_RECVMSG;
    case AttachType::kRecvMsg6: return BPF_CGROUP_UDP6_RECVMSG;
    case AttachType::kGetPeerName4: return BPF_CGROUP_INET4_GETPEERNAME;
    case AttachType::kGetPeerName6: return BPF_CGROUP_INET6_GETPEERNAME;
    case AttachType::kSockOps: return BPF_CGROUP_SOCK_OPS;
    case AttachType::kSkLookup: return BPF_SK_LOOKUP;
    case AttachType::kTcxIngress: return kBpfTcxIngress;
    case AttachType::kTcxEgress: return kBpfTcxEgress;
  }
  return BPF_SK_LOOKUP;
}

Result<Link> Link::Attach(int program_fd, AttachType type, int target) {
  Fd fd(bpf_link_create(program_fd, target, static_cast<bpf_attach_type>(KernelAttachType(type)),
                        nullptr));
  if (!fd) return FailErrno("attach program");
  return Link(std::move(fd));
}

Result<Link> Link::OpenPinned(const std::string& path) {
  Fd fd(bpf_obj_get(path.c_str()));
  if (!fd) return FailErrno("open pinned link " + path);
  return Link(std::move(fd));
}

Status Link::Pin(const std::string& path) const {
  if (bpf_obj_pin(fd_.get(), path.c_str()) == 0) return {};
  if (errno == EROFS)
    return FailErrno("pin link " + path + " (mount -o remount,rw the bpffs)", EROFS);
  if (errno != EEXIST) return FailErrno("pin link " + path);
  ::unlink(path.c_str());
  if (bpf_obj_pin(fd_.get(), path.c_str()) != 0) return FailErrno("pin link " + path);
  return {};
}

Status Link::Replace(int program_fd) {
  if (bpf_link_update(fd_.get(), program_fd, nullptr) != 0) return FailErrno("update link");
  return {};
}

Status Link::Detach() const {
  // ENOLINK: what it was attached to is gone.
  if (bpf_link_detach(fd_.get()) != 0 && errno != ENOLINK) return FailErrno("detach link");
  return {};
}

Result<LinkInfo> Link::Info() const {
  bpf_link_info info{};
  uint32_t length = sizeof info;
  if (bpf_obj_get_info_by_fd(fd_.get(), &info, &length) != 0) return FailErrno("link info");
  LinkInfo out;
  out.program_id = info.prog_id;
  switch (info.type) {
    case BPF_LINK_TYPE_CGROUP: out.attached = info.cgroup.cgroup_id != 0; break;
    case BPF_LINK_TYPE_NETNS: out.attached = info.netns.netns_ino != 0; break;
    default:
      // tcx: the interface index comes first in its part of the union, as netns_ino does.
      out.attached = static_cast<uint32_t>(info.type) == kLinkTypeTcx && info.netns.netns_ino != 0;
      break;
  }
  return out;
}

}  // namespace qanat::bpf
