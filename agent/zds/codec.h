// SPDX-License-Identifier: Apache-2.0
// ZDS datagrams (common/proto/zds.proto). Pure; bytes from the proxy are not trusted.
#pragma once

#include <span>
#include <string>

#include "common/base/result.h"

namespace qanat::agent::zds {

// Stock peers read into 1024-byte buffers and treat a longer message as a broken stream.
inline constexpr size_t kMaxMessage = 1024;

struct Workload {
  std::string uid;
  std::string name;
  std::string ns;
  std::string service_account;
};

// Each fails when the message would exceed kMaxMessage.
Result<std::string> EncodeAdd(const Workload& workload);
Result<std::string> EncodeKeep(const std::string& uid);
Result<std::string> EncodeDel(const std::string& uid);
std::string EncodeSnapshotSent();

struct Hello {
  int version = 0;
};
Result<Hello> DecodeHello(std::span<const uint8_t> bytes);
struct Ack {
  std::string error;  // empty: done
};
Result<Ack> DecodeAck(std::span<const uint8_t> bytes);

}  // namespace qanat::agent::zds
