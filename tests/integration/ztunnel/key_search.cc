// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/ztunnel/key_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "common/tls/crypto.h"

namespace qanat::ztunnel::test {
namespace {

constexpr std::string_view kBase64 =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string Hex(std::string_view bytes, bool upper) {
  std::string out;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    out += upper ? fmt::format("{:02X}", byte) : fmt::format("{:02x}", byte);
  }
  return out;
}

// What stands in base64 of anything that holds these bytes at a place that is `before` bytes behind
// a multiple of three: the characters that no neighbour has a part in.
std::string InsideBase64(std::string_view bytes, size_t before) {
  const std::string all = tls::Base64Encode(std::string(before, '\0') + std::string(bytes));
  const size_t first = (before * 8 + 5) / 6, end = (before + bytes.size()) * 8 / 6;
  return all.substr(first, end - first);
}

std::string Url(std::string base64) {
  std::ranges::replace(base64, '+', '-');
  std::ranges::replace(base64, '/', '_');
  return base64;
}

std::string Joined(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size() && text[i + 1] == 'n') {
      ++i;
    } else if (!std::isspace(static_cast<unsigned char>(text[i])) && text[i] != ':') {
      out += text[i];
    }
  }
  return out;
}

// Wherever its first group begins.
void AppendDecoded(std::string_view text, std::string& out) {
  constexpr size_t kShortest = 32;
  for (size_t at = text.find_first_of(kBase64); at != text.npos;) {
    const size_t end = std::min(text.find_first_not_of(kBase64, at), text.size());
    for (size_t skip = 0; end - at >= kShortest && skip < 4; ++skip) {
      const auto decoded = tls::Base64Decode(text.substr(at + skip, (end - at - skip) / 4 * 4));
      if (decoded) out += *decoded + '\n';
    }
    at = text.find_first_of(kBase64, end);
  }
}

}  // namespace

std::string Undressed(std::string_view text) {
  const std::string joined = Joined(text);
  std::string decoded;
  AppendDecoded(text, decoded);
  AppendDecoded(joined, decoded);
  return fmt::format("{}\n{}\n{}\n{}", text, joined, decoded, Joined(decoded));
}

KeySearch::KeySearch(const std::vector<std::string>& scalars) {
  for (const std::string& scalar : scalars) {
    forms_.push_back({"bytes", scalar});
    forms_.push_back({"hex", Hex(scalar, false)});
    forms_.push_back({"hex", Hex(scalar, true)});
    for (size_t before = 0; before < 3; ++before) {
      const std::string base64 = InsideBase64(scalar, before);
      forms_.push_back({"base64", base64});
      if (Url(base64) != base64) forms_.push_back({"base64url", Url(base64)});
    }
  }
}

std::string KeySearch::Find(std::string_view text) const {
  const std::string all = Undressed(text);
  for (const Form& form : forms_) {
    if (all.find(form.bytes) != all.npos) return form.name;
  }
  return all.find("PRIVATE KEY") == all.npos && all.find("PRIVATEKEY") == all.npos ? "" : "PEM";
}

}  // namespace qanat::ztunnel::test
