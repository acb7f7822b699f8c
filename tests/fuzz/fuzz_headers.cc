// SPDX-License-Identifier: Apache-2.0
// The headers of a CONNECT that are read: any bytes, bounded work and bounded values; what we write
// ourselves is read back.
#include <cstdlib>
#include <string>
#include <string_view>

#include "ztunnel/telemetry/headers.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qanat;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const ztunnel::Baggage baggage = ztunnel::ParseBaggage(text);
  for (const std::string* value :
       {&baggage.cluster, &baggage.ns, &baggage.workload, &baggage.workload_type, &baggage.service,
        &baggage.version, &baggage.region, &baggage.zone}) {
    if (value->size() > 256 || value->find(',') != std::string::npos) std::abort();
  }
  if (ztunnel::ForwardedHost(text).size() > 253) std::abort();
  const std::string trace = ztunnel::TraceId(text);
  if (!trace.empty() && trace.size() != 32) std::abort();

  model::Workload workload;
  workload.ns = baggage.ns;
  workload.canonical_name = baggage.service;
  workload.workload_name = baggage.workload;
  const ztunnel::Baggage again = ztunnel::ParseBaggage(ztunnel::MakeBaggage(workload));
  if (again.ns != baggage.ns || again.service != baggage.service ||
      again.workload != baggage.workload) {
    std::abort();
  }
  return 0;
}
