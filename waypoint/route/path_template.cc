// SPDX-License-Identifier: Apache-2.0
#include "waypoint/route/path_template.h"

#include <vector>

namespace qanat::waypoint {
namespace {

std::vector<std::string_view> Segments(std::string_view path) {
  std::vector<std::string_view> out;
  if (path.starts_with('/')) path.remove_prefix(1);
  while (true) {
    size_t slash = path.find('/');
    out.push_back(path.substr(0, slash));
    if (slash == std::string_view::npos) return out;
    path.remove_prefix(slash + 1);
  }
}

enum class Wild { kNone, kOne, kMany };

Wild WildOf(std::string_view segment) {
  if (segment == "*" || segment == "**") return segment == "*" ? Wild::kOne : Wild::kMany;
  if (segment.size() < 3 || segment.front() != '{' || segment.back() != '}') return Wild::kNone;
  std::string_view inside = segment.substr(1, segment.size() - 2);
  if (size_t eq = inside.find('='); eq != std::string_view::npos) inside.remove_prefix(eq + 1);
  return inside == "**" ? Wild::kMany : Wild::kOne;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool IsUnreserved(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '.' || c == '_' || c == '~';
}

}  // namespace

bool MatchesPathTemplate(std::string_view path_template, std::string_view path) {
  const std::vector<std::string_view> want = Segments(path_template);
  const std::vector<std::string_view> have = Segments(path);
  // Greedy with one point of return, like a glob: {**} may be followed by more segments.
  size_t w = 0, h = 0;
  size_t star = std::string_view::npos, resume = 0;
  while (h < have.size()) {
    Wild wild = w < want.size() ? WildOf(want[w]) : Wild::kNone;
    if (wild == Wild::kMany) {
      star = w++;
      resume = h;
    } else if (w < want.size() && (wild == Wild::kOne ? !have[h].empty() : want[w] == have[h])) {
      ++w;
      ++h;
    } else if (star != std::string_view::npos) {
      w = star + 1;
      h = ++resume;
    } else {
      return false;
    }
  }
  while (w < want.size() && WildOf(want[w]) == Wild::kMany) ++w;
  return w == want.size();
}

std::optional<std::string> NormalizePath(const PathNormalization& how, std::string_view path) {
  if (size_t hash = path.find('#'); hash != std::string_view::npos) path = path.substr(0, hash);
  if (path == "*") return std::string(path);
  size_t mark = path.find('?');
  std::string_view query = mark == std::string_view::npos ? std::string_view() : path.substr(mark);
  std::string_view only = path.substr(0, mark);
  if (only.empty() || (only[0] != '/' && !(how.dot_segments && only[0] == '\\'))) {
    return std::nullopt;
  }

  std::string plain;
  plain.reserve(only.size());
  for (size_t i = 0; i < only.size(); ++i) {
    char c = only[i];
    if (c == '\0') return std::nullopt;
    if (c == '%' && i + 2 < only.size() && HexDigit(only[i + 1]) >= 0 &&
        HexDigit(only[i + 2]) >= 0) {
      char decoded = static_cast<char>(HexDigit(only[i + 1]) * 16 + HexDigit(only[i + 2]));
      if (decoded == '/' || decoded == '\\') {
        using Escaped = PathNormalization::EscapedSlashes;
        if (how.escaped_slashes == Escaped::kReject) return std::nullopt;
        if (how.escaped_slashes == Escaped::kUnescapeAndForward) {
          plain.push_back(decoded == '\\' && how.dot_segments ? '/' : decoded);
          i += 2;
          continue;
        }
      } else if (how.dot_segments) {
        if (decoded == '\0') return std::nullopt;
        // RFC 3986 6.2.2.2: an escaped unreserved character is the same as the plain one.
        if (IsUnreserved(decoded)) {
          plain.push_back(decoded);
          i += 2;
          continue;
        }
      }
    }
    plain.push_back(c == '\\' && how.dot_segments ? '/' : c);
  }

  std::string merged;
  if (how.merge_slashes) {
    for (char c : plain) {
      if (c != '/' || merged.empty() || merged.back() != '/') merged.push_back(c);
    }
  } else {
    merged = std::move(plain);
  }
  if (!how.dot_segments) return merged.append(query);

  std::string out;
  std::string_view rest = merged;
  while (!rest.empty()) {
    // `rest` starts with '/'.
    size_t next = rest.find('/', 1);
    std::string_view segment = rest.substr(0, next);  // "/segment"
    bool last = next == std::string_view::npos;
    rest = last ? std::string_view() : rest.substr(next);
    if (segment == "/.") {
      if (last) out.push_back('/');
    } else if (segment == "/..") {
      size_t slash = out.rfind('/');
      out.erase(slash == std::string::npos ? 0 : slash);
      if (last) out.push_back('/');
    } else {
      out.append(segment);
    }
  }
  if (out.empty()) out = "/";
  return out.append(query);
}

}  // namespace qanat::waypoint
