// SPDX-License-Identifier: Apache-2.0
#include "common/kube/json_slice.h"

namespace qanat::kube {
namespace {

constexpr size_t kBroken = std::string_view::npos;
// What is walked here without recursion, so deeper than any parser goes: an object that is too deep
// for its reader must not make the whole list unreadable.
constexpr size_t kMaxDepth = 100'000;

bool Space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool Literal(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
         c == '+' || c == '.';
}

size_t SkipSpace(std::string_view text, size_t at) {
  while (at < text.size() && Space(text[at])) ++at;
  return at;
}

// `at` is the opening quote; returns what follows the closing one.
size_t SkipString(std::string_view text, size_t at) {
  ++at;
  while (at < text.size()) {
    at = text.find_first_of("\"\\", at);
    if (at == kBroken) return kBroken;
    if (text[at] == '"') return at + 1;
    at += 2;  // whatever is escaped
  }
  return kBroken;
}

// The end of the value that begins at `at`.
size_t SkipValue(std::string_view text, size_t at) {
  std::string closers;  // of the collections that are open
  do {
    at = SkipSpace(text, at);
    if (at >= text.size()) return kBroken;
    const char c = text[at];
    if (c == '"') {
      at = SkipString(text, at);
      if (at == kBroken) return kBroken;
    } else if (c == '{' || c == '[') {
      if (closers.size() >= kMaxDepth) return kBroken;
      closers.push_back(c == '{' ? '}' : ']');
      ++at;
    } else if (c == '}' || c == ']') {
      if (closers.empty() || closers.back() != c) return kBroken;
      closers.pop_back();
      ++at;
    } else if (c == ',' || c == ':') {
      if (closers.empty()) return kBroken;
      ++at;
    } else if (Literal(c)) {
      while (at < text.size() && Literal(text[at])) ++at;
    } else {
      return kBroken;
    }
  } while (!closers.empty());
  return at;
}

void AppendUtf8(uint32_t code, std::string& out) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out.push_back(static_cast<char>(0xC0 | code >> 6));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else if (code < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | code >> 12));
    out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else {
    out.push_back(static_cast<char>(0xF0 | code >> 18));
    out.push_back(static_cast<char>(0x80 | (code >> 12 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  }
}

bool ReadHex(std::string_view text, size_t at, uint32_t& code) {
  if (at + 4 > text.size()) return false;
  code = 0;
  for (const char c : text.substr(at, 4)) {
    code <<= 4;
    if (c >= '0' && c <= '9') {
      code |= static_cast<uint32_t>(c - '0');
    } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
      code |= static_cast<uint32_t>((c | 0x20) - 'a' + 10);
    } else {
      return false;
    }
  }
  return true;
}

// `at` is what follows "\u"; moves past the digits, of a surrogate pair past both halves.
bool DecodeUnicode(std::string_view text, size_t& at, std::string& out) {
  uint32_t code = 0;
  if (!ReadHex(text, at, code)) return false;
  at += 4;
  if (code >= 0xD800 && code < 0xDC00) {
    uint32_t low = 0;
    if (text.substr(at, 2) != "\\u" || !ReadHex(text, at + 2, low) || low < 0xDC00 ||
        low > 0xDFFF) {
      return false;
    }
    at += 6;
    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
  } else if (code >= 0xDC00 && code < 0xE000) {
    return false;
  }
  AppendUtf8(code, out);
  return true;
}

}  // namespace

bool ForEachMember(std::string_view text,
                   const std::function<bool(std::string_view, std::string_view)>& each) {
  size_t at = SkipSpace(text, 0);
  if (at >= text.size() || text[at] != '{') return false;
  at = SkipSpace(text, at + 1);
  if (at < text.size() && text[at] == '}') return true;
  while (at < text.size() && text[at] == '"') {
    const size_t key_end = SkipString(text, at);
    if (key_end == kBroken) return false;
    const std::string_view key = text.substr(at + 1, key_end - at - 2);
    at = SkipSpace(text, key_end);
    if (at >= text.size() || text[at] != ':') return false;
    const size_t begin = SkipSpace(text, at + 1);
    const size_t end = SkipValue(text, begin);
    if (end == kBroken) return false;
    if (!each(key, text.substr(begin, end - begin))) return true;
    at = SkipSpace(text, end);
    if (at < text.size() && text[at] == '}') return true;
    if (at >= text.size() || text[at] != ',') return false;
    at = SkipSpace(text, at + 1);
  }
  return false;
}

bool ForEachItem(std::string_view text, const std::function<bool(std::string_view)>& each) {
  size_t at = SkipSpace(text, 0);
  if (text.substr(at) == "null") return true;
  if (at >= text.size() || text[at] != '[') return false;
  at = SkipSpace(text, at + 1);
  if (at < text.size() && text[at] == ']') return true;
  while (at < text.size()) {
    const size_t end = SkipValue(text, at);
    if (end == kBroken) return false;
    if (!each(text.substr(at, end - at))) return true;
    at = SkipSpace(text, end);
    if (at < text.size() && text[at] == ']') return true;
    if (at >= text.size() || text[at] != ',') return false;
    at = SkipSpace(text, at + 1);
  }
  return false;
}

std::string_view FindMember(std::string_view object, std::string_view wanted) {
  std::string_view found;
  ForEachMember(object, [&](std::string_view key, std::string_view value) {
    if (key != wanted) return true;
    found = value;
    return false;
  });
  return found;
}

std::optional<std::string> DecodeString(std::string_view value) {
  if (value.size() < 2 || value.front() != '"' || value.back() != '"') return std::nullopt;
  const std::string_view text = value.substr(1, value.size() - 2);
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    if (text[at] == '"') return std::nullopt;
    if (text[at] != '\\') {
      out.push_back(text[at++]);
      continue;
    }
    if (at + 1 >= text.size()) return std::nullopt;
    const char c = text[at + 1];
    at += 2;
    switch (c) {
      case '"':
      case '\\':
      case '/': out.push_back(c); break;
      case 'b': out.push_back('\b'); break;
      case 'f': out.push_back('\f'); break;
      case 'n': out.push_back('\n'); break;
      case 'r': out.push_back('\r'); break;
      case 't': out.push_back('\t'); break;
      case 'u':
        if (!DecodeUnicode(text, at, out)) return std::nullopt;
        break;
      default: return std::nullopt;
    }
  }
  return out;
}

std::string StringMember(std::string_view object, std::string_view key) {
  return DecodeString(FindMember(object, key)).value_or("");
}

bool ReadMeta(std::string_view object, ObjectMeta& meta) {
  std::string_view metadata;
  const bool whole = ForEachMember(object, [&](std::string_view key, std::string_view value) {
    if (key == "metadata") metadata = value;
    if (key == "kind") meta.has_kind = true;
    return true;
  });
  if (!whole || metadata.empty()) return false;
  bool ok = true;
  const auto take = [&](std::string_view value, std::string& into) {
    auto text = DecodeString(value);
    ok = ok && text.has_value();
    if (text) into = std::move(*text);
  };
  const bool read = ForEachMember(metadata, [&](std::string_view key, std::string_view value) {
    if (key == "name") take(value, meta.name);
    if (key == "namespace") take(value, meta.ns);
    if (key == "uid") take(value, meta.uid);
    if (key == "resourceVersion") take(value, meta.resource_version);
    if (key == "continue") take(value, meta.continue_token);
    return true;
  });
  return read && ok;
}

}  // namespace qanat::kube
