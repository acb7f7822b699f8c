// SPDX-License-Identifier: Apache-2.0
// What a node agent may send to the proxy.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "ztunnel/telemetry/headers.h"
#include "ztunnel/zds/message.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qanat::ztunnel;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto request = zds::DecodeRequest(bytes);
  if (request) {
    const auto* add = std::get_if<zds::Add>(&*request);
    if (add != nullptr && (add->uid.empty() || add->name.empty() || add->ns.empty() ||
                           add->service_account.empty())) {
      std::abort();
    }
  }
  // The headers of a CONNECT come from peers as well.
  ParseBaggage(bytes);
  ForwardedHost(bytes);
  TraceId(bytes);
  return 0;
}
