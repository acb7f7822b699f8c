// SPDX-License-Identifier: Apache-2.0
// The manager against a CA that answers when the test says so, in simulated time.
#include "common/identity/secret_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "common/identity/ca_client.h"
#include "common/tls/test_certs.h"
#include "common/tls/tls_context.h"

namespace qanat::identity {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using ::testing::ElementsAre;
using State = SecretManager::State;

class SimulatedClock final : public Clock {
 public:
  SystemTime Now() override { return now_; }
  void SetAlarm(SystemTime when, std::function<void()> fire) override {
    when_ = when;
    fire_ = std::move(fire);
  }
  void ClearAlarm() override { fire_ = nullptr; }
  void Advance(SystemTime::duration by) {
    const SystemTime end = now_ + by;
    while (fire_ && when_ <= end) {
      now_ = std::max(now_, when_);
      auto fire = std::exchange(fire_, nullptr);
      fire();
    }
    now_ = end;
  }
  SystemTime now_ = SystemTime{} + hours(24 * 365 * 50);
  SystemTime when_;
  std::function<void()> fire_;
};

class FakeCa final : public CaClient {
 public:
  struct Pending final : Fetch {
    Pending(FakeCa& c, model::Identity i, Done d)
        : ca(c), identity(std::move(i)), done(std::move(d)) {
      ca.pending.push_back(this);
      ca.most = std::max(ca.most, ca.pending.size());
    }
    ~Pending() override { std::erase(ca.pending, this); }
    FakeCa& ca;
    model::Identity identity;
    Done done;
  };
  std::unique_ptr<Fetch> FetchCertificate(const model::Identity& identity, Done done) override {
    order.push_back(identity.sa);
    return std::make_unique<Pending>(*this, identity, std::move(done));
  }
  // Answers the oldest.
  void Succeed(Clock& clock, seconds life = hours(24)) {
    ASSERT_FALSE(pending.empty());
    auto certificate = std::make_shared<WorkloadCertificate>();
    certificate->identity = pending[0]->identity;
    certificate->chain.push_back({"", std::to_string(++serial), clock.Now(), clock.Now() + life});
    auto done = std::move(pending[0]->done);
    done(CertificatePtr(certificate));
  }
  void Refuse() {
    ASSERT_FALSE(pending.empty());
    auto done = std::move(pending[0]->done);
    done(Fail(Code::kUnavailable, "CA is down"));
  }
  std::vector<Pending*> pending;
  std::vector<std::string> order;
  size_t most = 0;
  int serial = 0;
};

model::Identity Id(const std::string& sa) { return {"cluster.local", "ns", sa}; }

class SecretManagerTest : public ::testing::Test {
 protected:
  SecretManagerTest()
      : manager_(
            clock_, ca_,
            [this](const model::Identity& id, CertificatePtr c) {
              updates_.push_back(id.sa + (c ? "=" + c->chain[0].serial : "=none"));
            },
            SecretManager::Options{.seed = 1}) {}
  SecretManager::Ready Expect(std::vector<std::string>& log) {
    return [&log](Result<CertificatePtr> r) {
      log.push_back(r ? (*r)->chain[0].serial : r.error().message);
    };
  }
  State StateOf(const std::string& sa) {
    for (const auto& e : manager_.Dump()) {
      if (e.identity.sa == sa) return e.state;
    }
    ADD_FAILURE();
    return State::kUnavailable;
  }
  SimulatedClock clock_;
  FakeCa ca_;
  std::vector<std::string> updates_;
  SecretManager manager_;
};

TEST_F(SecretManagerTest, OneFetchForAllWhoAsk) {
  std::vector<std::string> got;
  manager_.Request(Id("a"), Priority::kWarmup, Expect(got));
  manager_.Request(Id("a"), Priority::kRealTime, Expect(got));
  EXPECT_EQ(ca_.pending.size(), 1u);
  EXPECT_EQ(StateOf("a"), State::kFetching);
  EXPECT_EQ(manager_.Find(Id("a")), nullptr);
  ca_.Succeed(clock_);
  EXPECT_THAT(got, ElementsAre("1", "1"));
  EXPECT_THAT(updates_, ElementsAre("a=1"));
  manager_.Request(Id("a"), Priority::kRealTime, Expect(got));
  EXPECT_EQ(got.size(), 3u) << "at once from what is there";
  EXPECT_TRUE(ca_.pending.empty());
  EXPECT_EQ(manager_.Find(Id("a"))->chain[0].serial, "1");
  EXPECT_EQ(StateOf("a"), State::kAvailable);
}

TEST_F(SecretManagerTest, RenewsAtHalfOfItsLife) {
  manager_.Request(Id("a"), Priority::kRealTime);
  ca_.Succeed(clock_, hours(24));
  clock_.Advance(hours(12) - seconds(1));
  EXPECT_TRUE(ca_.pending.empty());
  clock_.Advance(seconds(1));
  ASSERT_EQ(ca_.pending.size(), 1u);
  EXPECT_EQ(manager_.Find(Id("a"))->chain[0].serial, "1") << "the old one serves meanwhile";
  ca_.Succeed(clock_, hours(24));
  EXPECT_EQ(manager_.Find(Id("a"))->chain[0].serial, "2");
  EXPECT_THAT(updates_, ElementsAre("a=1", "a=2"));
}

TEST_F(SecretManagerTest, AFailedRenewalKeepsTheOldOneUntilItExpires) {
  std::vector<std::string> got;
  manager_.Request(Id("a"), Priority::kRealTime);
  ca_.Succeed(clock_, hours(1));
  const SystemTime expiry = clock_.Now() + hours(1);
  clock_.Advance(minutes(30));
  while (clock_.Now() < expiry - seconds(200)) {
    if (!ca_.pending.empty()) {
      manager_.Request(Id("a"), Priority::kRealTime, Expect(got));
      EXPECT_EQ(got.back(), "1");
      ca_.Refuse();
      EXPECT_EQ(StateOf("a"), State::kAvailable);
    }
    clock_.Advance(seconds(1));
  }
  EXPECT_GT(manager_.counters().failures, 10u);
  EXPECT_LT(manager_.counters().failures, 40u) << "backs off";
  // A last failure so near the end that its backoff would pass the expiry.
  while (ca_.pending.empty()) clock_.Advance(seconds(1));
  clock_.Advance(expiry - clock_.Now() - seconds(5));
  ca_.Refuse();
  EXPECT_THAT(updates_, ElementsAre("a=1"));
  clock_.Advance(seconds(5));
  EXPECT_THAT(updates_, ElementsAre("a=1", "a=none"));
  EXPECT_EQ(manager_.Find(Id("a")), nullptr);
  EXPECT_EQ(ca_.pending.size(), 1u) << "tries again no later than at the expiry";
  ca_.Succeed(clock_);
  EXPECT_EQ(StateOf("a"), State::kAvailable);
}

TEST_F(SecretManagerTest, BacksOffPerIdentityAndAnswersAtOnceMeanwhile) {
  std::vector<std::string> got;
  manager_.Request(Id("a"), Priority::kRealTime, Expect(got));
  ca_.Refuse();
  EXPECT_THAT(got, ElementsAre("CA is down"));
  EXPECT_EQ(StateOf("a"), State::kUnavailable);
  manager_.Request(Id("a"), Priority::kRealTime, Expect(got));
  EXPECT_EQ(got.size(), 2u) << "the error at once, no new call";
  EXPECT_TRUE(ca_.pending.empty());
  // Another identity does not wait for it.
  manager_.Request(Id("b"), Priority::kRealTime, Expect(got));
  EXPECT_EQ(ca_.pending.size(), 1u);
  ca_.Succeed(clock_);
  std::vector<double> delays;
  for (int i = 0; i < 12; ++i) {
    const SystemTime begin = clock_.Now();
    while (ca_.pending.empty()) clock_.Advance(milliseconds(10));
    delays.push_back(std::chrono::duration<double>(clock_.Now() - begin).count());
    ca_.Refuse();
  }
  double expected = 1;
  for (double d : delays) {
    EXPECT_GE(d, expected * 0.8 - 0.02);
    EXPECT_LE(d, expected * 1.2 + 0.02);
    expected = std::min(expected * 2, 150.0);
  }
  while (ca_.pending.empty()) clock_.Advance(seconds(1));
  ca_.Succeed(clock_);
  EXPECT_EQ(StateOf("a"), State::kAvailable);
}

TEST_F(SecretManagerTest, RetryNow) {
  manager_.Request(Id("a"), Priority::kRealTime);
  for (int i = 0; i < 8; ++i) {
    ca_.Refuse();
    while (ca_.pending.empty()) clock_.Advance(seconds(1));
  }
  ca_.Refuse();
  EXPECT_TRUE(ca_.pending.empty());
  manager_.RetryNow();
  ASSERT_EQ(ca_.pending.size(), 1u);
  ca_.Succeed(clock_);
}

TEST_F(SecretManagerTest, ConcurrencyAndPriorities) {
  for (int i = 0; i < 20; ++i) {
    manager_.Request(Id("bg" + std::to_string(i)), Priority::kBackground);
  }
  EXPECT_EQ(ca_.pending.size(), 8u);
  EXPECT_EQ(manager_.counters().queued, 12u);
  manager_.Request(Id("warm"), Priority::kWarmup);
  manager_.Request(Id("real"), Priority::kRealTime);
  manager_.Request(Id("bg19"), Priority::kRealTime);  // raised while it waits
  ca_.order.clear();
  for (int i = 0; i < 4; ++i) ca_.Succeed(clock_);
  EXPECT_THAT(ca_.order, ElementsAre("bg19", "real", "warm", "bg8"));
  while (!ca_.pending.empty()) ca_.Succeed(clock_);
  EXPECT_EQ(ca_.most, 8u);
  EXPECT_EQ(manager_.counters().in_flight, 0u);
  EXPECT_EQ(manager_.counters().wanted, 22u);
}

TEST_F(SecretManagerTest, ForgetDropsCancelsAndFreesThePlace) {
  std::vector<std::string> got;
  for (int i = 0; i < 9; ++i) {
    manager_.Request(Id(std::to_string(i)), Priority::kWarmup, Expect(got));
  }
  EXPECT_EQ(ca_.pending.size(), 8u);
  manager_.Forget(Id("0"));
  EXPECT_EQ(ca_.pending.size(), 8u) << "the ninth took the place";
  EXPECT_EQ(got.size(), 1u);
  EXPECT_THAT(got[0], ::testing::HasSubstr("no longer wanted"));
  while (!ca_.pending.empty()) ca_.Succeed(clock_);
  manager_.Forget(Id("1"));
  EXPECT_EQ(updates_.back(), "1=none");
  EXPECT_EQ(manager_.Find(Id("1")), nullptr);
  manager_.Forget(Id("unknown"));
  clock_.Advance(hours(12));
  EXPECT_EQ(ca_.pending.size(), 7u) << "what is forgotten is not renewed";
}

TEST_F(SecretManagerTest, AskersMayAskAndForgetInsideTheirCallback) {
  std::vector<std::string> got;
  manager_.Request(Id("a"), Priority::kRealTime, [&](Result<CertificatePtr>) {
    manager_.Forget(Id("a"));
    manager_.Request(Id("b"), Priority::kRealTime, Expect(got));
  });
  ca_.Succeed(clock_);
  ASSERT_EQ(ca_.pending.size(), 1u);
  ca_.Succeed(clock_);
  EXPECT_THAT(got, ElementsAre("2"));
  EXPECT_EQ(manager_.counters().wanted, 1u);
}

TEST_F(SecretManagerTest, RenewedOutOfTurn) {
  manager_.Request(Id("a"), Priority::kRealTime);
  ca_.Succeed(clock_);
  manager_.Renew(Id("a"));
  manager_.Renew(Id("nobody"));
  clock_.Advance(seconds(4));
  EXPECT_TRUE(ca_.pending.empty()) << "it has only just come";
  clock_.Advance(seconds(2));
  ASSERT_EQ(ca_.pending.size(), 1u);
  EXPECT_EQ(manager_.Find(Id("a"))->chain[0].serial, "1") << "serves meanwhile";
  ca_.Succeed(clock_);
  EXPECT_THAT(updates_, ElementsAre("a=1", "a=2"));
  for (int i = 0; i < 10; ++i) manager_.Renew(Id("a"));
  clock_.Advance(minutes(4));
  EXPECT_TRUE(ca_.pending.empty()) << "however often it is asked for";
  clock_.Advance(minutes(2));
  ASSERT_EQ(ca_.pending.size(), 1u);
  ca_.Refuse();
  const size_t before = ca_.order.size();
  manager_.Renew(Id("a"));
  clock_.Advance(milliseconds(100));
  EXPECT_EQ(ca_.order.size(), before) << "it backs off, and a renewal does not change that";
}

TEST_F(SecretManagerTest, RootsOfOneAnswerReachAll) {
  using tls::testing::TestCa;
  const TestCa a = TestCa::Make("a"), b = TestCa::Make("b");
  clock_.now_ = tls::testing::Now();
  std::vector<std::string> updates;
  SecretManager manager(
      clock_, ca_,
      [&](const model::Identity& id, CertificatePtr c) {
        updates.push_back(id.sa + " " + std::to_string(c->roots.size()));
      },
      SecretManager::Options{.seed = 1, .root_grace = minutes(10)});
  const auto fetch = [&](const std::string& sa, const TestCa& signer) {
    manager.Request(Id(sa), Priority::kRealTime);
    ASSERT_EQ(ca_.pending.size(), 1u);
    const auto issued = signer.Issue(Id(sa).ToString());
    auto done = std::move(ca_.pending[0]->done);
    done(BuildCertificate(Id(sa),
                          {issued.certificate.ToPem(), signer.authority.certificate.ToPem()},
                          issued.key.ToPem(), CaOptions{}, tls::testing::Now()));
  };
  fetch("old", a);
  const CertificatePtr before = manager.Find(Id("old"));
  ASSERT_NE(before, nullptr);
  fetch("new", b);
  EXPECT_THAT(updates, ElementsAre("old 1", "old 2", "new 2"));
  EXPECT_EQ(manager.Find(Id("old"))->chain_pem, before->chain_pem) << "the same certificate";
  EXPECT_EQ(manager.Find(Id("old"))->client->options().roots.size(), 2u);
  clock_.Advance(minutes(9));
  EXPECT_EQ(updates.size(), 3u);
  clock_.Advance(minutes(2));  // the grace for a root that no answer names any more is over
  EXPECT_THAT(updates, ElementsAre("old 1", "old 2", "new 2", "new 1", "old 1"));
  EXPECT_EQ(manager.Find(Id("new"))->roots_pem, b.authority.certificate.ToPem());
}

TEST_F(SecretManagerTest, ACertificateThatIsBornExpiredMakesNoLoop) {
  manager_.Request(Id("a"), Priority::kRealTime);
  for (int i = 0; i < 20; ++i) {
    ca_.Succeed(clock_, seconds(0));
    clock_.Advance(seconds(1));
    if (ca_.pending.empty()) clock_.Advance(seconds(1));
  }
  EXPECT_LE(ca_.order.size(), 21u);
}

}  // namespace
}  // namespace qanat::identity
