// SPDX-License-Identifier: Apache-2.0
// LOCAL_XDS_PATH, and the ProxyConfig beside it: any text is parsed or refused with a message, and
// what is parsed is taken by the mesh state without a policy losing a part.
#include <cstdlib>
#include <string_view>

#include "common/state/decode.h"
#include "common/state/mesh_state.h"
#include "ztunnel/local_config.h"
#include "ztunnel/proxy_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto proxy_config = qanat::ztunnel::ParseProxyConfig(text, text);
  if (!proxy_config && proxy_config.error().message.empty()) std::abort();
  const auto parsed = qanat::ztunnel::ParseLocalConfig(text);
  if (!parsed) {
    if (parsed.error().message.find("line ") == std::string::npos) std::abort();
    return 0;
  }
  qanat::state::MeshState state;
  for (const auto& [name, bytes] : parsed->policies) {
    const auto policy = qanat::state::DecodeAuthorization(bytes);
    // What the file can say the engine understands: else a part would match by accident.
    if (!policy || !policy->problems.empty()) std::abort();
    if (!state.UpsertAuthorization(name, bytes)) std::abort();
  }
  for (const auto& [name, bytes] : parsed->addresses) {
    if (!state.UpsertAddress(name, bytes)) std::abort();
  }
  if (state.Publish() == nullptr) std::abort();
  return 0;
}
