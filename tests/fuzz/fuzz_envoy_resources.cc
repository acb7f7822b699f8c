// SPDX-License-Identifier: Apache-2.0
// Bytes of Envoy resources -> the waypoint's configuration, and a request through what came out.
// The first byte chooses the type.
#include <string>
#include <string_view>

#include "waypoint/config/decode.h"
#include "waypoint/config/effective.h"
#include "waypoint/config/store.h"

using namespace qanat::waypoint;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  ConfigStore store({});
  const auto type = static_cast<ConfigStore::Type>(data[0] % 4);
  (void)store.Apply(type, "x", "1", bytes);
  store.BatchEnd(type);
  SnapshotPtr snapshot = store.snapshot();
  (void)snapshot->FindChain("10.96.0.10:80");
  qanat::http::RequestHead request;
  request.method = "GET";
  request.scheme = "http";
  request.path = "/api/items?q=1";
  request.authority = "backend.shop";
  HeadView head(request);
  for (const auto& [name, table] : snapshot->routes) {
    HttpChain chain;
    chain.fault_filter = chain.cors_filter = true;
    Effective effective = Resolve(chain, table.get(), head, 1);
    if (!effective.choice.route) continue;
    const Route& route = *effective.choice.route;
    if (const auto* forward = std::get_if<ForwardAction>(&route.action)) {
      (void)PickCluster(*forward, 12345);
      (void)RewritePath(*forward, route.match.path, request.path);
    } else if (const auto* redirect = std::get_if<RedirectAction>(&route.action)) {
      (void)RedirectLocation(*redirect, route.match.path, head);
    }
  }
  return 0;
}
