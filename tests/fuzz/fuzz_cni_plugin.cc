// SPDX-License-Identifier: Apache-2.0
// What a runtime hands to the CNI plugin: the configuration on stdin and CNI_ARGS; also the
// plugin's kubeconfig and cache.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "agent/plugin/invocation.h"
#include "agent/plugin/kubeconfig.h"
#include "agent/pods/kube_pod.h"
#include "agent/pods/membership_cache.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qanat;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t cut = text.find('\0');
  const std::string arguments(text.substr(0, cut == std::string_view::npos ? 0 : cut));
  const std::string_view config = cut == std::string_view::npos ? text : text.substr(cut + 1);
  for (const char* command : {"ADD", "DEL", "CHECK", "VERSION"}) {
    std::string version;
    auto call = plugin::ParseInvocation(
        [&](const char* name) -> std::string {
          const std::string_view n(name);
          return n == "CNI_COMMAND" ? command : n == "CNI_ARGS" ? arguments : "/x";
        },
        config, &version);
    // Whatever comes in, the answer is an answer.
    if (!call && plugin::FormatError(version, call.error()).empty()) std::abort();
    if (call && call->command == plugin::Command::kAdd && call->prev_result.empty()) std::abort();
  }
  (void)plugin::ParseKubeconfigJson(config);
  (void)agent::ParseMembershipCache(config);
  (void)agent::ParseKubePod(config);
  (void)agent::ParseKubeNamespace(config);
  return 0;
}
