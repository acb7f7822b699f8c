// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/config.h"

#include <gtest/gtest.h>

#include <map>

namespace qanat::ztunnel {
namespace {

Result<Config> From(const std::map<std::string, std::string>& environment, unsigned cores = 8) {
  return ConfigFromEnvironment(
      [&](const char* name) -> const char* {
        const auto it = environment.find(name);
        return it == environment.end() ? nullptr : it->second.c_str();
      },
      cores);
}

TEST(Config, Defaults) {
  const auto config = From({});
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ(config->packet_mark, 0x539u);
  EXPECT_EQ(config->control_plane.xds_address, "https://istiod.istio-system.svc:15012");
  EXPECT_EQ(config->termination_deadline, std::chrono::seconds(5));
  EXPECT_TRUE(config->ipv6);
  EXPECT_EQ(config->workers, 2u);
}

TEST(Config, Values) {
  const auto config = From({{"XDS_ADDRESS", "10.90.0.254:15012"},
                            {"CA_ADDRESS", "http://localhost:1"},
                            {"SECRET_TTL", "90m"},
                            {"IPV6_ENABLED", "false"},
                            {"ENABLE_ORIG_SRC", "true"},
                            {"TERMINATION_GRACE_PERIOD_SECONDS", "30"},
                            {"LOG_FORMAT", "json"},
                            {"CLUSTER_ID", "a"},
                            {"ISTIO_META_CLUSTER_ID", "b"},
                            {"SOMETHING_ELSE", "is harmless"}});
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(config->control_plane.xds_address, "https://10.90.0.254:15012");
  EXPECT_EQ(config->control_plane.ca_address, "http://localhost:1");
  EXPECT_EQ(config->secret_ttl, std::chrono::seconds(5400));
  EXPECT_EQ(config->metrics_address, "0.0.0.0:15020");
  EXPECT_EQ(config->orig_src, true);
  EXPECT_EQ(config->termination_deadline, std::chrono::seconds(25));
  EXPECT_TRUE(config->log_json);
  EXPECT_EQ(config->control_plane.cluster_id, "b");
}

TEST(Config, Workers) {
  EXPECT_EQ(From({{"ZTUNNEL_WORKER_THREADS", "3"}})->workers, 3u);
  EXPECT_EQ(From({{"ZTUNNEL_WORKER_THREADS", "50%"}})->workers, 4u);
  EXPECT_EQ(From({{"ZTUNNEL_WORKER_THREADS", "0"}})->workers, 8u);
  EXPECT_EQ(From({{"ZTUNNEL_WORKER_THREADS", "auto"}}, 1)->workers, 2u);
  EXPECT_EQ(From({}, 64)->workers, 16u);
  EXPECT_FALSE(From({{"ZTUNNEL_WORKER_THREADS", "many"}}).has_value());
}

TEST(Config, BadValuesNameTheVariable) {
  for (const auto& [name, value] :
       std::map<std::string, std::string>{{"IPV6_ENABLED", "maybe"},
                                          {"PACKET_MARK", "0x539"},
                                          {"SECRET_TTL", "soon"},
                                          {"HTTP2_FRAME_SIZE", "1"},
                                          {"POOL_MAX_STREAMS_PER_CONNECTION", "0"}}) {
    const auto config = From({{name, value}});
    ASSERT_FALSE(config.has_value()) << name;
    EXPECT_NE(config.error().message.find(name.substr(0, 5)), std::string::npos);
  }
}

}  // namespace
}  // namespace qanat::ztunnel
