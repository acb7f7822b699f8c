// SPDX-License-Identifier: Apache-2.0
#include "common/metrics/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "common/metrics/text.h"

namespace qanat::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Registry, CounterTextInBothFormats) {
  Registry registry;
  auto& family =
      registry.AddCounter("istio_tcp_connections_opened", "Opened", {"reporter", "principal"});
  family.With({"source", "spiffe://a/ns/b/sa/c"})->Add(3);
  EXPECT_EQ(registry.Render(),
            "# HELP istio_tcp_connections_opened_total Opened\n"
            "# TYPE istio_tcp_connections_opened_total counter\n"
            "istio_tcp_connections_opened_total{reporter=\"source\",principal=\"spiffe://a/ns/b/sa/"
            "c\"} 3\n");
  EXPECT_EQ(registry.Render(TextFormat::kOpenMetrics),
            "# HELP istio_tcp_connections_opened Opened\n"
            "# TYPE istio_tcp_connections_opened counter\n"
            "istio_tcp_connections_opened_total{reporter=\"source\",principal=\"spiffe://a/ns/b/sa/"
            "c\"} 3\n"
            "# EOF\n");
}

// Scrapers refuse the whole answer otherwise.
TEST(Registry, LabelValuesAreTextWhateverTheyAreMadeOf) {
  Registry registry;
  registry.AddCounter("x", "X", {"who"}).With({"a\xff\"\n\xc3\xa4\xc3"})->Add();
  EXPECT_THAT(registry.Render(),
              HasSubstr("\nx_total{who=\"a\xef\xbf\xbd\\\"\\n\xc3\xa4\xef\xbf\xbd\"} 1\n"));
}

TEST(Registry, LabelsWithoutAValueAreLeftOut) {
  Registry registry;
  auto& family = registry.AddCounter("x", "X", {"zone", "who", "region"});
  family.With({"", "a", ""})->Add();
  family.With({"", "", ""})->Add(2);
  EXPECT_THAT(registry.Render(), HasSubstr("\nx_total{who=\"a\"} 1\n"));
  EXPECT_THAT(registry.Render(), HasSubstr("\nx_total 2\n"));
}

TEST(Registry, TotalInTheNameIsNotDoubled) {
  Registry registry;
  registry.AddCounter("x_total", "X").Get().Add();
  EXPECT_THAT(registry.Render(), HasSubstr("\nx_total 1\n"));
  EXPECT_THAT(registry.Render(), Not(HasSubstr("total_total")));
}

TEST(Registry, LabelValuesAreEscaped) {
  Registry registry;
  registry.AddGauge("g", "line\nbreak \\", {"l"}).With({"a\"b\\c\nd"})->Set(-7);
  EXPECT_EQ(registry.Render(),
            "# HELP g line\\nbreak \\\\\n# TYPE g gauge\ng{l=\"a\\\"b\\\\c\\nd\"} -7\n");
}

TEST(Registry, HistogramIsCumulativeAndEndsWithInf) {
  Registry registry;
  auto& h = registry.AddHistogram("d", "D", {0.5, 1, 5}, {"x"});
  auto series = h.With({"y"});
  for (double v : {0.5, 0.6, 1.0, 4.0, 100.0}) series->Observe(v);
  EXPECT_EQ(registry.Render(),
            "# HELP d D\n# TYPE d histogram\n"
            "d_bucket{x=\"y\",le=\"0.5\"} 1\n"
            "d_bucket{x=\"y\",le=\"1\"} 3\n"
            "d_bucket{x=\"y\",le=\"5\"} 4\n"
            "d_bucket{x=\"y\",le=\"+Inf\"} 5\n"
            "d_sum{x=\"y\"} 106.1\n"
            "d_count{x=\"y\"} 5\n");
}

TEST(Registry, SameNameGivesTheSameFamilyAndMismatchAborts) {
  Registry registry;
  auto& a = registry.AddCounter("c", "C", {"l"});
  auto& b = registry.AddCounter("c", "C", {"l"});
  EXPECT_EQ(&a, &b);
  EXPECT_DEATH(registry.AddGauge("c", "C", {"l"}), "added twice");
  EXPECT_DEATH(registry.AddCounter("c", "C", {"other"}), "added twice");
  EXPECT_DEATH(registry.AddCounter("not a name", ""), "not a metric name");
}

TEST(Registry, RemovedSeriesAreNotShownAndHandlesStayUsable) {
  Registry registry;
  auto& family = registry.AddCounter("c", "C", {"pod", "kind"});
  auto kept = family.With({"a", "1"});
  family.With({"b", "1"})->Add(2);
  family.With({"b", "2"})->Add(2);
  EXPECT_EQ(family.RemoveIf([](const LabelValues& v) { return v[0] == "b"; }), 2u);
  EXPECT_TRUE(family.Remove({"a", "1"}));
  EXPECT_FALSE(family.Remove({"a", "1"}));
  kept->Add(5);
  EXPECT_EQ(family.size(), 0u);
  EXPECT_THAT(registry.Render(), Not(HasSubstr("pod=")));
}

TEST(Registry, CallbacksAreSampledAtRender) {
  Registry registry;
  double value = 1;
  registry.AddCallback(Kind::kGauge, "s", "S",
                       [&] { return std::vector<Sample>{{{{"k", "v"}}, value}}; });
  EXPECT_THAT(registry.Render(), HasSubstr("s{k=\"v\"} 1\n"));
  value = 2.5;
  EXPECT_THAT(registry.Render(), HasSubstr("s{k=\"v\"} 2.5\n"));
}

TEST(Registry, ProcessMetricsAreThere) {
  Registry registry;
  registry.AddProcessMetrics();
  const std::string text = registry.Render();
  EXPECT_THAT(text, ::testing::ContainsRegex("\nprocess_open_fds [1-9]"));
  EXPECT_THAT(text, ::testing::ContainsRegex("\nprocess_resident_memory_bytes [1-9]"));
}

TEST(Registry, NegotiatesByAccept) {
  EXPECT_EQ(Registry::Negotiate("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"),
            TextFormat::kOpenMetrics);
  EXPECT_EQ(Registry::Negotiate("*/*"), TextFormat::kPrometheus);
  EXPECT_EQ(Registry::Negotiate(""), TextFormat::kPrometheus);
}

TEST(Registry, ManyThreadsLoseNothing) {
  Registry registry;
  auto& family = registry.AddCounter("c", "C", {"l"});
  auto& histogram = registry.AddHistogram("h", "H", {1, 2});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      auto mine = family.With({"shared"});
      for (int i = 0; i < 10000; ++i) {
        mine->Add();
        histogram.Get().Observe(1);
        if (i % 1000 == 0) (void)registry.Render();
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(family.With({"shared"})->value(), 40000u);
  EXPECT_EQ(histogram.Get().Read().count, 40000u);
  EXPECT_DOUBLE_EQ(histogram.Get().Read().sum, 40000.0);
}

TEST(Text, Numbers) {
  EXPECT_EQ(text::Number(0), "0");
  EXPECT_EQ(text::Number(0.25), "0.25");
  EXPECT_EQ(text::Number(1e20), "1e+20");
  EXPECT_EQ(text::Number(123456789012.0), "123456789012");
}

}  // namespace
}  // namespace qanat::metrics
