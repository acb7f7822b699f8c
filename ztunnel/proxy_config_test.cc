// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qanat::ztunnel {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(ProxyConfig, Empty) {
  for (const char* text : {"", "\n", "{}", "null", "# nothing"}) {
    const auto config = ParseProxyConfig(text, text);
    ASSERT_TRUE(config.has_value()) << text << config.error().message;
    EXPECT_FALSE(config->discovery_address || config->admin_port || config->concurrency);
  }
  EXPECT_TRUE(ParseProxyConfig("defaultConfig:\n", "concurrency: null\nproxyMetadata:\n"));
}

TEST(ProxyConfig, UnknownFieldsArePassedOver) {
  const auto config = ParseProxyConfig(
      "enableAutoMtls: true\ndefaultConfig:\n  tracing: {zipkin: {address: x}}\n  concurrency: 3\n",
      "holdApplicationUntilProxyStarts: true");
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ(config->concurrency, 3);
}

TEST(ProxyConfig, ErrorsNameTheSourceAndTheLine) {
  const struct {
    const char *mesh, *own, *source, *line;
  } cases[] = {
      {"defaultConfig:\n  statsPort: 70000\n", "", "the mesh file", "line 2"},
      {"defaultConfig: 3\n", "", "the mesh file", "line 1"},
      {"", "a: 1\nproxyAdminPort: 0", "PROXY_CONFIG", "line 2"},
      {"", "concurrency: -1", "PROXY_CONFIG", "line 1"},
      {"", "concurrency: [1]", "PROXY_CONFIG", "line 1"},
      {"", "discoveryAddress: {}", "PROXY_CONFIG", "line 1"},
      {"", "proxyMetadata: x", "PROXY_CONFIG", "line 1"},
      {"", "proxyMetadata:\n  A: 1\n  B: [2]\n", "PROXY_CONFIG", "line 3"},
      {"", "- a list", "PROXY_CONFIG", "line 1"},
      {"a: 1\na: 2\n", "", "the mesh file", "line 2"},
  };
  for (const auto& c : cases) {
    const auto config = ParseProxyConfig(c.mesh, c.own);
    ASSERT_FALSE(config.has_value()) << c.mesh << c.own;
    EXPECT_THAT(config.error().message, AllOf(HasSubstr(c.source), HasSubstr(c.line)));
  }
}

}  // namespace
}  // namespace qanat::ztunnel
