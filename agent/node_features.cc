// SPDX-License-Identifier: Apache-2.0
#include "agent/node_features.h"

#include <cstdio>
#include <nlohmann/json.hpp>

namespace qanat::agent {

nlohmann::json FeaturesJson(const std::vector<bpf::Feature>& features) {
  nlohmann::json json = nlohmann::json::object();
  for (const auto& feature : features)
    json[feature.name] = {{"present", feature.present},
                          {"required", feature.required},
                          {"forbidden", feature.forbidden},
                          {"why", feature.why},
                          {"instead", feature.instead}};
  return json;
}

int PrintFeatures() {
  const auto features = bpf::ProbeFeatures();
  const std::string kernel = bpf::KernelRelease();
  const Status fit = bpf::CheckRequired(features, kernel);
  const nlohmann::json json = {{"kernel", kernel},
                               {"features", FeaturesJson(features)},
                               {"refused", fit ? "" : fit.error().message}};
  std::printf("%s\n", json.dump(2).c_str());
  return fit ? 0 : 1;
}

}  // namespace qanat::agent
