// SPDX-License-Identifier: Apache-2.0
#include "common/grpc/endpoint.h"

#include <charconv>

#include "common/base/read_file.h"
#include "common/net/address.h"

namespace qanat::grpc {
namespace {

constexpr size_t kMostBytes = 16 << 20;  // all roots of a system are a fraction of it

Result<std::string> ReadMounted(const std::string& path, std::string_view what) {
  auto text = ReadFile(path, kMostBytes);
  if (text) return text;
  return Fail(Code::kNotFound, "cannot read " + std::string(what) + " " + text.error().message +
                                   ": is it mounted, and readable for this user?");
}

std::string Trim(std::string text) {
  const char* space = " \t\r\n";
  text.erase(text.find_last_not_of(space) + 1);
  text.erase(0, text.find_first_not_of(space));
  return text;
}

}  // namespace

Result<Endpoint> ParseEndpoint(std::string_view text) {
  const std::string whole(text);
  Endpoint e;
  if (text.starts_with("https://")) {
    text.remove_prefix(8);
  } else if (text.starts_with("http://")) {
    text.remove_prefix(7);
    e.tls = false;
  } else if (text.find("://") != std::string_view::npos) {
    return Fail(Code::kInvalidArgument, "address \"" + whole + "\": only https:// and http://");
  }
  if (text.ends_with('/')) text.remove_suffix(1);
  std::string_view port;
  if (text.starts_with('[')) {
    const size_t close = text.find(']');
    if (close == std::string_view::npos) {
      return Fail(Code::kInvalidArgument, "address \"" + whole + "\": no closing bracket");
    }
    e.host = text.substr(1, close - 1);
    if (!net::IpAddress::Parse(e.host)) {
      return Fail(Code::kInvalidArgument, "address \"" + whole + "\": not an IPv6 address");
    }
    port = text.substr(close + 1);
  } else {
    const size_t colon = text.find(':');
    e.host = text.substr(0, colon);
    port = colon == std::string_view::npos ? std::string_view() : text.substr(colon);
  }
  if (e.host.empty() || e.host.find_first_of("/@?# \t") != std::string::npos) {
    return Fail(Code::kInvalidArgument, "address \"" + whole + "\": no host");
  }
  e.port = e.tls ? 443 : 80;
  if (!port.empty()) {
    unsigned value = 0;
    const auto [end, error] = std::from_chars(port.data() + 1, port.data() + port.size(), value);
    if (port[0] != ':' || error != std::errc() || end != port.data() + port.size() || value == 0 ||
        value > 65535) {
      return Fail(Code::kInvalidArgument, "address \"" + whole + "\": the port is not a port");
    }
    e.port = static_cast<uint16_t>(value);
  }
  const bool v6 = e.host.find(':') != std::string::npos;
  e.authority = (v6 ? "[" + e.host + "]" : e.host) + ":" + std::to_string(e.port);
  return e;
}

Result<std::string> LoadRoots(std::string_view root_ca) {
  if (root_ca.find("-----BEGIN") != std::string_view::npos) return std::string(root_ca);
  if (root_ca.empty()) {
    return Fail(Code::kInvalidArgument,
                "no trust root for TLS: give a file, a PEM text or SYSTEM as the root CA");
  }
  return ReadMounted(
      root_ca == "SYSTEM" ? "/etc/ssl/certs/ca-certificates.crt" : std::string(root_ca),
      "the trust root");
}

std::string FormatTimeout(std::chrono::milliseconds timeout) {
  const int64_t ms = std::max<int64_t>(timeout.count(), 1);
  if (ms < 100'000'000) return std::to_string(ms) + "m";
  return std::to_string(std::min<int64_t>(ms / 1000, 99'999'999)) + "S";
}

std::string DecodeStatusMessage(std::string_view text) { return http::PercentDecode(text, false); }

StatusCode CodeOfHttpStatus(int status) {
  // gRPC: doc/http-grpc-status-mapping.md
  switch (status) {
    case 400: return StatusCode::kInternal;
    case 401: return StatusCode::kUnauthenticated;
    case 403: return StatusCode::kPermissionDenied;
    case 404: return StatusCode::kUnimplemented;
    case 429:
    case 502:
    case 503:
    case 504: return StatusCode::kUnavailable;
    default: return StatusCode::kUnknown;
  }
}

StatusCode ParseStatusCode(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value > 16) {
    return StatusCode::kUnknown;
  }
  return static_cast<StatusCode>(value);
}

