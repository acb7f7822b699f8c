// SPDX-License-Identifier: Apache-2.0
// A BPF link: one program attached to one place. The kernel object lives as long as an fd or a pin
// does, so a pinned link goes on working while the agent is away.
#pragma once

#include <string>

#include "common/base/fd.h"
#include "common/base/result.h"

namespace qanat::bpf {

enum class AttachType {
  kConnect4,
  kConnect6,
  kBind4,
  kBind6,
  kSendMsg4,
  kSendMsg6,
  kRecvMsg4,
  kRecvMsg6,
  kGetPeerName4,
  kGetPeerName6,
  kSockOps,     // target: an fd of a cgroup directory
  kSkLookup,    // target: an fd of a network namespace
  kTcxIngress,  // target: an interface index
  kTcxEgress,
};

int KernelAttachType(AttachType type);  // as enum bpf_attach_type

struct LinkInfo {
  uint32_t program_id = 0;
  // False when what it was attached to is gone (a destroyed namespace, interface or cgroup).
  bool attached = false;
};

class Link {
 public:
  Link() = default;
  // For the two of tcx the calling thread must be in the interface's network namespace.
  static Result<Link> Attach(int program_fd, AttachType type, int target);
  static Result<Link> OpenPinned(const std::string& path);

  Status Pin(const std::string& path) const;  // replaces an older pin of that name
  // The new program takes over between two packets; nothing is ever unattached.
  Status Replace(int program_fd);
  Status Detach() const;  // at once, whoever else holds it
  Result<LinkInfo> Info() const;
  bool valid() const { return fd_.valid(); }
  int fd() const { return fd_.get(); }

 private:
  explicit Link(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace qanat::bpf
