// SPDX-License-Identifier: Apache-2.0
#include "waypoint/settings.h"

#include <gtest/gtest.h>

#include <map>

namespace qanat::waypoint {
namespace {

Result<Settings> From(const std::map<std::string, std::string>& variables) {
  return SettingsFromEnvironment(
      [&](const char* name) {
        auto it = variables.find(name);
        return it == variables.end() ? nullptr : it->second.c_str();
      },
      4);
}

TEST(Settings, IdentityAndDefaults) {
  auto s = From({{"POD_NAMESPACE", "shop"},
                 {"SERVICE_ACCOUNT", "waypoint"},
                 {"GATEWAY_NAME", "gw"},
                 {"XDS_ADDRESS", "cp:15012"},
                 {"LOG_FORMAT", "json"},
                 {"TERMINATION_DRAIN_DURATION_SECONDS", "7"}});
  ASSERT_TRUE(s) << s.error().message;
  EXPECT_EQ(s->proxy.identity, "spiffe://cluster.local/ns/shop/sa/waypoint");
  EXPECT_EQ(s->proxy.workload_name, "gw");
  EXPECT_EQ(s->proxy.workers, 4);
  EXPECT_EQ(s->proxy.listen.port(), 15008);
  EXPECT_EQ(s->control_plane.xds_address, "https://cp:15012");
  EXPECT_TRUE(s->proxy.access_log_json);
  EXPECT_EQ(s->proxy.drain_timeout, std::chrono::seconds(7));
}

TEST(Settings, SayWhatIsWrong) {
  auto none = From({});
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().message.find("SERVICE_ACCOUNT"), std::string::npos);
  for (const auto& [name, value] :
       std::multimap<std::string, std::string>{{"QANAT_WORKER_THREADS", "many"},
                                               {"QANAT_WORKER_THREADS", "0"},
                                               {"SECRET_TTL", "soon"},
                                               {"QANAT_HBONE_ADDR", "nowhere"}}) {
    auto s = From({{"POD_NAMESPACE", "a"}, {"SERVICE_ACCOUNT", "b"}, {name, value}});
    EXPECT_FALSE(s) << name;
  }
}

}  // namespace
}  // namespace qanat::waypoint
