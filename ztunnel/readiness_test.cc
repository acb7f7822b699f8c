// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/readiness.h"

#include <gmock/gmock.h>

namespace qanat::ztunnel {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;
using zds::Agent;

TEST(Readiness, WhatIsWaitedFor) {
  struct Case {
    const char* what;
    Standing standing;
    const char* pending;
  };
  const Case cases[] = {
      {"all is there", {.agent = Agent::kHere}, ""},
      {"at the start", {.mesh = "xds", .agent = Agent::kAwaited}, "xds, zds"},
      {"no agent has been here", {.agent = Agent::kAwaited}, "zds"},
      {"one has", {.agent = Agent::kAway}, ""},
      {"one has, and it drains", {.draining = true, .agent = Agent::kAway}, "draining"},
      {"a pod does not start", {.agent = Agent::kHere, .pods_pending = true}, "pending pods"},
      {"... whoever is away", {.agent = Agent::kAway, .pods_pending = true}, "pending pods"},
      {"the mesh is an old one",
       {.mesh = "xds (saved state of 1970-01-01T00:00:00Z)", .agent = Agent::kAway},
       "xds (saved state of 1970-01-01T00:00:00Z)"},
      {"dedicated", {.agent = Agent::kHere, .pod_awaited = true}, "the pod"},
      {"it takes over",
       {.agent = Agent::kHere, .taking_over = true},
       "connections of the process before"},
  };
  for (const Case& c : cases) {
    const Readiness readiness = Judge(c.standing);
    EXPECT_EQ(readiness.pending, c.pending) << c.what;
    EXPECT_EQ(readiness.ready(), *c.pending == '\0') << c.what;
  }
}

TEST(Readiness, WhatItSays) {
  EXPECT_EQ(Judge({.agent = Agent::kHere}).Text(), "ready\n");
  EXPECT_EQ(Judge({.mesh = "xds", .agent = Agent::kAwaited}).Text(),
            "not ready, pending: xds, zds\n");
  EXPECT_THAT(Judge({.agent = Agent::kAway}).Text(),
              testing::AllOf(StartsWith("ready\n"), HasSubstr("agent is away"),
                             Not(HasSubstr("not ready"))));
  EXPECT_THAT(Judge({.draining = true, .agent = Agent::kAway}).Text(),
              testing::AllOf(StartsWith("not ready, pending: draining\n"), HasSubstr("away")));
}

}  // namespace
}  // namespace qanat::ztunnel
