// SPDX-License-Identifier: Apache-2.0
#include "waypoint/config/decode_common.h"

#include <google/protobuf/unknown_field_set.h>

#include <algorithm>

namespace qanat::waypoint {

std::string_view TypeName(const google::protobuf::Any& any) {
  std::string_view url = any.type_url();
  size_t slash = url.rfind('/');
  return slash == std::string_view::npos ? url : url.substr(slash + 1);
}

bool HasUnknownFields(const google::protobuf::Message& message) {
  const google::protobuf::Reflection* reflection = message.GetReflection();
  if (!reflection->GetUnknownFields(message).empty()) return true;
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const auto* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (!field->is_repeated()) {
      if (HasUnknownFields(reflection->GetMessage(message, field))) return true;
      continue;
    }
    for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
      if (HasUnknownFields(reflection->GetRepeatedMessage(message, field, i))) return true;
    }
  }
  return false;
}

std::chrono::milliseconds ToMs(const google::protobuf::Duration& duration) {
  constexpr int64_t kMost = int64_t{10} * 365 * 86400;
  int64_t seconds = std::clamp<int64_t>(duration.seconds(), 0, kMost);
  int64_t nanos = std::clamp<int64_t>(duration.nanos(), 0, 999999999);
  // A positive duration never becomes "none".
  return std::chrono::milliseconds(seconds * 1000 + (nanos + 999999) / 1000000);
}

Result<Regex> DecodeRegex(const envoy::type::matcher::v3::RegexMatcher& in) {
  return Regex::Compile(in.regex());
}

Result<StringMatch> DecodeString(const envoy::type::matcher::v3::StringMatcher& in) {
  using In = envoy::type::matcher::v3::StringMatcher;
  using Kind = StringMatch::Kind;
  StringMatch out;
  out.ignore_case = in.ignore_case();
  switch (in.match_pattern_case()) {
    case In::kExact:
      out.kind = Kind::kExact;
      out.value = in.exact();
      break;
    case In::kPrefix:
      out.kind = Kind::kPrefix;
      out.value = in.prefix();
      break;
    case In::kSuffix:
      out.kind = Kind::kSuffix;
      out.value = in.suffix();
      break;
    case In::kContains:
      out.kind = Kind::kContains;
      out.value = in.contains();
      break;
    case In::kSafeRegex: {
      out.kind = Kind::kRegex;
      // Envoy ignores ignore_case here; so do we: (?i) in the pattern does it.
      out.ignore_case = false;
      QANAT_ASSIGN_OR_RETURN(out.regex, DecodeRegex(in.safe_regex()));
      return out;
    }
    case In::kCustom: return Unsupported("string matcher extensions");
    case In::MATCH_PATTERN_NOT_SET: return Unsupported("a string matcher of a kind unknown to us");
  }
  if (out.ignore_case) out.value = AsciiLower(out.value);
  return out;
}

Result<HeaderMatch> DecodeHeader(const envoy::config::route::v3::HeaderMatcher& in) {
  using In = envoy::config::route::v3::HeaderMatcher;
  HeaderMatch out;
  if (in.name().empty()) return Invalid("header matcher without a name");
  out.name = AsciiLower(in.name());
  out.invert = in.invert_match();
  out.missing_is_empty = in.treat_missing_header_as_empty();
  auto simple = [&](StringMatch::Kind kind, const std::string& value) {
    out.kind = HeaderMatch::Kind::kString;
    out.text.kind = kind;
    out.text.value = value;
  };
  switch (in.header_match_specifier_case()) {
    case In::kExactMatch: simple(StringMatch::Kind::kExact, in.exact_match()); break;
    case In::kPrefixMatch: simple(StringMatch::Kind::kPrefix, in.prefix_match()); break;
    case In::kSuffixMatch: simple(StringMatch::Kind::kSuffix, in.suffix_match()); break;
    case In::kContainsMatch: simple(StringMatch::Kind::kContains, in.contains_match()); break;
    case In::kSafeRegexMatch: {
      out.kind = HeaderMatch::Kind::kString;
      out.text.kind = StringMatch::Kind::kRegex;
      QANAT_ASSIGN_OR_RETURN(out.text.regex, DecodeRegex(in.safe_regex_match()));
      break;
    }
    case In::kStringMatch: {
      out.kind = HeaderMatch::Kind::kString;
      QANAT_ASSIGN_OR_RETURN(out.text, DecodeString(in.string_match()));
      break;
    }
    case In::kRangeMatch:
      out.kind = HeaderMatch::Kind::kRange;
      out.range_start = in.range_match().start();
      out.range_end = in.range_match().end();
      break;
    case In::kPresentMatch: out.present = in.present_match(); break;
    // Envoy: no specifier means presence.
    case In::HEADER_MATCH_SPECIFIER_NOT_SET: break;
  }
  return out;
}

Result<net::Cidr> DecodeCidr(const envoy::config::core::v3::CidrRange& in) {
  QANAT_ASSIGN_OR_RETURN(net::IpAddress ip, net::IpAddress::Parse(in.address_prefix()));
  return net::Cidr::Make(ip, in.prefix_len().value());
}

Result<net::SocketAddress> DecodeSocketAddress(const envoy::config::core::v3::SocketAddress& in) {
  QANAT_ASSIGN_OR_RETURN(net::IpAddress ip, net::IpAddress::Parse(in.address()));
  if (in.port_specifier_case() != envoy::config::core::v3::SocketAddress::kPortValue ||
      in.port_value() > 65535) {
    return Invalid(fmt::format("address {} without a port of 0 to 65535", in.address()));
  }
  return net::SocketAddress(ip, static_cast<uint16_t>(in.port_value()));
}

Fraction DecodeFraction(const envoy::type::v3::FractionalPercent& in) {
  uint32_t denominator = 100;
  if (in.denominator() == envoy::type::v3::FractionalPercent::TEN_THOUSAND) denominator = 10000;
  if (in.denominator() == envoy::type::v3::FractionalPercent::MILLION) denominator = 1000000;
  return {in.numerator(), denominator};
}

std::string MetadataString(const envoy::config::core::v3::Metadata& metadata,
                           const std::string& filter, const std::string& key) {
  auto it = metadata.filter_metadata().find(filter);
  if (it == metadata.filter_metadata().end()) return {};
  auto field = it->second.fields().find(key);
  return field == it->second.fields().end() ? std::string() : field->second.string_value();
}

}  // namespace qanat::waypoint
