// SPDX-License-Identifier: Apache-2.0
// Wire codec of the delta xDS messages, for the fields that a client uses (numbers: Envoy's
// service/discovery/v3/discovery.proto and config/core/v3/base.proto). Pure; the response is
// decoded while it arrives, one resource in memory at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/xds/held_versions.h"
#include "common/xds/node.h"

namespace qanat::xds {

struct DeltaRequest {
  std::string type_url;
  const Node* node = nullptr;  // only in the first request of a type
  std::vector<std::string> subscribe;
  std::vector<std::string> unsubscribe;
  const HeldVersions* initial_versions = nullptr;
  std::string nonce;
  std::optional<std::string> error;  // NACK: error_detail.message
};
// Fails when a metadata_json value is not JSON.
Result<std::string> EncodeDeltaRequest(const DeltaRequest& request);

struct ResourceView {
  std::string_view name;
  std::string_view version;
  std::string_view type_url;  // of the Any
  std::string_view value;
  bool has_resource = false;  // false: only names and versions (a TTL heartbeat)
};

class DeltaResponseParser {
 public:
  class Sink {
   public:
    virtual void OnResource(const ResourceView& resource) = 0;  // views last for the call
    virtual void OnRemoved(std::string_view name) = 0;

   protected:
    ~Sink() = default;
  };

  explicit DeltaResponseParser(Sink& sink) : sink_(sink) {}
  void Begin();
  // False: the bytes are not a DeltaDiscoveryResponse; error() says why.
  bool Feed(std::string_view piece);
  // After the last piece: false when the message ends in the middle of a field.
  bool Finish();

  const std::string& type_url() const { return type_url_; }
  const std::string& nonce() const { return nonce_; }
  const std::string& system_version() const { return system_version_; }
  const std::string& error() const { return error_; }

 private:
  enum class State { kTag, kVarint, kFixed, kLength, kPayload, kBad };
  bool Bad(std::string_view why);
  bool Varint(std::string_view& piece, bool& complete);
  bool Tag();
  bool Payload(std::string_view bytes);
  bool Wanted() const;

  Sink& sink_;
  State state_ = State::kTag;
  uint64_t varint_ = 0;
  unsigned shift_ = 0;
  uint32_t field_ = 0;
  size_t left_ = 0;
  std::string partial_;
  std::string type_url_;
  std::string nonce_;
  std::string system_version_;
  std::string error_;
};

}  // namespace qanat::xds
