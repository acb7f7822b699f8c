// SPDX-License-Identifier: Apache-2.0
// ZDS messages as values, and the bytes of them. Pure: no sockets. (Wire: common/proto/zds.proto.)
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "common/base/result.h"

namespace qanat::ztunnel::zds {

// A pod uid and its names are Kubernetes ones: anything longer is not a message of an agent.
inline constexpr size_t kMaxMessage = 1024;  // stock: both sides read into 1024 bytes

struct Add {
  std::string uid, name, ns, service_account;
};
struct Keep {
  std::string uid;
};
struct Del {
  std::string uid;
};
struct SnapshotSent {};
using Request = std::variant<Add, Keep, Del, SnapshotSent>;

Result<Request> DecodeRequest(std::string_view bytes);
std::string EncodeHello();
std::string EncodeAck(std::string_view error);  // "" is a plain acknowledgement

}  // namespace qanat::ztunnel::zds
