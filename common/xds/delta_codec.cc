// SPDX-License-Identifier: Apache-2.0
#include "common/xds/delta_codec.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>

#include "common/xds/wire_format.h"

namespace qanat::xds {
namespace {

Result<std::string> EncodeNode(const Node& node) {
  google::protobuf::Struct metadata;
  for (const auto& [name, value] : node.metadata) {
    (*metadata.mutable_fields())[name].set_string_value(value);
  }
  for (const auto& [name, json] : node.metadata_json) {
    google::protobuf::Value value;
    if (!google::protobuf::util::JsonStringToMessage(json, &value).ok()) {
      return Fail(Code::kInvalidArgument, "node metadata " + name + " is not JSON: " + json);
    }
    (*metadata.mutable_fields())[name] = std::move(value);
  }
  ProtoWriter w;
  w.String(1, node.id);
  w.String(2, node.cluster);
  w.Bytes(3, metadata.SerializeAsString());
  w.String(5, node.build_version);
  return w.Take();
}

}  // namespace

Result<std::string> EncodeDeltaRequest(const DeltaRequest& request) {
  ProtoWriter w;
  if (request.node != nullptr) {
    QANAT_ASSIGN_OR_RETURN(const std::string node, EncodeNode(*request.node));
    w.Bytes(1, node);
  }
  w.String(2, request.type_url);
  for (const auto& name : request.subscribe) w.Bytes(3, name);
  for (const auto& name : request.unsubscribe) w.Bytes(4, name);
  if (request.initial_versions != nullptr) {
    request.initial_versions->ForEach([&w](std::string_view name, std::string_view version) {
      ProtoWriter entry;
      entry.String(1, name);
      entry.String(2, version);
      w.Bytes(5, entry.Take());
    });
  }
  w.String(6, request.nonce);
  if (request.error) {
    ProtoWriter status;  // google.rpc.Status; stock ztunnel leaves the code 0
    status.String(2, *request.error);
    w.Bytes(7, status.Take());
  }
  return w.Take();
}

void DeltaResponseParser::Begin() {
  state_ = State::kTag;
  varint_ = 0;
  shift_ = 0;
  partial_.clear();
  type_url_.clear();
  nonce_.clear();
  system_version_.clear();
  error_.clear();
}

bool DeltaResponseParser::Bad(std::string_view why) {
  state_ = State::kBad;
  error_ = why;
  return false;
}

bool DeltaResponseParser::Varint(std::string_view& piece, bool& complete) {
  complete = false;
  while (!piece.empty()) {
    const auto byte = static_cast<uint8_t>(piece.front());
    piece.remove_prefix(1);
    if (shift_ >= 64) return Bad("a number of more than ten bytes");
    varint_ |= static_cast<uint64_t>(byte & 0x7f) << shift_;
    shift_ += 7;
    if (byte < 0x80) {
      complete = true;
      shift_ = 0;
      return true;
    }
  }
  return true;
}

bool DeltaResponseParser::Wanted() const {
  return field_ == 1 || field_ == 2 || field_ == 4 || field_ == 5 || field_ == 6;
}

bool DeltaResponseParser::Tag() {
  if (varint_ >> 32 != 0 || varint_ >> 3 == 0) return Bad("a field number out of range");
  field_ = static_cast<uint32_t>(varint_ >> 3);
  switch (varint_ & 7) {
    case 0: state_ = State::kVarint; break;
    case 1:
      state_ = State::kFixed;
      left_ = 8;
      break;
    case 2: state_ = State::kLength; break;
    case 5:
      state_ = State::kFixed;
      left_ = 4;
      break;
    default: return Bad("an unknown wire type");
  }
  varint_ = 0;
  return true;
}

bool DeltaResponseParser::Feed(std::string_view piece) {
  bool complete = false;
  while (!piece.empty()) {
    switch (state_) {
      case State::kBad: return false;
      case State::kTag:
        if (!Varint(piece, complete)) return false;
        if (complete && !Tag()) return false;
        break;
      case State::kVarint:  // no varint field is of use to us
        if (!Varint(piece, complete)) return false;
        if (complete) {
          state_ = State::kTag;
          varint_ = 0;
        }
        break;
      case State::kLength:
        if (!Varint(piece, complete)) return false;
        if (!complete) break;
        left_ = static_cast<size_t>(varint_);
        varint_ = 0;
        if (left_ > 1u << 31) return Bad("a field longer than any message");
        state_ = State::kPayload;
        if (left_ == 0 && !Payload({})) return false;
        break;
      case State::kFixed:
      case State::kPayload: {
        const size_t n = std::min(left_, piece.size());
        const std::string_view part = piece.substr(0, n);
        piece.remove_prefix(n);
        left_ -= n;
        const bool wanted = state_ == State::kPayload && Wanted();
        if (left_ > 0) {
          if (wanted) partial_.append(part);
          break;
        }
        if (!wanted) {
          state_ = State::kTag;
        } else if (partial_.empty()) {
          if (!Payload(part)) return false;
        } else {
          partial_.append(part);
          const std::string whole = std::exchange(partial_, {});
          if (!Payload(whole)) return false;
        }
        break;
      }
    }
  }
  return true;
}

bool DeltaResponseParser::Payload(std::string_view bytes) {
  state_ = State::kTag;
  switch (field_) {
    case 1: system_version_ = bytes; return true;
    case 4: type_url_ = bytes; return true;
    case 5: nonce_ = bytes; return true;
    case 6: sink_.OnRemoved(bytes); return true;
    case 2: break;
    default: return true;
  }
  ResourceView resource;
  ProtoReader r(bytes);
  while (r.Next()) {
    if (!r.is_bytes()) continue;
    if (r.field() == 1) resource.version = r.value();
    if (r.field() == 3) resource.name = r.value();
    if (r.field() == 2) {
      resource.has_resource = true;
      resource.type_url = resource.value = {};
      ProtoReader any(r.value());
      while (any.Next()) {
        if (any.is_bytes() && any.field() == 1) resource.type_url = any.value();
        if (any.is_bytes() && any.field() == 2) resource.value = any.value();
      }
      if (!any.ok()) return Bad("a resource's Any is malformed");
    }
  }
  if (!r.ok()) return Bad("a resource is malformed");
  sink_.OnResource(resource);
  return true;
}

bool DeltaResponseParser::Finish() {
  if (state_ == State::kBad) return false;
  if (state_ != State::kTag || shift_ != 0) return Bad("the message ends in the middle of a field");
  return true;
}

}  // namespace qanat::xds
