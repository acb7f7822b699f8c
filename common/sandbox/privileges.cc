// SPDX-License-Identifier: Apache-2.0
#include "common/sandbox/privileges.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace qanat::sandbox {
namespace {

Status Write(const CapabilitySets& capabilities) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  for (int i = 0; i < 2; ++i) {
    data[i].effective = static_cast<uint32_t>(capabilities.effective >> (32 * i));
    data[i].permitted = static_cast<uint32_t>(capabilities.permitted >> (32 * i));
    data[i].inheritable = static_cast<uint32_t>(capabilities.inheritable >> (32 * i));
  }
  if (syscall(SYS_capset, &header, data) != 0) return FailErrno("drop capabilities");
  return {};
}

uint64_t MaskOf(std::span<const Capability> kept) {
  uint64_t mask = 0;
  for (const Capability& capability : kept) mask |= uint64_t{1} << capability.number;
  return mask;
}

}  // namespace

Result<CapabilitySets> ReadCapabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (syscall(SYS_capget, &header, data) != 0) return FailErrno("read the capabilities");
  return CapabilitySets{data[0].effective | static_cast<uint64_t>(data[1].effective) << 32,
                        data[0].permitted | static_cast<uint64_t>(data[1].permitted) << 32,
                        data[0].inheritable | static_cast<uint64_t>(data[1].inheritable) << 32};
}

void BoundCapabilities(std::span<const Capability> kept) {
  const uint64_t mask = MaskOf(kept);
  for (int number = 0; prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0; ++number) {
    if (!Has(mask, number)) prctl(PR_CAPBSET_DROP, number, 0, 0, 0);
  }
}

Status KeepCapabilities(std::span<const Capability> kept) {
  // After a change of user the effective ones are gone, the permitted ones are not.
  QANAT_ASSIGN_OR_RETURN(CapabilitySets capabilities, ReadCapabilities());
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  capabilities.permitted &= MaskOf(kept);
  capabilities.effective = capabilities.permitted;
  capabilities.inheritable = 0;
  return Write(capabilities);
}

std::string Describe(std::span<const Capability> kept) {
  std::string out =
      "user " + std::to_string(geteuid()) + ":" + std::to_string(getegid()) + ", capabilities";
  const auto capabilities = ReadCapabilities();
  const uint64_t has = capabilities ? capabilities->permitted : 0;
  for (const Capability& capability : kept) {
    if (Has(has, capability.number)) out.append(" ").append(capability.name);
  }
  if (has == 0) out += " none";
  return out;
}

Status SealProcess() {
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  // Not before the user has changed: that sets it anew.
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return FailErrno("forbid dumps of the process");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return FailErrno("forbid new privileges");
  return {};
}

}  // namespace qanat::sandbox
