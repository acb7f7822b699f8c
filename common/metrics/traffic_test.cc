// SPDX-License-Identifier: Apache-2.0
#include "common/metrics/traffic.h"

#include <gtest/gtest.h>

namespace qanat::metrics {
namespace {

TEST(Traffic, EveryNameHasItsValue) {
  const TrafficEnd from{"sw", "sc", "sr", "sn", "sp", "sa", "sv", "su"};
  const TrafficEnd to{"dw", "dc", "dr", "dn", "dp", "da", "dv", "du"};
  const LabelValues values =
      TrafficLabelValues({"source", from, to, "svc.ns.svc", "ns", "svc", "tcp", "-", "mutual_tls"});
  const LabelNames& names = TrafficLabelNames();
  ASSERT_EQ(values.size(), names.size());
  std::map<std::string, std::string> map;
  for (size_t i = 0; i < names.size(); ++i) map[names[i]] = values[i];
  EXPECT_EQ(map.size(), names.size()) << "a name stands twice";
  const std::map<std::string, std::string> want = {{"reporter", "source"},
                                                   {"source_workload", "sw"},
                                                   {"source_canonical_service", "sc"},
                                                   {"source_canonical_revision", "sr"},
                                                   {"source_workload_namespace", "sn"},
                                                   {"source_principal", "sp"},
                                                   {"source_app", "sa"},
                                                   {"source_version", "sv"},
                                                   {"source_cluster", "su"},
                                                   {"destination_service", "svc.ns.svc"},
                                                   {"destination_service_namespace", "ns"},
                                                   {"destination_service_name", "svc"},
                                                   {"destination_workload", "dw"},
                                                   {"destination_canonical_service", "dc"},
                                                   {"destination_canonical_revision", "dr"},
                                                   {"destination_workload_namespace", "dn"},
                                                   {"destination_principal", "dp"},
                                                   {"destination_app", "da"},
                                                   {"destination_version", "dv"},
                                                   {"destination_cluster", "du"},
                                                   {"request_protocol", "tcp"},
                                                   {"response_flags", "-"},
                                                   {"connection_security_policy", "mutual_tls"}};
  EXPECT_EQ(map, want);
}

TEST(Traffic, WhatIsNotKnownSaysSo) {
  const LabelValues values =
      TrafficLabelValues({"destination", {}, {}, "", "", "", "tcp", "-", ""});
  for (size_t i = 1; i < 20; ++i) EXPECT_EQ(values[i], "unknown") << TrafficLabelNames()[i];
}

}  // namespace
}  // namespace qanat::metrics
