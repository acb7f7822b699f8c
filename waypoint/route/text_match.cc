// SPDX-License-Identifier: Apache-2.0
#include "waypoint/route/text_match.h"

#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>
#include <charconv>

namespace qanat::waypoint {
namespace {

// A regex comes from the control plane, but its author is a user: its automaton is bounded.
constexpr int64_t kRegexMemory = 4 << 20;

char LowerChar(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

re2::StringPiece Piece(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

std::string AsciiLower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), LowerChar);
  return out;
}

bool EqualsIgnoreCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) {
           return LowerChar(x) == LowerChar(y);
         });
}

std::optional<std::string_view> HeadView::Find(std::string_view name, std::string& scratch) const {
  if (!name.empty() && name[0] == ':') {
    if (name == ":method") return method;
    if (name == ":path") return path;
    if (name == ":authority") return authority;
    if (name == ":scheme") return scheme;
    return std::nullopt;
  }
  // "host" of HTTP/1 lives in :authority, as in Envoy.
  if (name == "host") return authority;
  std::optional<std::string_view> found;
  bool joined = false;
  if (headers == nullptr) return std::nullopt;
  for (const http::Header& h : *headers) {
    if (h.name != name) continue;
    if (!found) {
      found = h.value;
      continue;
    }
    if (!joined) scratch.assign(*found);
    joined = true;
    scratch.append(",").append(h.value);
  }
  if (joined) found = scratch;
  return found;
}

Result<Regex> Regex::Compile(std::string_view pattern) {
  re2::RE2::Options options(re2::RE2::Quiet);
  options.set_max_mem(kRegexMemory);
  auto re = std::make_shared<re2::RE2>(Piece(pattern), options);
  if (!re->ok()) {
    return Fail(Code::kInvalidArgument,
                fmt::format("regex \"{}\" is not valid RE2: {}", pattern, re->error()));
  }
  Regex out;
  out.re_ = std::move(re);
  return out;
}

bool Regex::FullMatch(std::string_view text) const {
  return re_ && re2::RE2::FullMatch(Piece(text), *re_);
}

std::string Regex::ReplaceAll(std::string_view text, const std::string& substitution) const {
  std::string out(text);
  if (re_) re2::RE2::GlobalReplace(&out, *re_, substitution);
  return out;
}

std::string_view Regex::pattern() const {
  return re_ ? std::string_view(re_->pattern()) : std::string_view();
}

bool StringMatch::Matches(std::string_view text) const {
  if (kind == Kind::kRegex) return regex.FullMatch(text);
  std::string lower;
  if (ignore_case) {
    lower = AsciiLower(text);
    text = lower;
  }
  switch (kind) {
    case Kind::kExact: return text == value;
    case Kind::kPrefix: return text.starts_with(value);
    case Kind::kSuffix: return text.ends_with(value);
    case Kind::kContains: return text.find(value) != std::string_view::npos;
    case Kind::kRegex: break;
  }
  return false;
}

std::string StringMatch::Describe() const {
  switch (kind) {
    case Kind::kExact: return value;
    case Kind::kPrefix: return value + "*";
    case Kind::kSuffix: return "*" + value;
    case Kind::kContains: return "*" + value + "*";
    case Kind::kRegex: return "~" + std::string(regex.pattern());
  }
  return {};
}

bool HeaderMatch::Matches(const HeadView& head) const {
  std::string scratch;
  std::optional<std::string_view> seen = head.Find(name, scratch);
  if (kind == Kind::kPresent) {
    if (!seen && missing_is_empty) seen = std::string_view();
    return (seen.has_value() != invert) == present;
  }
  if (!seen) {
    if (!missing_is_empty) return false;
    seen = std::string_view();
  }
  bool matched = false;
  if (kind == Kind::kString) {
    matched = text.Matches(*seen);
  } else {
    int64_t number = 0;
    auto [end, error] = std::from_chars(seen->data(), seen->data() + seen->size(), number);
    matched = error == std::errc() && end == seen->data() + seen->size() && number >= range_start &&
              number < range_end;
  }
  return matched != invert;
}

std::string HeaderMatch::Describe() const {
  std::string what;
  switch (kind) {
    case Kind::kPresent: what = present ? "present" : "absent"; break;
    case Kind::kString: what = text.Describe(); break;
    case Kind::kRange: what = fmt::format("{}..{}", range_start, range_end); break;
  }
  return fmt::format("{}{}{}", name, invert ? "!=" : "=", what);
}

bool QueryMatch::Matches(std::string_view query) const {
  while (!query.empty()) {
    size_t amp = query.find('&');
    std::string_view part = query.substr(0, amp);
    query = amp == std::string_view::npos ? std::string_view() : query.substr(amp + 1);
    size_t eq = part.find('=');
    if (part.substr(0, eq) != name) continue;
    if (!by_value) return present;
    return text.Matches(eq == std::string_view::npos ? std::string_view() : part.substr(eq + 1));
  }
  return !by_value && !present;
}

std::string QueryMatch::Describe() const {
  if (by_value) return name + "=" + text.Describe();
  return name + (present ? " present" : " absent");
}

}  // namespace qanat::waypoint
