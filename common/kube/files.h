// SPDX-License-Identifier: Apache-2.0
// Private to common/kube: files that hold credentials, and a token that is read again when its file
// changes (the kubelet replaces it before it expires). Thread: the client's.
#pragma once

#include <string>

#include "common/base/read_file.h"
#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/kube/config.h"

namespace qanat::kube {

std::string Trim(const std::string& text);

class TokenSource {
 public:
  explicit TokenSource(const ClientConfig& config) : config_(config) {}
  // "" when the configuration has no token. The file is looked at again after some seconds.
  Result<std::string> Get(event::TimePoint now);
  // Reads the file now; true when there is another token in it than the one last handed out.
  bool Refresh(event::TimePoint now);

 private:
  const ClientConfig& config_;
  std::string cached_;
  event::TimePoint read_at_{};
};

// The parts of ClientConfig::server.
struct ServerUrl {
  bool tls = true;
  std::string host;  // without brackets
  uint16_t port = 0;
  std::string authority;  // "host:port"
  std::string prefix;     // "" or "/k8s/clusters/x"
};
Result<ServerUrl> ParseServerUrl(const std::string& server);

}  // namespace qanat::kube
