// SPDX-License-Identifier: Apache-2.0
#include "agent/plugin/decision.h"

#include <gtest/gtest.h>

namespace qanat::plugin {
namespace {

TEST(DecisionTest, EveryCombination) {
  const std::optional<bool> kSays[] = {std::nullopt, false, true};
  for (const bool kubernetes : {false, true})
    for (const bool excluded : {false, true})
      for (const bool host : {false, true})
        for (const auto& api : kSays)
          for (const auto& cache : kSays) {
            const Known known{kubernetes, excluded, host, api, "api away", cache, "no cache"};
            const Decision decision = Decide(known);
            // Written the other way round than the code: what must be true of each answer.
            const bool never_asked = !kubernetes || excluded || host;
            const auto word = api ? api : cache;
            if (never_asked)
              EXPECT_EQ(decision.verdict, Verdict::kPass);
            else if (!word)
              EXPECT_EQ(decision.verdict, Verdict::kUnknown);
            else
              EXPECT_EQ(decision.verdict, *word ? Verdict::kEnrol : Verdict::kPass);
            EXPECT_FALSE(decision.why.empty());
          }
}

TEST(DecisionTest, TheReasonOfAnUnknownPodNamesBothSources) {
  const Decision decision = Decide({.api_error = "401", .cache_error = "torn"});
  EXPECT_NE(decision.why.find("401"), std::string::npos);
  EXPECT_NE(decision.why.find("torn"), std::string::npos);
}

}  // namespace
}  // namespace qanat::plugin
