// SPDX-License-Identifier: Apache-2.0
// Small helpers to fill Envoy's messages. Only for the .cc files of this folder: heavy headers.
#pragma once

#include <google/protobuf/any.pb.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/message_lite.h>
#include <google/protobuf/struct.pb.h>

#include <chrono>
#include <cmath>
#include <string>
#include <string_view>

#include "envoy/config/core/v3/address.pb.h"
#include "envoy/config/core/v3/base.pb.h"
#include "envoy/config/core/v3/config_source.pb.h"
#include "envoy/type/v3/percent.pb.h"

namespace qanat::controlplane {

// Serialised with maps in key order: equal content, equal bytes.
void PackInto(google::protobuf::Any* any, const google::protobuf::MessageLite& message);

inline void SetDuration(google::protobuf::Duration* duration, std::chrono::milliseconds value) {
  duration->set_seconds(value.count() / 1000);
  duration->set_nanos(static_cast<int32_t>(value.count() % 1000) * 1'000'000);
}

inline void SetText(google::protobuf::Struct* fields, const std::string& key,
                    std::string_view value) {
  if (!value.empty()) (*fields->mutable_fields())[key].set_string_value(std::string(value));
}

inline google::protobuf::Struct* MetadataOf(envoy::config::core::v3::Metadata* metadata,
                                            std::string_view filter) {
  return &(*metadata->mutable_filter_metadata())[std::string(filter)];
}

inline void UseAds(envoy::config::core::v3::ConfigSource* source) {
  source->mutable_ads();
  source->set_resource_api_version(envoy::config::core::v3::V3);
}

inline void SetPercent(envoy::type::v3::FractionalPercent* percent, double value) {
  percent->set_denominator(envoy::type::v3::FractionalPercent::MILLION);
  const double clamped = value < 0 ? 0 : value > 100 ? 100 : value;
  percent->set_numerator(static_cast<uint32_t>(std::lround(clamped * 10'000)));
}

}  // namespace qanat::controlplane
