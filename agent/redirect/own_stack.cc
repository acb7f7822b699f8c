// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/own_stack.h"

#include <fcntl.h>
#include <unistd.h>

#include <sstream>

#include "common/base/fd.h"

namespace qanat::agent {
namespace {

constexpr size_t kMaxTable = 64 << 10;

// Not /proc/net: that is the namespace of the process's first thread.
Result<std::string> ReadPacketTable() {
  const char* path = "/proc/thread-self/net/packet";
  Fd fd(::open(path, O_RDONLY | O_CLOEXEC));
  if (!fd) return FailErrno(std::string("read ") + path);
  std::string text;
  char buffer[4096];
  while (text.size() < kMaxTable) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0) return FailErrno(std::string("read ") + path);
    if (n == 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

}  // namespace

std::string PacketSocketIn(std::string_view table, const std::vector<rtnl::Interface>& interfaces) {
  std::istringstream lines{std::string(table)};
  std::string line;
  std::getline(lines, line);  // the head
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    std::string socket, references, type, protocol;  // of any protocol: each sends what it likes
    uint32_t device = 0;
    if (!(fields >> socket >> references >> type >> protocol >> device)) continue;
    for (const auto& i : interfaces)
      if (i.ifindex == device && !i.loopback) return "a packet socket on " + i.name;
    if (device == 0) return "a packet socket on every interface";
  }
  return "";
}

Result<std::string> SignOfOwnStack(const std::vector<rtnl::Interface>& interfaces) {
  for (const auto& i : interfaces)
    if (i.kind == "tun" || i.kind == "macvtap" || i.kind == "ipvtap")
      return "the tap device " + i.name;
  QANAT_ASSIGN_OR_RETURN(const std::string table, ReadPacketTable());
  return PacketSocketIn(table, interfaces);
}

}  // namespace qanat::agent
