// SPDX-License-Identifier: Apache-2.0
// A waypoint in process with one service, for the tests of HTTP through it.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/integration/waypoint/bed.h"

namespace qanat::waypoint::test {

inline std::string AllowAll() { return RbacOverrides("", "", false); }

inline std::string RouteTo(const std::string& cluster, const std::string& more = "",
                           const std::string& match = "prefix: \"/\"") {
  return "routes { name: \"to-" + cluster + "\" match { " + match + " } route { cluster: \"" +
         cluster + "\" timeout { } " + more + " } } ";
}

constexpr const char* kHttp2Upstream =
    "typed_extension_protocol_options { key: "
    "\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\" "
    "value { [type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions] { "
    "explicit_http_config { http2_protocol_options { } } } } }";
constexpr const char* kLikeDownstream =
    "typed_extension_protocol_options { key: "
    "\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\" "
    "value { [type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions] { "
    "use_downstream_protocol_config { http_protocol_options { } http2_protocol_options { } } } } }";

constexpr const char* kVip = "10.96.0.10:80";

class WaypointHttp : public ::testing::Test {
 protected:
  void Configure(std::string virtual_host, std::vector<TestCluster> clusters,
                 std::string hcm = "") {
    Resources r;
    TestService s;
    s.virtual_host = std::move(virtual_host);
    s.hcm = std::move(hcm);
    r.services = {s};
    r.clusters = std::move(clusters);
    auto errors = bed.Push(r);
    EXPECT_TRUE(errors.empty()) << errors.begin()->first << ": " << errors.begin()->second;
  }
  Bed bed;
};

}  // namespace qanat::waypoint::test
