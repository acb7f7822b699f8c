// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/zds/message.h"

#include "common/proto/zds.pb.h"

namespace qanat::ztunnel::zds {

namespace wire = istio::workload::zds;

Result<Request> DecodeRequest(std::string_view bytes) {
  wire::WorkloadRequest request;
  if (bytes.size() > kMaxMessage ||
      !request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Fail(Code::kInvalidArgument, "not a WorkloadRequest");
  }
  const auto no_uid = [] { return Fail(Code::kInvalidArgument, "a message without a uid"); };
  switch (request.payload_case()) {
    case wire::WorkloadRequest::kAdd: {
      const auto& add = request.add();
      if (add.uid().empty()) return no_uid();
      if (!add.has_workload_info()) {
        return Fail(Code::kInvalidArgument, "AddWorkload without workload_info");
      }
      const auto& info = add.workload_info();
      if (info.name().empty() || info.namespace_().empty()) {
        return Fail(Code::kInvalidArgument, "AddWorkload without name or namespace");
      }
      return Add{add.uid(), info.name(), info.namespace_(),
                 info.service_account().empty() ? "default" : info.service_account()};
    }
    case wire::WorkloadRequest::kKeep:
      if (request.keep().uid().empty()) return no_uid();
      return Keep{request.keep().uid()};
    case wire::WorkloadRequest::kDel:
      if (request.del().uid().empty()) return no_uid();
      return Del{request.del().uid()};
    case wire::WorkloadRequest::kSnapshotSent: return SnapshotSent{};
    case wire::WorkloadRequest::PAYLOAD_NOT_SET: break;
  }
  return Fail(Code::kInvalidArgument, "a WorkloadRequest of an unknown kind");
}

std::string EncodeHello() {
  wire::ZdsHello hello;
  hello.set_version(wire::V1);
  return hello.SerializeAsString();
}

std::string EncodeAck(std::string_view error) {
  wire::WorkloadResponse response;
  response.mutable_ack()->set_error(std::string(error.substr(0, kMaxMessage - 64)));
  return response.SerializeAsString();
}

}  // namespace qanat::ztunnel::zds
