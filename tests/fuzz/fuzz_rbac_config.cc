// SPDX-License-Identifier: Apache-2.0
// Bytes of an RBAC filter -> conditions; then both ways to the verdict must agree, and a policy
// that was not understood must not be what lets a request in.
#include <cstdlib>
#include <string_view>

#include "waypoint/config/decode.h"

using namespace qanat::waypoint;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto decoded = DecodeRbacFilter({reinterpret_cast<const char*>(data), size});
  if (!decoded) return 0;
  qanat::http::RequestHead request;
  request.method = "GET";
  request.path = "/api/items?q=1";
  request.authority = "backend.shop";
  request.headers.Add("x-a", "1");
  HeadView head(request);
  for (bool http : {true, false}) {
    for (std::string_view identity : {"", "spiffe://cluster.local/ns/shop/sa/frontend"}) {
      AuthzInput input;
      input.identity = identity;
      input.source_ip = *qanat::net::IpAddress::Parse("10.1.2.3");
      input.destination = *qanat::net::SocketAddress::Parse("10.96.0.7:80");
      input.head = http ? &head : nullptr;
      AuthzDecision a = Evaluate({decoded->value.get()}, input);
      AuthzDecision b = Explain({decoded->value.get()}, input).decision;
      if (a.allowed != b.allowed || a.reason != b.reason || a.policy != b.policy) std::abort();
    }
  }
  return 0;
}
