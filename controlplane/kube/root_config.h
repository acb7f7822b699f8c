// SPDX-License-Identifier: Apache-2.0
// The mesh's root certificate in a ConfigMap of every namespace, where proxies mount it. One that
// another mesh has put there is left alone and reported. Pure.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "controlplane/kube/writer.h"
#include "controlplane/model/world.h"
#include "controlplane/source/issue.h"

namespace qanat::controlplane {

inline constexpr std::string_view kRootConfigMap = "istio-ca-root-cert";  // stock's name and key
inline constexpr std::string_view kRootKey = "root-cert.pem";

// What the API server has in one namespace.
struct RootConfig {
  bool ours = false;  // it carries our label
  std::string root;
  std::string version;
};
RootConfig ParseRootConfig(std::string_view json);

// `there` is by namespace.
Writes RootConfigWrites(const World& world, const std::map<std::string, RootConfig>& there,
                        const std::string& root_pem, std::vector<Issue>& issues);

}  // namespace qanat::controlplane
