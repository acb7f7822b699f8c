// SPDX-License-Identifier: Apache-2.0
#include "common/kube/files.h"

#include <charconv>

namespace qanat::kube {
namespace {
constexpr std::chrono::seconds kTokenAge{10};
}

std::string Trim(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

Result<std::string> TokenSource::Get(event::TimePoint now) {
  if (config_.token_file.empty()) return config_.token;
  if (!cached_.empty() && now - read_at_ < kTokenAge) return cached_;
  auto text = ReadFile(config_.token_file);
  if (!text) {
    // A token in hand may well be good still: the server has the last word.
    if (!cached_.empty()) return cached_;
    return Fail(Code::kUnauthenticated,
                "cannot read the token: " + text.error().message + " (" + config_.origin +
                    "); in a pod: is automountServiceAccountToken off, or the volume missing?");
  }
  cached_ = Trim(*text);
  read_at_ = now;
  if (cached_.find_first_of("\r\n \t") != std::string::npos || cached_.empty()) {
    cached_.clear();
    return Fail(Code::kUnauthenticated, "the token file " + config_.token_file +
                                            " is empty or holds more than one word (" +
                                            config_.origin + ")");
  }
  return cached_;
}

bool TokenSource::Refresh(event::TimePoint now) {
  if (config_.token_file.empty()) return false;
  const std::string before = cached_;
  read_at_ = {};
  auto text = ReadFile(config_.token_file);
  if (!text) return false;
  const std::string fresh = Trim(*text);
  if (fresh.empty() || fresh == before) return false;
  cached_.clear();
  return Get(now).has_value();
}

Result<ServerUrl> ParseServerUrl(const std::string& server) {
  const auto bad = [&](const std::string& why) {
    return Fail(Code::kInvalidArgument,
                "the API server's address \"" + server + "\" " + why +
                    "; expected is https://HOST:PORT, optionally with a path");
  };
  ServerUrl out;
  std::string_view rest = server;
  if (rest.starts_with("https://")) {
    rest.remove_prefix(8);
  } else if (rest.starts_with("http://")) {
    rest.remove_prefix(7);
    out.tls = false;
  } else {
    return bad("has no https:// or http://");
  }
  std::string_view authority = rest.substr(0, rest.find('/'));
  std::string_view prefix = rest.substr(authority.size());
  while (prefix.ends_with('/')) prefix.remove_suffix(1);
  if (prefix.find_first_of("?# \t\r\n") != std::string_view::npos) return bad("has a query");
  out.prefix = prefix;
  std::string_view port;
  if (authority.starts_with('[')) {
    const size_t end = authority.find(']');
    if (end == std::string_view::npos) return bad("has an unclosed bracket");
    out.host = authority.substr(1, end - 1);
    authority.remove_prefix(end + 1);
    if (!authority.empty() && authority[0] != ':') return bad("is malformed");
    if (!authority.empty()) port = authority.substr(1);
  } else {
    const size_t colon = authority.find(':');
    out.host = authority.substr(0, colon);
    if (colon != std::string_view::npos) port = authority.substr(colon + 1);
  }
  if (out.host.empty() || out.host.find_first_of("@ \t\r\n%") != std::string::npos) {
    return bad("has no usable host");
  }
  out.port = out.tls ? 443 : 80;
  if (!port.empty()) {
    const auto read = std::from_chars(port.data(), port.data() + port.size(), out.port);
    if (read.ec != std::errc() || read.ptr != port.data() + port.size() || out.port == 0) {
      return bad("has a malformed port");
    }
  }
  const bool v6 = out.host.find(':') != std::string::npos;
  out.authority = (v6 ? "[" + out.host + "]" : out.host) + ":" + std::to_string(out.port);
  return out;
}

}  // namespace qanat::kube
