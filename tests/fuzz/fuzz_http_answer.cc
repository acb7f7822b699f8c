// SPDX-License-Identifier: Apache-2.0
// What qanatctl reads from admin ports and from probed applications: HTTP answers and metrics text.
// An answer that is complete must stay the same when more bytes follow.
#include <cstdint>
#include <string>
#include <string_view>

#include "tools/qanatctl/http_call.h"
#include "tools/qanatctl/inspect/metrics.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto open = qanat::ctl::ParseHttpResponse(text, false);
  (void)qanat::ctl::ParseHttpResponse(text, true);
  if (open && *open) {
    auto more = qanat::ctl::ParseHttpResponse(std::string(text) + "x", false);
    if (!more || !*more || (*more)->body != (*open)->body) __builtin_trap();
  }
  (void)qanat::ctl::ParseMetrics(text);
  return 0;
}
