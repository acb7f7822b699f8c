// SPDX-License-Identifier: Apache-2.0
// What the decoders share. The only header of this program that sees protobuf: included by
// config/decode_*.cc and nothing else.
#pragma once

#include <envoy/config/core/v3/base.pb.h>
#include <envoy/config/rbac/v3/rbac.pb.h>
#include <envoy/config/route/v3/route.pb.h>
#include <envoy/type/matcher/v3/string.pb.h>
#include <fmt/format.h>
#include <google/protobuf/any.pb.h>
#include <google/protobuf/duration.pb.h>

#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "waypoint/config/config.h"

namespace envoy::extensions::filters::http::fault::v3 {
class HTTPFault;
}
namespace envoy::extensions::filters::http::rbac::v3 {
class RBAC;
}

namespace qanat::waypoint {

using Restricted = std::vector<std::string>;

inline tl::unexpected<Error> Unsupported(std::string message) {
  return Fail(Code::kUnimplemented, std::move(message));
}
inline tl::unexpected<Error> Invalid(std::string message) {
  return Fail(Code::kInvalidArgument, std::move(message));
}

// "type.googleapis.com/a.b.C" -> "a.b.C"
std::string_view TypeName(const google::protobuf::Any& any);

template <typename T>
bool Is(const google::protobuf::Any& any) {
  return TypeName(any) == T::descriptor()->full_name();
}

template <typename T>
Result<T> Unpack(const google::protobuf::Any& any) {
  T out;
  if (!Is<T>(any)) {
    return Unsupported(
        fmt::format("type {} where {} was expected", any.type_url(), T::descriptor()->full_name()));
  }
  if (!out.ParseFromString(any.value())) {
    return Invalid(fmt::format("{} does not parse", T::descriptor()->full_name()));
  }
  return out;
}

// True when the message or any message in it has a field that our copy of the API does not know.
bool HasUnknownFields(const google::protobuf::Message& message);

// Negative or absurdly long ones are clamped: [0, 10 years].
std::chrono::milliseconds ToMs(const google::protobuf::Duration& duration);

Result<Regex> DecodeRegex(const envoy::type::matcher::v3::RegexMatcher& in);
Result<StringMatch> DecodeString(const envoy::type::matcher::v3::StringMatcher& in);
Result<HeaderMatch> DecodeHeader(const envoy::config::route::v3::HeaderMatcher& in);
Result<net::Cidr> DecodeCidr(const envoy::config::core::v3::CidrRange& in);
Result<net::SocketAddress> DecodeSocketAddress(const envoy::config::core::v3::SocketAddress& in);
Fraction DecodeFraction(const envoy::type::v3::FractionalPercent& in);

// decode_rbac.cc. Never fails: what is not understood refuses, and `where` goes to `restricted`.
RbacRules DecodeRbacRules(const envoy::config::rbac::v3::RBAC* rules,
                          const envoy::config::rbac::v3::RBAC* shadow, bool has_matcher,
                          const std::string& where, Restricted& restricted);
RbacRules DecodeHttpRbac(const envoy::extensions::filters::http::rbac::v3::RBAC& in,
                         const std::string& where, Restricted& restricted);

// decode_route.cc
Result<std::shared_ptr<const Fault>> DecodeFault(
    const envoy::extensions::filters::http::fault::v3::HTTPFault& in);
Result<std::shared_ptr<const RouteTable>> DecodeRouteTable(
    const envoy::config::route::v3::RouteConfiguration& in, Restricted& restricted);

// The string at metadata.filter_metadata[filter][key], "" when absent.
std::string MetadataString(const envoy::config::core::v3::Metadata& metadata,
                           const std::string& filter, const std::string& key);

}  // namespace qanat::waypoint
