// SPDX-License-Identifier: Apache-2.0
#include "agent/direct/table.h"

#include <gmock/gmock.h>

namespace qanat::agent::direct {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// What is true of pairs of pods, by their serials.
class Truths {
 public:
  Truths& Direct(VerdictKey key, const std::string& policy = "") {
    Verdict verdict;
    verdict.direct = true;
    verdict.policy = policy;
    known_[key] = verdict;
    return *this;
  }
  Truths& ByProxy(VerdictKey key, bool allowed = true) {
    Verdict verdict;
    verdict.allowed = allowed;
    verdict.why_not = "why";
    known_[key] = verdict;
    return *this;
  }
  void Gone(VerdictKey key) { known_.erase(key); }
  VerdictTable::Judging judging() {
    return [this](const VerdictKey& key) -> std::optional<Verdict> {
      const auto at = known_.find(key);
      if (at == known_.end()) return std::nullopt;
      return at->second;
    };
  }

 private:
  std::map<VerdictKey, Verdict> known_;
};

constexpr VerdictKey kA{1, 2, 80}, kB{3, 2, 80}, kC{1, 4, 80}, kSix{1, 2, 80, true};

std::vector<VerdictKey> Keys(const std::vector<std::pair<VerdictKey, TableEntry>>& changes) {
  std::vector<VerdictKey> keys;
  for (const auto& [key, entry] : changes) keys.push_back(key);
  return keys;
}

TEST(VerdictTable, AnswersAreKeptAndWritten) {
  VerdictTable table(64);
  Truths truths;
  truths.Direct(kA, "shop/allow").ByProxy(kSix);
  TableChanges changes = table.Answer(kA, truths.judging());
  ASSERT_THAT(Keys(changes.put), ElementsAre(kA));
  EXPECT_TRUE(changes.put[0].second.direct);
  EXPECT_EQ(changes.put[0].second.generation, table.generation());
  EXPECT_EQ(table.PolicyName(changes.put[0].second.policy), "shop/allow");
  changes = table.Answer(kSix, truths.judging());
  ASSERT_THAT(Keys(changes.put), ElementsAre(kSix));
  EXPECT_FALSE(changes.put[0].second.direct);
  EXPECT_EQ(table.size(), 2u);
  EXPECT_EQ(table.direct_count(), 1u);
  EXPECT_EQ(table.PolicyName(99), "");
}

TEST(VerdictTable, AQuestionOfAPodThatIsGoneIsTakenOut) {
  VerdictTable table(64);
  Truths truths;
  const TableChanges changes = table.Answer(kA, truths.judging());
  EXPECT_THAT(changes.removed, ElementsAre(kA));
  EXPECT_THAT(changes.put, IsEmpty());
  EXPECT_EQ(table.size(), 0u);
}

TEST(VerdictTable, NothingIsSaidWhereNothingChanged) {
  VerdictTable table(64);
  Truths truths;
  truths.Direct(kA, "p").ByProxy(kB);
  table.Answer(kA, truths.judging());
  table.Answer(kB, truths.judging());
  EXPECT_TRUE(table.Rejudge(truths.judging()).empty());
  truths.Direct(kA, "q");  // another policy allows it
  EXPECT_THAT(Keys(table.Rejudge(truths.judging()).put), ElementsAre(kA));
}

TEST(VerdictTable, TighteningMakesWhatStaysNewBeforeTheOldIsVoid) {
  VerdictTable table(64);
  Truths truths;
  truths.Direct(kA).Direct(kB).Direct(kC);
  for (const VerdictKey& key : {kA, kB, kC}) table.Answer(key, truths.judging());
  truths.ByProxy(kA, false);
  const TableChanges changes = table.Rejudge(truths.judging());
  EXPECT_THAT(Keys(changes.tightened), ElementsAre(kA));
  EXPECT_FALSE(changes.tightened[0].second.allowed);
  EXPECT_THAT(changes.floors, ElementsAre(2u));
  EXPECT_THAT(Keys(changes.put), ElementsAre(kB));  // of the same pod; kC's has no new floor
  EXPECT_EQ(changes.put[0].second.generation, changes.generation);
  EXPECT_EQ(table.direct_count(), 2u);
}

TEST(VerdictTable, LooseningNeedsNoFloor) {
  VerdictTable table(64);
  Truths truths;
  truths.ByProxy(kA).Direct(kB);
  for (const VerdictKey& key : {kA, kB}) table.Answer(key, truths.judging());
  truths.Direct(kA);
  const TableChanges changes = table.Rejudge(truths.judging());
  EXPECT_THAT(Keys(changes.put), ElementsAre(kA));
  EXPECT_THAT(changes.floors, IsEmpty());
  EXPECT_THAT(changes.tightened, IsEmpty());
}

TEST(VerdictTable, APodThatIsGoneTakesItsVerdictsAlong) {
  VerdictTable table(64);
  Truths truths;
  truths.Direct(kA).Direct(kB).Direct(kC);
  for (const VerdictKey& key : {kA, kB, kC}) table.Answer(key, truths.judging());
  truths.Gone(kB);  // noticed at a snapshot
  TableChanges changes = table.Rejudge(truths.judging());
  EXPECT_THAT(changes.removed, ElementsAre(kB));
  EXPECT_THAT(changes.floors, ElementsAre(2u));
  EXPECT_THAT(table.Forget(1).removed, ElementsAre(kA, kC));
  EXPECT_EQ(table.size(), 0u);
  EXPECT_EQ(table.direct_count(), 0u);
}

TEST(VerdictTable, AFullOneForgetsWhatTheProxyServes) {
  VerdictTable table(16);  // two of them stay for questions
  Truths truths;
  for (uint16_t port = 1; port <= 14; ++port) {
    const VerdictKey key{1, 2, port};
    port % 2 == 0 ? truths.Direct(key) : truths.ByProxy(key);
    table.Answer(key, truths.judging());
  }
  EXPECT_EQ(table.size(), 14u);
  truths.Direct({1, 2, 15});
  const TableChanges changes = table.Answer({1, 2, 15}, truths.judging());
  EXPECT_EQ(changes.removed.size(), 7u);
  EXPECT_EQ(table.size(), 8u);
  EXPECT_EQ(table.direct_count(), 8u);
  EXPECT_FALSE(changes.forgot_direct);
}

TEST(VerdictTable, AFullOneForgetsThoseOfThePodThatHasMost) {
  VerdictTable table(16);
  Truths truths;
  const auto answer = [&](const VerdictKey& key) {
    truths.Direct(key);
    return table.Answer(key, truths.judging());
  };
  for (uint16_t port = 1; port <= 3; ++port) answer({1, 2, port});
  for (uint16_t port = 1; port <= 9; ++port) answer({5, 2, port});  // somebody tries all ports
  for (uint16_t port = 1; port <= 2; ++port) answer({7, 2, port});
  const TableChanges changes = answer({7, 2, 3});
  EXPECT_TRUE(changes.forgot_direct);
  EXPECT_EQ(changes.removed.size(), 9u);
  for (const VerdictKey& key : changes.removed) EXPECT_EQ(key.source, 5u);
  EXPECT_THAT(Keys(changes.put), ElementsAre(VerdictKey{7, 2, 3}));
  EXPECT_EQ(table.size(), 6u);
  EXPECT_EQ(table.direct_count(), 6u);
}

}  // namespace
}  // namespace qanat::agent::direct
