// SPDX-License-Identifier: Apache-2.0
#include "common/http/http1_encode.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "common/http/http1_head.h"

namespace qanat::http {
namespace {

// Framing and connection headers are the codec's. A name or value that would break the message
// apart (it can come from configuration) is left out rather than sent.
void AppendHeaders(const HeaderList& headers, bool keep_length, std::string& out) {
  for (const Header& h : headers) {
    if (h.name == "connection" || h.name == "transfer-encoding" || h.name == "keep-alive" ||
        h.name == "proxy-connection" || h.name == "upgrade" || h.name == "host") {
      continue;
    }
    if (h.name == "content-length" && !keep_length) continue;
    if (!IsToken(h.name) || !IsHeaderValue(h.value)) continue;
    out.append(h.name).append(": ").append(h.value).append("\r\n");
  }
}

std::optional<uint64_t> ContentLength(const HeaderList& headers) {
  if (headers.Count("content-length") != 1) return std::nullopt;
  const std::string_view text = *headers.Get("content-length");
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

bool BodyWriter::Data(std::string_view data, bool end, std::string& out) {
  if (discard_) return true;
  switch (mode_) {
    case Mode::kNone: return data.empty();
    case Mode::kLength:
      if (data.size() > remaining_) return false;
      remaining_ -= data.size();
      out.append(data);
      return !end || remaining_ == 0;
    case Mode::kChunked:
      if (!data.empty()) {
        out.append(fmt::format("{:x}\r\n", data.size())).append(data).append("\r\n");
      }
      if (end) out.append("0\r\n\r\n");
      return true;
    case Mode::kUntilClose: out.append(data); return true;
  }
  return false;
}

bool BodyWriter::Trailers(const HeaderList& trailers, std::string& out) {
  if (discard_ || mode_ != Mode::kChunked) return Data({}, true, out);
  out.append("0\r\n");
  AppendHeaders(trailers, false, out);
  out.append("\r\n");
  return true;
}

BodyWriter EncodeResponse(const ResponseHead& head, std::string_view request_method,
                          Version request_version, bool end, bool& keep_alive, std::string& out) {
  BodyWriter body;
  const std::optional<uint64_t> length = ContentLength(head.headers);
  const bool none = HasNoBody(request_method, head.status);
  std::string_view framing;
  bool keep_length = false;
  if (none) {
    body.discard_ = true;
    keep_length = length.has_value() && head.status != 204 && head.status >= 200;
  } else if (length) {
    body.mode_ = BodyWriter::Mode::kLength;
    body.remaining_ = *length;
    keep_length = true;
  } else if (end) {
    framing = "content-length: 0\r\n";
  } else if (request_version == Version::kHttp10) {
    body.mode_ = BodyWriter::Mode::kUntilClose;
    keep_alive = false;
  } else {
    body.mode_ = BodyWriter::Mode::kChunked;
    framing = "transfer-encoding: chunked\r\n";
  }
  out.append(fmt::format("HTTP/1.1 {} {}\r\n", head.status, ReasonPhrase(head.status)));
  AppendHeaders(head.headers, keep_length, out);
  out.append(framing);
  if (!keep_alive) {
    out.append("connection: close\r\n");
  } else if (request_version == Version::kHttp10) {
    out.append("connection: keep-alive\r\n");
  }
  out.append("\r\n");
  return body;
}

BodyWriter EncodeRequest(const RequestHead& head, bool end, std::string& out) {
  BodyWriter body;
  const std::optional<uint64_t> length = ContentLength(head.headers);
  std::string_view framing;
  if (length) {
    body.mode_ = BodyWriter::Mode::kLength;
    body.remaining_ = *length;
  } else if (!end) {
    body.mode_ = BodyWriter::Mode::kChunked;
    framing = "transfer-encoding: chunked\r\n";
  } else if (head.method != "GET" && head.method != "HEAD" && head.method != "OPTIONS" &&
             head.method != "DELETE" && head.method != "TRACE") {
    framing = "content-length: 0\r\n";
  }
  // The caller has checked method, path and authority.
  out.append(head.method).append(" ").append(head.path).append(" HTTP/1.1\r\nhost: ");
  out.append(head.authority).append("\r\n");
  AppendHeaders(head.headers, length.has_value(), out);
  out.append(framing).append("\r\n");
  return body;
}

void EncodeInformational(int status, const HeaderList& headers, std::string& out) {
  out.append(fmt::format("HTTP/1.1 {} {}\r\n", status, ReasonPhrase(status)));
  AppendHeaders(headers, false, out);
  out.append("\r\n");
}

}  // namespace qanat::http
