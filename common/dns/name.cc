// SPDX-License-Identifier: Apache-2.0
#include "common/dns/name.h"

namespace qanat::dns {
namespace {

// Length bytes are below 64 and so never letters: a whole wire name may be folded byte by byte.
char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

// Servers write one, rarely two; a chain of thousands is written to keep its reader busy.
constexpr int kMaxPointers = 16;

}  // namespace

bool ReadName(Bytes message, size_t& at, std::string* out) {
  if (out != nullptr) out->clear();
  size_t length = 0;    // of the uncompressed name
  size_t here = at;     // where labels are read
  size_t before = at;   // a pointer must lead to before this: so it cannot go round
  bool jumped = false;  // `at` is final
  int pointers = 0;
  for (;;) {
    if (here >= message.size()) return false;
    const uint8_t first = message[here];
    if ((first & 0xc0) == 0xc0) {
      if (here + 1 >= message.size()) return false;
      const size_t target = (static_cast<size_t>(first & 0x3f) << 8) | message[here + 1];
      if (target >= before || ++pointers > kMaxPointers) return false;
      if (!jumped) at = here + 2;
      jumped = true;
      here = before = target;
      continue;
    }
    if ((first & 0xc0) != 0) return false;  // extended label types are of the past (RFC 6891 §5)
    const size_t size = 1 + static_cast<size_t>(first);
    length += size;
    if (length > kMaxName || here + size > message.size()) return false;
    if (out != nullptr) {
      out->append(reinterpret_cast<const char*>(message.data()) + here, size);
    }
    here += size;
    if (first == 0) break;
  }
  if (!jumped) at = here;
  return true;
}

std::optional<std::string> HostOf(std::string_view wire) {
  std::string out;
  out.reserve(wire.size());
  size_t at = 0;
  while (at < wire.size() && wire[at] != 0) {
    const size_t size = static_cast<uint8_t>(wire[at]);
    if (size > kMaxLabel || at + 1 + size > wire.size()) return std::nullopt;
    if (!out.empty()) out.push_back('.');
    for (const char c : wire.substr(at + 1, size)) {
      if (c <= ' ' || c > '~' || c == '.' || c == '\\' || c == '/') return std::nullopt;
      out.push_back(Lower(c));
    }
    at += 1 + size;
  }
  return out;
}

std::optional<std::string> WireOf(std::string_view host) {
  if (host.ends_with('.')) host.remove_suffix(1);
  std::string out;
  out.reserve(host.size() + 2);
  while (!host.empty()) {
    const size_t dot = host.find('.');
    const std::string_view label = host.substr(0, dot);
    if (label.empty() || label.size() > kMaxLabel) return std::nullopt;
    out.push_back(static_cast<char>(label.size()));
    out.append(label);
    if (dot == std::string_view::npos) break;
    host.remove_prefix(dot + 1);
    if (host.empty()) return std::nullopt;  // two dots at the end
  }
  out.push_back('\0');
  if (out.size() > kMaxName) return std::nullopt;
  return out;
}

bool SameName(std::string_view wire, std::string_view other) {
  if (wire.size() != other.size()) return false;
  for (size_t i = 0; i < wire.size(); ++i) {
    if (Lower(wire[i]) != Lower(other[i])) return false;
  }
  return true;
}

}  // namespace qanat::dns
