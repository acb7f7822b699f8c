// SPDX-License-Identifier: Apache-2.0
// Where the Kubernetes API server is and how a program proves to it who it is: from inside a pod or
// from a kubeconfig. A plain value; loading reads files and blocks, so it belongs into main().
// Thread: any.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace qanat::kube {

struct ClientConfig {
  std::string server;  // "https://10.96.0.1:443", "http://127.0.0.1:8001"; a path prefix may follow
  // Whom to believe. The file, when named, is read again for every connection.
  std::string ca_pem;
  std::string ca_file;
  // The name expected in the server's certificate and sent as SNI; "" = the host of `server`.
  std::string tls_server_name;
  // The proof: a token, a file that holds one (read again when it changes) or a certificate.
  std::string token;
  std::string token_file;
  std::string client_certificate_pem;
  std::string client_key_pem;

  std::string default_namespace = "default";  // of the context, or the pod's own
  std::string user_agent;                     // "" = qanat/<version>
  std::string origin;                         // for messages: "in-cluster", "kubeconfig FILE, ..."

  // For a pod: KUBERNETES_SERVICE_HOST and _PORT, and the service account's folder. The error says
  // what is missing: outside a pod it is kFailedPrecondition.
  static Result<ClientConfig> InCluster();
  // `path` "" = $KUBECONFIG (its first existing file), else ~/.kube/config. `context` "" = the
  // current one. Refused with a remedy: exec plugins, auth providers, insecure-skip-tls-verify.
  static Result<ClientConfig> FromKubeconfig(const std::string& path,
                                             std::string_view context = {});
  // What a program with a --kubeconfig flag wants: the file when named, else the pod's, else the
  // user's kubeconfig.
  static Result<ClientConfig> Load(const std::string& kubeconfig, std::string_view context = {});
};

// The parts behind them, for tests and fuzzers. `base_folder` is what relative paths refer to.
Result<ClientConfig> ParseKubeconfig(std::string_view yaml, const std::string& base_folder,
                                     std::string_view context);
using Environment = std::function<std::string(const char* name)>;  // "" when not set
Result<ClientConfig> InClusterFrom(const Environment& environment, const std::string& folder);

}  // namespace qanat::kube
