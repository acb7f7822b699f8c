// SPDX-License-Identifier: Apache-2.0
// Bytes of an istio.security.Authorization: decode and evaluate. Evaluate and Explain must agree,
// and a policy with a part that is not understood must never allow what it would not allow without
// that part's help: an ALLOW that is not understood as a whole allows nothing.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "common/policy/policy.h"
#include "common/state/decode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qanat;
  auto decoded =
      state::DecodeAuthorization(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!decoded) return 0;
  const auto policy = std::make_shared<const model::Policy>(std::move(*decoded));
  const policy::PolicySet set{{policy}, {}};
  policy::Request request;
  request.source_ip = *net::IpAddress::Parse("10.91.1.5");
  request.destination_ip = *net::IpAddress::Parse("10.91.2.7");
  request.destination_port = 8080;
  for (const bool known : {true, false}) {
    request.source.reset();
    if (known) request.source = model::Identity{"cluster.local", "shop", "frontend"};
    const auto decision = policy::Evaluate(set, request);
    const auto explanation = policy::Explain(set, request);
    if (decision.allowed != explanation.decision.allowed ||
        decision.reason != explanation.decision.reason) {
      std::abort();
    }
    if (policy->not_understood && !policy->dry_run && decision.allowed) std::abort();
  }
  return 0;
}
