// SPDX-License-Identifier: Apache-2.0
// What install, verify and uninstall read out of an API server's answers: {"objects": [...],
// "events": [...]}, each object taken for every kind.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "tools/qanatctl/install/health.h"
#include "tools/qanatctl/install/prerequisites.h"
#include "tools/qanatctl/json_util.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qanat::ctl;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const Json input = Json::parse(text, nullptr, false);
  if (input.is_discarded()) return 0;
  const Json& list = Items(input, "events");
  const std::vector<Json> events(list.begin(), list.end());
  for (const Json& object : Items(input, "objects")) {
    if (DeploymentHealth(object).ToString().empty() || DaemonSetHealth(object).ToString().empty()) {
      __builtin_trap();
    }
    // Exactly one of: ready, and a reason why not.
    if (PodReady(object) != PodProblem(object, events).empty()) __builtin_trap();
    (void)WorkloadProblem("ztunnel", events);
    (void)CrdEstablished(object);
    (void)CheckCilium(object);
    (void)CheckCalico(object);
    (void)CheckVersion(object);
  }
  return 0;
}