std::string_view StatusCodeName(StatusCode code) {
  switch (code) {
    case StatusCode::kOk: return "OK";
    case StatusCode::kCancelled: return "CANCELLED";
    case StatusCode::kUnknown: return "UNKNOWN";
    case StatusCode::kInvalidArgument: return "INVALID_ARGUMENT";
    case StatusCode::kDeadlineExceeded: return "DEADLINE_EXCEEDED";
    case StatusCode::kNotFound: return "NOT_FOUND";
    case StatusCode::kAlreadyExists: return "ALREADY_EXISTS";
    case StatusCode::kPermissionDenied: return "PERMISSION_DENIED";
    case StatusCode::kResourceExhausted: return "RESOURCE_EXHAUSTED";
    case StatusCode::kFailedPrecondition: return "FAILED_PRECONDITION";
    case StatusCode::kAborted: return "ABORTED";
    case StatusCode::kOutOfRange: return "OUT_OF_RANGE";
    case StatusCode::kUnimplemented: return "UNIMPLEMENTED";
    case StatusCode::kInternal: return "INTERNAL";
    case StatusCode::kUnavailable: return "UNAVAILABLE";
    case StatusCode::kDataLoss: return "DATA_LOSS";
    case StatusCode::kUnauthenticated: return "UNAUTHENTICATED";
  }
  return "UNKNOWN";
}

std::string CallStatus::ToString() const {
  std::string out(StatusCodeName(code));
  if (!message.empty()) out.append(": ").append(message);
  return out;
}

Error CallStatus::ToError() const {
  Code c = Code::kInternal;
  switch (code) {
    case StatusCode::kOk:
    case StatusCode::kUnknown:
    case StatusCode::kInternal:
    case StatusCode::kDataLoss: c = Code::kInternal; break;
    case StatusCode::kCancelled: c = Code::kCancelled; break;
    case StatusCode::kInvalidArgument:
    case StatusCode::kOutOfRange: c = Code::kInvalidArgument; break;
    case StatusCode::kDeadlineExceeded: c = Code::kDeadlineExceeded; break;
    case StatusCode::kNotFound: c = Code::kNotFound; break;
    case StatusCode::kAlreadyExists: c = Code::kAlreadyExists; break;
    case StatusCode::kPermissionDenied: c = Code::kPermissionDenied; break;
    case StatusCode::kResourceExhausted: c = Code::kResourceExhausted; break;
    case StatusCode::kFailedPrecondition: c = Code::kFailedPrecondition; break;
    case StatusCode::kAborted:
    case StatusCode::kUnavailable: c = Code::kUnavailable; break;
    case StatusCode::kUnimplemented: c = Code::kUnimplemented; break;
    case StatusCode::kUnauthenticated: c = Code::kUnauthenticated; break;
  }
  return Error{c, ToString(), 0};
}

std::function<Result<Metadata>()> TokenMetadata(std::string token_file_or_literal,
                                                std::string cluster_id, Metadata extra) {
  return [token = std::move(token_file_or_literal), cluster = std::move(cluster_id),
          extra = std::move(extra)]() -> Result<Metadata> {
    Metadata out = extra;
    if (!token.empty()) {
      // A path has a slash; a JWT (base64url and dots) never has. Trimmed: an editor's newline
      // must not make the header invalid (stock ztunnel fails for ever then).
      std::string value = token;
      if (token.find('/') != std::string::npos) {
        QANAT_ASSIGN_OR_RETURN(value, ReadMounted(token, "the token"));
      }
      value = Trim(std::move(value));
      if (value.empty()) return Fail(Code::kUnauthenticated, "the token in " + token + " is empty");
      out.emplace_back("authorization", "Bearer " + value);
    }
    if (!cluster.empty()) out.emplace_back("clusterid", cluster);
    return out;
  };
}

}  // namespace qanat::grpc
