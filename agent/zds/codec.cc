// SPDX-License-Identifier: Apache-2.0
#include "agent/zds/codec.h"

#include <fmt/format.h>

#include "common/proto/zds.pb.h"

namespace qanat::agent::zds {
namespace {

namespace pb = istio::workload::zds;

Result<std::string> Bounded(const pb::WorkloadRequest& request) {
  std::string bytes;
  if (!request.SerializeToString(&bytes))  // proto3 strings must be UTF-8
    return Fail(Code::kInvalidArgument, "ZDS message cannot be encoded: a name is not UTF-8");
  if (bytes.size() > kMaxMessage)
    return Fail(Code::kInvalidArgument,
                fmt::format("ZDS message of {} bytes; proxies read at most {}", bytes.size(), kMaxMessage));
  return bytes;
}

}  // namespace

Result<std::string> EncodeAdd(const Workload& workload) {
  pb::WorkloadRequest request;
  pb::AddWorkload* add = request.mutable_add();
  add->set_uid(workload.uid);
  add->mutable_workload_info()->set_name(workload.name);
  add->mutable_workload_info()->set_namespace_(workload.ns);
  add->mutable_workload_info()->set_service_account(workload.service_account);
  return Bounded(request);
}

Result<std::string> EncodeKeep(const std::string& uid) {
  pb::WorkloadRequest request;
  request.mutable_keep()->set_uid(uid);
  return Bounded(request);
}

Result<std::string> EncodeDel(const std::string& uid) {
  pb::WorkloadRequest request;
  request.mutable_del()->set_uid(uid);
  return Bounded(request);
}

std::string EncodeSnapshotSent() {
  pb::WorkloadRequest request;
  request.mutable_snapshot_sent();
  return request.SerializeAsString();
}

Result<Hello> DecodeHello(std::span<const uint8_t> bytes) {
  pb::ZdsHello hello;
  if (bytes.size() > kMaxMessage || !hello.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return Fail(Code::kInvalidArgument, "not a ZdsHello");
  if (hello.version() == pb::NOT_USED)  // an Ack parses as a ZdsHello of unknown fields
    return Fail(Code::kInvalidArgument, "ZdsHello without a version");
  return Hello{static_cast<int>(hello.version())};
}

Result<Ack> DecodeAck(std::span<const uint8_t> bytes) {
  pb::WorkloadResponse response;
  if (bytes.size() > kMaxMessage ||
      !response.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return Fail(Code::kInvalidArgument, "not a WorkloadResponse");
  if (response.payload_case() != pb::WorkloadResponse::kAck)
    return Fail(Code::kInvalidArgument, "WorkloadResponse without an ack");
  return Ack{response.ack().error()};
}

}  // namespace qanat::agent::zds
