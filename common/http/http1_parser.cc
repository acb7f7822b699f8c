// SPDX-License-Identifier: Apache-2.0
#include "common/http/http1_parser.h"

#include <algorithm>

namespace qanat::http {
namespace {

Http1Parser& Self(llhttp_t* p) { return *static_cast<Http1Parser*>(p->data); }

// Calls `f` with each comma-separated element, trimmed; empty ones are skipped.
template <typename F>
void ForEachElement(std::string_view list, F f) {
  while (!list.empty()) {
    const size_t comma = list.find(',');
    std::string_view item = list.substr(0, comma);
    list = comma == std::string_view::npos ? std::string_view() : list.substr(comma + 1);
    while (!item.empty() && (item.front() == ' ' || item.front() == '\t')) item.remove_prefix(1);
    while (!item.empty() && (item.back() == ' ' || item.back() == '\t')) item.remove_suffix(1);
    if (!item.empty()) f(item);
  }
}

bool IsContentLength(std::string_view text) {
  return !text.empty() && text.size() <= 18 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

llhttp_settings_t Http1Parser::MakeSettings() {
  llhttp_settings_t s;
  llhttp_settings_init(&s);
  s.on_url = OnUrl;
  s.on_header_field = OnField;
  s.on_header_value = OnValue;
  s.on_header_value_complete = OnValueComplete;
  s.on_headers_complete = OnHeadersComplete;
  s.on_chunk_header = OnChunkHeader;
  s.on_body = OnBody;
  s.on_message_complete = OnMessageComplete;
  return s;
}

Http1Parser::Http1Parser(Side side, size_t max_header_bytes, size_t max_headers)
    : side_(side),
      max_headers_(max_headers),
      collector_(max_header_bytes),
      settings_(MakeSettings()) {
  llhttp_init(&parser_, side == Side::kRequests ? HTTP_REQUEST : HTTP_RESPONSE, &settings_);
  parser_.data = this;
  collector_.Begin(side == Side::kRequests ? HeadCollector::Section::kRequest
                                           : HeadCollector::Section::kResponse);
}

Http1Parser::Event Http1Parser::Fail(int status, std::string_view why) {
  phase_ = Phase::kFailed;
  error_status_ = status;
  error_ = why;
  return Event::kError;
}

bool Http1Parser::Execute(std::string_view bytes, size_t& consumed) {
  const llhttp_errno_t result = llhttp_execute(&parser_, bytes.data(), bytes.size());
  consumed = bytes.size();
  if (result == HPE_OK) return true;
  if (result == HPE_PAUSED) {
    consumed = static_cast<size_t>(llhttp_get_error_pos(&parser_) - bytes.data());
    llhttp_resume(&parser_);
    return true;
  }
  const char* reason = llhttp_get_error_reason(&parser_);
  Fail(400, reason != nullptr && *reason != '\0' ? reason : llhttp_errno_name(result));
  return false;
}

Http1Parser::Event Http1Parser::Next(std::string_view& input) {
  body_.clear();
  switch (phase_) {
    case Phase::kFailed: return Event::kError;
    case Phase::kHead:
    case Phase::kTrailers:
      switch (collector_.Feed(input)) {
        case HeadCollector::State::kMore: return Event::kMore;
        case HeadCollector::State::kBad: return Fail(400, collector_.why());
        case HeadCollector::State::kTooLarge: return Fail(431, "the head is over the size limit");
        case HeadCollector::State::kComplete:
          return phase_ == Phase::kHead ? ParseHead() : ParseTrailers();
      }
      break;
    case Phase::kBody: return ParseBody(input);
    case Phase::kComplete:
      phase_ = Phase::kHead;
      llhttp_reset(&parser_);
      collector_.Begin(side_ == Side::kRequests ? HeadCollector::Section::kRequest
                                                : HeadCollector::Section::kResponse);
      return Event::kEnd;
  }
  return Event::kError;
}

Http1Parser::Event Http1Parser::ParseHead() {
  request_ = {};
  response_ = {};
  trailers_ = {};
  url_.clear();
  in_trailers_ = false;
  head_done_ = false;
  last_chunk_ = false;
  expect_continue_ = false;
  if (side_ == Side::kRequests && CheckRequestLine() == Event::kError) return Event::kError;
  phase_ = Phase::kBody;
  size_t consumed = 0;
  if (!Execute(collector_.text(), consumed)) return Event::kError;
  if (!head_done_ || consumed != collector_.text().size()) {
    return Fail(400, "the head does not end where its lines do");
  }
  const Version version = parser_.http_minor == 1 ? Version::kHttp11 : Version::kHttp10;
  if (parser_.http_major != 1 || parser_.http_minor > 1) {
    return Fail(505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
  }
  request_.version = response_.version = version;
  if (headers().size() > max_headers_) return Fail(431, "too many headers");
  if (CheckFraming() == Event::kError) return Event::kError;
  if (side_ == Side::kRequests) {
    request_.method = llhttp_method_name(static_cast<llhttp_method_t>(parser_.method));
    if (CheckTarget() == Event::kError) return Event::kError;
  } else {
    response_.status = parser_.status_code;
    if (response_.status < 100) return Fail(502, "status code out of range");
    if (response_.status == 101) return Fail(502, "101 although no upgrade was asked for");
  }
  StripHopByHop();
  return Event::kHead;
}

// METHOD SP TARGET SP HTTP/1.x, one space each.
Http1Parser::Event Http1Parser::CheckRequestLine() {
  std::string_view line = std::string_view(collector_.text());
  line = line.substr(0, line.find('\r'));
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return Fail(400, "not a request line");
  if (!IsToken(line.substr(0, first))) return Fail(400, "the method is not a token");
  if (!IsRequestTarget(line.substr(first + 1, last - first - 1))) {
    return Fail(400, "the request target has characters that it may not have");
  }
  const std::string_view version = line.substr(last + 1);
  if (!version.starts_with("HTTP/")) return Fail(400, "not a request line");
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    return Fail(505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
  }
  return Event::kHead;
}

// RFC 9112 6.3, without its leniencies: what would let two parsers see different ends is refused.
Http1Parser::Event Http1Parser::CheckFraming() {
  HeaderList& h = headers();
  const int bad = side_ == Side::kRequests ? 400 : 502;
  const size_t lengths = h.Count("content-length");
  const size_t codings = h.Count("transfer-encoding");
  if (lengths > 1) return Fail(bad, "more than one Content-Length");
  if (lengths == 1 && !IsContentLength(*h.Get("content-length"))) {
    return Fail(bad, "Content-Length is not a number");
  }
  if (codings > 0) {
    if (lengths > 0) return Fail(bad, "both Content-Length and Transfer-Encoding");
    if (request_.version == Version::kHttp10) return Fail(bad, "Transfer-Encoding in HTTP/1.0");
    if (codings > 1 || !EqualsIgnoreCase(*h.Get("transfer-encoding"), "chunked")) {
      return Fail(side_ == Side::kRequests ? 501 : 502, "Transfer-Encoding other than chunked");
    }
  }
  bool close = false;
  bool keep = request_.version == Version::kHttp11;
  ForEachElement(h.GetJoined("connection").value_or(""), [&](std::string_view token) {
    if (EqualsIgnoreCase(token, "close")) close = true;
    if (EqualsIgnoreCase(token, "keep-alive")) keep = true;
  });
  keep_alive_ = keep && !close;
  if (side_ == Side::kRequests) {
    if (auto expect = h.Get("expect")) {
      if (!EqualsIgnoreCase(*expect, "100-continue")) return Fail(417, "unknown expectation");
      expect_continue_ = request_.version == Version::kHttp11;
    }
  }
  return Event::kHead;
}

// Host and the request target become authority and path (RFC 9112 3.2, 3.3).
Http1Parser::Event Http1Parser::CheckTarget() {
  RequestHead& r = request_;
  if (r.method == "CONNECT" || r.method == "PRI") {
    return Fail(501, "method is not served over HTTP/1");
  }
  const size_t hosts = r.headers.Count("host");
  if (hosts > 1) return Fail(400, "more than one Host");
  if (hosts == 0 && r.version == Version::kHttp11) return Fail(400, "no Host");
  const std::string host(r.headers.Get("host").value_or(""));
  if (!host.empty() && !IsAuthority(host)) return Fail(400, "malformed Host");
  r.headers.Remove("host");
  if (url_[0] == '/' || (url_ == "*" && r.method == "OPTIONS")) {
    r.path = url_;
    r.authority = host;
    return Event::kHead;
  }
  const size_t colon = url_.find("://");
  if (colon == std::string::npos) return Fail(400, "malformed request target");
  r.scheme = ToLower(std::string_view(url_).substr(0, colon));
  if (r.scheme != "http" && r.scheme != "https") return Fail(400, "unknown scheme");
  const std::string_view rest = std::string_view(url_).substr(colon + 3);
  const size_t slash = rest.find_first_of("/?");
  // The target's authority wins over Host, which proxies must ignore then.
  r.authority = std::string(rest.substr(0, slash));
  if (!IsAuthority(r.authority)) return Fail(400, "malformed authority in the request target");
  r.path = slash == std::string_view::npos ? "/" : std::string(rest.substr(slash));
  if (r.path[0] == '?') r.path.insert(0, "/");
  return Event::kHead;
}

void Http1Parser::StripHopByHop() {
  HeaderList& h = headers();
  const std::string connection = h.GetJoined("connection").value_or("");
  ForEachElement(connection, [&](std::string_view token) {
    // Nobody may have end-to-end headers removed by naming them here: an attacker could strip what
    // a proxy before us added.
    for (std::string_view kept : {"content-length", "host", "authorization", "cookie", "forwarded",
                                  "x-forwarded-for", "x-forwarded-proto", "te", "trailer"}) {
      if (EqualsIgnoreCase(token, kept)) return;
    }
    h.Remove(token);
  });
  bool trailers_wanted = false;
  ForEachElement(h.GetJoined("te").value_or(""), [&](std::string_view token) {
    if (EqualsIgnoreCase(token, "trailers")) trailers_wanted = true;
  });
  for (std::string_view name : {"connection", "keep-alive", "proxy-connection", "te",
                                "transfer-encoding", "upgrade", "http2-settings"}) {
    h.Remove(name);
  }
  if (trailers_wanted) h.Add("te", "trailers");
}

Http1Parser::Event Http1Parser::ParseBody(std::string_view& input) {
  // Enough for one round; keeps the list of chunk views short.
  const std::string_view part = input.substr(0, 65536);
  size_t consumed = 0;
  if (!Execute(part, consumed)) return Event::kError;
  input.remove_prefix(consumed);
  if (last_chunk_ && !in_trailers_) {
    in_trailers_ = true;
    phase_ = Phase::kTrailers;
    collector_.Begin(HeadCollector::Section::kTrailers);
  }
  if (!body_.empty()) return Event::kBody;
  if (phase_ == Phase::kComplete || phase_ == Phase::kTrailers) return Next(input);
  return Event::kMore;
}

Http1Parser::Event Http1Parser::ParseTrailers() {
  phase_ = Phase::kBody;
  size_t consumed = 0;
  if (!Execute(collector_.text(), consumed)) return Event::kError;
  if (phase_ != Phase::kComplete || consumed != collector_.text().size()) {
    return Fail(400, "the trailers do not end where their lines do");
  }
  if (trailers_.size() > max_headers_) return Fail(431, "too many trailers");
  // RFC 9110 6.5.1: never what frames, routes or authenticates a message.
  for (std::string_view name : {"content-length", "transfer-encoding", "host", "authorization",
                                "connection", "te", "trailer", "content-type", "expect"}) {
    trailers_.Remove(name);
  }
  std::string_view none;
  return Next(none);
}

Http1Parser::Event Http1Parser::Finish() {
  body_.clear();
  if (phase_ == Phase::kFailed) return Event::kError;
  if (between_messages()) return Event::kMore;
  // Its answer is not looked at: it calls OnMessageComplete where the end is an end.
  if (phase_ == Phase::kBody) (void)llhttp_finish(&parser_);
  if (phase_ == Phase::kComplete) {
    std::string_view none;
    return Next(none);
  }
  return Fail(400, "the connection ended in the middle of a message");
}

int Http1Parser::OnUrl(llhttp_t* p, const char* at, size_t n) {
  Self(p).url_.append(at, n);
  return 0;
}

int Http1Parser::OnField(llhttp_t* p, const char* at, size_t n) {
  Self(p).field_.append(at, n);
  return 0;
}

int Http1Parser::OnValue(llhttp_t* p, const char* at, size_t n) {
  Self(p).value_.append(at, n);
  return 0;
}

int Http1Parser::OnValueComplete(llhttp_t* p) {
  Http1Parser& self = Self(p);
  std::string_view value = self.value_;
  while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.remove_suffix(1);
  (self.in_trailers_ ? self.trailers_ : self.headers()).Add(self.field_, value);
  self.field_.clear();
  self.value_.clear();
  return 0;
}

int Http1Parser::OnHeadersComplete(llhttp_t* p) {
  Http1Parser& self = Self(p);
  self.head_done_ = true;
  p->upgrade = 0;  // an Upgrade that we do not take is an ordinary request (RFC 9110 7.8)
  if (self.side_ == Side::kResponses && HasNoBody(self.request_method_, p->status_code)) return 1;
  return 0;
}

int Http1Parser::OnChunkHeader(llhttp_t* p) {
  if (p->content_length != 0) return 0;
  Self(p).last_chunk_ = true;
  return HPE_PAUSED;
}

int Http1Parser::OnBody(llhttp_t* p, const char* at, size_t n) {
  if (n > 0) Self(p).body_.emplace_back(at, n);
  return 0;
}

int Http1Parser::OnMessageComplete(llhttp_t* p) {
  Self(p).phase_ = Phase::kComplete;
  return HPE_PAUSED;
}

}  // namespace qanat::http
