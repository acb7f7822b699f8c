// SPDX-License-Identifier: Apache-2.0
// What a proxy may ask the control plane: resources and certificates (the first byte chooses), and
// the id by which it calls itself. What is read of an id is what stands in it.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "controlplane/ads/codec.h"

using namespace qanat::controlplane;  // NOLINT: a fuzzer of this one namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  if (data[0] % 2 == 1) {
    const auto request = DecodeCertificateRequest(bytes);
    if (request && request->csr.size() + request->impersonated.size() > bytes.size()) std::abort();
    return 0;
  }
  const auto request = DecodeDeltaRequest(bytes);
  if (!request || !request->node) return 0;
  if (const auto id = ParseNodeId(request->node->id)) {
    const std::string start = id->type + "~" + id->ip + "~" + id->pod + "." + id->ns + "~";
    if (!request->node->id.starts_with(start) || id->pod.empty() || id->ns.empty()) std::abort();
  }
  return 0;
}
