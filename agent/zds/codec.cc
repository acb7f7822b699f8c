// SPDX-License-Identifier: Apache-2.0
#include "agent/zds/codec.h"

#include <fmt/format.h>

#include "common/proto/zds.pb.h"

namespace qanat::agent::zds {
namespace {

namespace pb = istio::workload::zds;

Result<std::string> Bounded(const pb::WorkloadRequest& request) {
  std::string bytes = request.SerializeAsString();
  if (bytes.size() > kMaxMessage)
    return Fail(
        Code::kInvalidArgument,
        fmt::format("ZDS message of {} bytes; proxies read at most {}", bytes.size(), kMaxMessage));
  return bytes;
}

// Kubernetes names are ASCII. A proxy drops its connection over a string that is not UTF-8 (which
// our protobuf would send), and would do so again after each reconnect.
Status CheckName(std::string_view what, std::string_view name) {
  for (const char c : name)
    if (c < 0x21 || c > 0x7e)
      return Fail(Code::kInvalidArgument,
                  fmt::format("the {} has characters that no {} has", what, what));
  return {};
}

}  // namespace

Result<std::string> EncodeAdd(const Workload& workload) {
  QANAT_RETURN_IF_ERROR(CheckName("uid", workload.uid));
  QANAT_RETURN_IF_ERROR(CheckName("pod name", workload.name));
  QANAT_RETURN_IF_ERROR(CheckName("namespace", workload.ns));
  QANAT_RETURN_IF_ERROR(CheckName("service account", workload.service_account));
  pb::WorkloadRequest request;
  pb::AddWorkload* add = request.mutable_add();
  add->set_uid(workload.uid);
  add->mutable_workload_info()->set_name(workload.name);
  add->mutable_workload_info()->set_namespace_(workload.ns);
  add->mutable_workload_info()->set_service_account(workload.service_account);
  return Bounded(request);
}

Result<std::string> EncodeKeep(const std::string& uid) {
  QANAT_RETURN_IF_ERROR(CheckName("uid", uid));
  pb::WorkloadRequest request;
  request.mutable_keep()->set_uid(uid);
  return Bounded(request);
}

Result<std::string> EncodeDel(const std::string& uid) {
  QANAT_RETURN_IF_ERROR(CheckName("uid", uid));
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
  if (bytes.size() > kMaxMessage ||
      !hello.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
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
