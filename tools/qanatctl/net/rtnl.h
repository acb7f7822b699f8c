// SPDX-License-Identifier: Apache-2.0
// The few rtnetlink requests that the local mode needs to wire network namespaces, each one
// acknowledged by the kernel. A socket stays in the namespace in which it was opened.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/net/address.h"
#include "common/netns/netns.h"

namespace qanat::rtnl {

struct VethEnd {
  std::string name;
  int netns = -1;  // fd of the namespace that gets this end
};

struct Route {
  net::Cidr to;  // length 0: the default route
  net::IpAddress via;
  std::string device;
  net::IpAddress source;  // preferred source, optional
  bool on_link = false;   // `via` is reachable on `device` although no route says so
};

class Socket {
 public:
  static Result<Socket> Open(const netns::NetNs& netns);

  Result<int> IndexOf(const std::string& device);
  Status AddVeth(const VethEnd& a, const VethEnd& b, uint32_t mtu);
  Status AddBridge(const std::string& name, uint32_t mtu);
  Status SetMaster(const std::string& device, const std::string& bridge);
  Status SetUp(const std::string& device);
  // Without duplicate address detection: the address is usable at once.
  Status AddAddress(const std::string& device, const net::IpAddress& ip, unsigned length);
  Status AddRoute(const Route& route);
  Status DeleteLink(const std::string& device);  // a missing one is fine

 private:
  explicit Socket(Fd fd) : fd_(std::move(fd)) {}
  Status Talk(void* message);
  Fd fd_;
  uint32_t sequence_ = 1;
};

}  // namespace qanat::rtnl
