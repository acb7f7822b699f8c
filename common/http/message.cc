// SPDX-License-Identifier: Apache-2.0
#include "common/http/message.h"

#include <algorithm>

namespace qanat::http {
namespace {

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = Lower(c);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

}  // namespace

std::string_view VersionName(Version version) {
  switch (version) {
    case Version::kHttp10: return "HTTP/1.0";
    case Version::kHttp11: return "HTTP/1.1";
    case Version::kHttp2: return "HTTP/2";
  }
  return "";
}

bool EqualsIgnoreCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(),
                                            [](char x, char y) { return Lower(x) == Lower(y); });
}

std::string ToLower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = Lower(c);
  return out;
}

void HeaderList::Add(std::string_view name, std::string_view value) {
  headers_.push_back({ToLower(name), std::string(value)});
}

void HeaderList::Set(std::string_view name, std::string_view value) {
  const std::string lower = ToLower(name);
  bool placed = false;
  std::erase_if(headers_, [&](Header& h) {
    if (h.name != lower) return false;
    if (placed) return true;
    h.value = value;
    placed = true;
    return false;
  });
  if (!placed) headers_.push_back({lower, std::string(value)});
}

size_t HeaderList::Remove(std::string_view name) {
  return std::erase_if(headers_, [&](const Header& h) { return EqualsIgnoreCase(h.name, name); });
}

size_t HeaderList::RemovePrefix(std::string_view prefix) {
  const std::string lower = ToLower(prefix);
  return std::erase_if(headers_, [&](const Header& h) { return h.name.starts_with(lower); });
}

bool HeaderList::Has(std::string_view name) const { return Get(name).has_value(); }

std::optional<std::string_view> HeaderList::Get(std::string_view name) const {
  for (const Header& h : headers_) {
    if (EqualsIgnoreCase(h.name, name)) return h.value;
  }
  return std::nullopt;
}

std::optional<std::string> HeaderList::GetJoined(std::string_view name) const {
  std::optional<std::string> out;
  for (const Header& h : headers_) {
    if (!EqualsIgnoreCase(h.name, name)) continue;
    if (!out) {
      out = h.value;
    } else {
      out->append(",").append(h.value);
    }
  }
  return out;
}

size_t HeaderList::Count(std::string_view name) const {
  return static_cast<size_t>(std::count_if(headers_.begin(), headers_.end(), [&](const Header& h) {
    return EqualsIgnoreCase(h.name, name);
  }));
}

size_t HeaderList::ByteSize() const {
  size_t n = 0;
  for (const Header& h : headers_) n += h.name.size() + h.value.size() + 32;
  return n;
}

std::string_view RequestHead::PathOnly() const {
  return std::string_view(path).substr(0, path.find('?'));
}

std::string_view RequestHead::Query() const {
  const size_t mark = path.find('?');
  return mark == std::string::npos ? std::string_view() : std::string_view(path).substr(mark + 1);
}

bool HasNoBody(std::string_view request_method, int status) {
  return status < 200 || status == 204 || status == 304 || request_method == "HEAD";
}

std::string_view ReasonPhrase(int status) {
  switch (status) {
    case 100: return "Continue";
    case 101: return "Switching Protocols";
    case 103: return "Early Hints";
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 206: return "Partial Content";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 304: return "Not Modified";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 411: return "Length Required";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 421: return "Misdirected Request";
    case 426: return "Upgrade Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Unknown";
  }
}

std::string PercentDecode(std::string_view text, bool plus) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && HexDigit(text[i + 1]) >= 0 &&
        HexDigit(text[i + 2]) >= 0) {
      out += static_cast<char>(HexDigit(text[i + 1]) * 16 + HexDigit(text[i + 2]));
      i += 2;
    } else {
      out += plus && text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}

std::vector<std::pair<std::string, std::string>> ParseQuery(std::string_view query) {
  std::vector<std::pair<std::string, std::string>> out;
  while (!query.empty()) {
    const size_t amp = query.find('&');
    const std::string_view part = query.substr(0, amp);
    query = amp == std::string_view::npos ? std::string_view() : query.substr(amp + 1);
    if (part.empty()) continue;
    const size_t eq = part.find('=');
    out.emplace_back(
        PercentDecode(part.substr(0, eq), true),
        eq == std::string_view::npos ? std::string() : PercentDecode(part.substr(eq + 1), true));
  }
  return out;
}

std::optional<std::string> QueryParameter(std::string_view query, std::string_view name) {
  for (auto& [key, value] : ParseQuery(query)) {
    if (key == name) return std::move(value);
  }
  return std::nullopt;
}

}  // namespace qanat::http
