// SPDX-License-Identifier: Apache-2.0
// The plugin's way to the API server as a kubeconfig in JSON (which kubectl reads too): written by
// the agent, read by the plugin without a YAML parser. Pure.
#pragma once

#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/kube/config.h"

namespace qanat::plugin {

struct KubeconfigContent {
  std::string server;
  std::string ca_pem;
  std::string tls_server_name;
  std::string token;
  std::string client_certificate_pem, client_key_pem;  // where there is no token
};
std::string FormatKubeconfigJson(const KubeconfigContent& content);
Result<kube::ClientConfig> ParseKubeconfigJson(std::string_view text);

}  // namespace qanat::plugin
