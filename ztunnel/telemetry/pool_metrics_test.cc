// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/pool_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/hbone/pool.h"

namespace qanat::ztunnel {
namespace {

using ::testing::HasSubstr;

TEST(PoolMetrics, SumsOfAllWorkersByKindOfPool) {
  metrics::Registry registry;
  PoolMetrics pools(registry);
  event::EventLoop loop;
  hbone::PoolOptions options;
  options.counters = pools.direct();
  options.connect_timeout = std::chrono::seconds(2);
  // Two workers' pools whose dials lead nowhere.
  const hbone::Dial dial = [](const hbone::PoolKey&, auto) {
    return std::make_unique<event::Deferred>();
  };
  hbone::Pool one(loop, options, dial), two(loop, options, dial);
  int answers = 0;
  auto a = one.Connect({}, {"x:1", {}}, [&](auto) { ++answers; });
  auto b = two.Connect({}, {"x:1", {}}, [&](auto) { ++answers; });
  auto c = two.Connect({}, {"x:1", {}}, [&](auto) { ++answers; });
  loop.RunOnce(std::chrono::milliseconds(1));
  loop.RunOnce(std::chrono::milliseconds(1));
  std::string text = registry.Render();
  EXPECT_THAT(text, HasSubstr("qanat_pool_dialing{pool=\"direct\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("qanat_pool_waiting_streams{pool=\"direct\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("qanat_pool_dialing{pool=\"inner\"} 0\n"));
  const auto end = event::Clock::now() + std::chrono::seconds(60);
  while (answers < 3 && event::Clock::now() < end) loop.RunOnce(std::chrono::milliseconds(5));
  text = registry.Render();
  EXPECT_THAT(text, HasSubstr("qanat_pool_dials_total{pool=\"direct\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("qanat_pool_dial_failures_total{pool=\"direct\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("qanat_pool_dialing{pool=\"direct\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("qanat_pool_waiting_streams{pool=\"direct\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("qanat_pool_tunnels{pool=\"direct\"} 0\n"));
}

TEST(PoolMetrics, AbuseByKindAndEnd) {
  metrics::Registry registry;
  PoolMetrics pools(registry);
  pools.CountInbound(hbone::Abuse::kNone);
  pools.CountInbound(hbone::Abuse::kRapidReset);
  pools.CountInbound(hbone::Abuse::kRapidReset);
  hbone::Count(pools.inner()->abused[static_cast<size_t>(hbone::Abuse::kPingFlood)]);
  const std::string text = registry.Render();
  EXPECT_THAT(text, HasSubstr("qanat_http2_abuse_total{end=\"server\",kind=\"rapid_reset\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("qanat_http2_abuse_total{end=\"client\",kind=\"ping_flood\"} 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("kind=\"none\"")));
}

}  // namespace
}  // namespace qanat::ztunnel
