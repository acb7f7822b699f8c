// SPDX-License-Identifier: Apache-2.0
#include "common/kube/config.h"

#include <unistd.h>

#include <cstdlib>

#include "common/kube/files.h"

namespace qanat::kube {
namespace {

constexpr char kServiceAccount[] = "/var/run/secrets/kubernetes.io/serviceaccount";

std::string Getenv(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): read at the start
  return value == nullptr ? "" : value;
}

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

// $KUBECONFIG is a list; its files are not merged here: the first that exists is taken.
std::string DefaultKubeconfig() {
  std::string list = Getenv("KUBECONFIG");
  std::string first;
  while (!list.empty()) {
    const size_t colon = list.find(':');
    const std::string one = list.substr(0, colon);
    list = colon == std::string::npos ? "" : list.substr(colon + 1);
    if (one.empty()) continue;
    if (access(one.c_str(), F_OK) == 0) return one;
    if (first.empty()) first = one;
  }
  if (!first.empty()) return first;  // so that the error names it
  const std::string home = Getenv("HOME");
  return home.empty() ? "" : home + "/.kube/config";
}

}  // namespace

Result<ClientConfig> InClusterFrom(const Environment& environment, const std::string& folder) {
  const std::string host = environment("KUBERNETES_SERVICE_HOST");
  const std::string port = environment("KUBERNETES_SERVICE_PORT");
  if (host.empty() || port.empty()) {
    return Fail(
        Code::kFailedPrecondition,
        "not in a pod of a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are "
        "not set; outside of one, name a kubeconfig (--kubeconfig FILE)");
  }
  ClientConfig out;
  const bool v6 = host.find(':') != std::string::npos;
  out.server = "https://" + (v6 ? "[" + host + "]" : host) + ":" + port;
  out.origin = "in-cluster credentials, " + folder;
  out.token_file = folder + "/token";
  out.ca_file = folder + "/ca.crt";
  for (const std::string& file : {out.token_file, out.ca_file}) {
    auto text = ReadFile(file);
    if (!text) {
      return Fail(Code::kFailedPrecondition,
                  "the service account's credentials cannot be read: " + text.error().message +
                      "; set automountServiceAccountToken: true in the pod or its service account");
    }
  }
  if (auto ns = ReadFile(folder + "/namespace")) {
    if (std::string name = Trim(std::move(*ns)); !name.empty()) out.default_namespace = name;
  }
  return out;
}

Result<ClientConfig> ClientConfig::InCluster() { return InClusterFrom(Getenv, kServiceAccount); }

Result<ClientConfig> ClientConfig::FromKubeconfig(const std::string& path,
                                                  std::string_view context) {
  const std::string file = path.empty() ? DefaultKubeconfig() : path;
  if (file.empty()) {
    return Fail(Code::kNotFound,
                "no kubeconfig: neither --kubeconfig, $KUBECONFIG nor $HOME is set");
  }
  auto text = ReadFile(file, 16 << 20);
  if (!text) {
    return Fail(text.error().code,
                "kubeconfig " + text.error().message +
                    "; name one with --kubeconfig FILE or in the environment variable KUBECONFIG");
  }
  auto out = ParseKubeconfig(*text, FolderOf(file), context);
  if (!out) return Fail(out.error().Annotate("kubeconfig " + file));
  out->origin = "kubeconfig " + file + ", " + out->origin;
  return out;
}

Result<ClientConfig> ClientConfig::Load(const std::string& kubeconfig, std::string_view context) {
  if (!kubeconfig.empty()) return FromKubeconfig(kubeconfig, context);
  if (context.empty() && !Getenv("KUBERNETES_SERVICE_HOST").empty() &&
      Getenv("KUBECONFIG").empty()) {
    return InCluster();
  }
  return FromKubeconfig({}, context);
}

}  // namespace qanat::kube
