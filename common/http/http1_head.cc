// SPDX-License-Identifier: Apache-2.0
#include "common/http/http1_head.h"

#include <algorithm>
#include <array>
#include <cstdint>

namespace qanat::http {
namespace {

constexpr std::array<bool, 256> MakeTokenTable() {
  std::array<bool, 256> table{};
  for (int c = '0'; c <= '9'; ++c) table[static_cast<size_t>(c)] = true;
  for (int c = 'a'; c <= 'z'; ++c) table[static_cast<size_t>(c)] = true;
  for (int c = 'A'; c <= 'Z'; ++c) table[static_cast<size_t>(c)] = true;
  for (char c : std::string_view("!#$%&'*+-.^_`|~")) table[static_cast<uint8_t>(c)] = true;
  return table;
}
constexpr std::array<bool, 256> kToken = MakeTokenTable();

// RFC 9112 2.2: a server should ignore at least one empty line before the request line.
constexpr unsigned kMaxLeadingEmptyLines = 2;

bool IsAlnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

}  // namespace

bool IsToken(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](char c) { return kToken[static_cast<uint8_t>(c)]; });
}

bool IsHeaderValue(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    const auto u = static_cast<uint8_t>(c);
    return u == '\t' || (u >= 0x20 && u != 0x7f);
  });
}

bool IsAuthority(std::string_view text) {
  if (text.empty() || text.size() > 1024) return false;
  std::string_view rest;
  if (text[0] == '[') {
    const size_t close = text.find(']');
    if (close == std::string_view::npos || close < 3) return false;
    for (char c : text.substr(1, close - 1)) {
      if (!IsAlnum(c) && c != ':' && c != '.') return false;
    }
    rest = text.substr(close + 1);
  } else {
    const size_t colon = text.find(':');
    const std::string_view host = text.substr(0, colon);
    if (host.empty()) return false;
    for (char c : host) {
      // RFC 3986 reg-name without percent escapes: nobody's host name has one.
      if (!IsAlnum(c) && std::string_view("-._~!$&'()*+,;=").find(c) == std::string_view::npos) {
        return false;
      }
    }
    rest = colon == std::string_view::npos ? std::string_view() : text.substr(colon);
  }
  if (rest.empty()) return true;
  if (rest[0] != ':' || rest.size() > 6) return false;
  return std::all_of(rest.begin() + 1, rest.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool IsRequestTarget(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](char c) { return c > 0x20 && c < 0x7f && c != '#'; });
}

void HeadCollector::Begin(Section section) {
  section_ = section;
  text_.clear();
  line_start_ = 0;
  lines_ = 0;
  skipped_ = 0;
  why_ = {};
}

HeadCollector::State HeadCollector::Bad(std::string_view why) {
  why_ = why;
  return State::kBad;
}

bool HeadCollector::CanBegin(char c) const {
  return section_ == Section::kTrailers || kToken[static_cast<uint8_t>(c)];
}

HeadCollector::State HeadCollector::Feed(std::string_view& input) {
  while (!input.empty()) {
    const size_t lf = input.find('\n');
    const std::string_view piece = input.substr(0, lf == std::string_view::npos ? lf : lf + 1);
    if (text_.size() + piece.size() > max_bytes_) return State::kTooLarge;
    text_.append(piece);
    input.remove_prefix(piece.size());
    if (lf == std::string_view::npos) break;
    const State state = EndOfLine();
    if (state != State::kMore) return state;
  }
  // Refuse what cannot become a head without waiting for its end: TLS, binary, other protocols.
  if (lines_ == 0 && !text_.empty() && text_[0] != '\r' && !CanBegin(text_[0])) {
    return Bad("the first byte cannot begin an HTTP message");
  }
  return State::kMore;
}

HeadCollector::State HeadCollector::EndOfLine() {
  std::string_view line = std::string_view(text_).substr(line_start_);
  if (line.size() < 2 || line[line.size() - 2] != '\r') return Bad("line feed without CR");
  line.remove_suffix(2);
  if (line.empty()) {
    if (section_ == Section::kTrailers || lines_ > 0) return State::kComplete;
    if (section_ == Section::kResponse || ++skipped_ > kMaxLeadingEmptyLines) {
      return Bad("empty line before the message");
    }
    text_.clear();
    return State::kMore;
  }
  if (!IsHeaderValue(line)) return Bad("control character in the head");
  if (lines_ == 0 && !CanBegin(line[0])) {
    return Bad("the first byte cannot begin an HTTP message");
  }
  if (lines_ > 0 || section_ == Section::kTrailers) {
    if (line[0] == ' ' || line[0] == '\t') return Bad("folded header line");
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) return Bad("header line without colon");
    // Also catches a space before the colon.
    if (!IsToken(line.substr(0, colon))) return Bad("header name is not a token");
  }
  ++lines_;
  line_start_ = text_.size();
  return State::kMore;
}

}  // namespace qanat::http
