// SPDX-License-Identifier: Apache-2.0
// Which roots are believed when, and that every mixture of proxies that have and have not heard of
// a new root can talk while the mesh goes from A over A+B to B.
#include "common/identity/trust_bundle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/identity/ca_client.h"
#include "common/tls/test_certs.h"

namespace qanat::identity {
namespace {

using tls::testing::Now;
using tls::testing::TestCa;
using namespace std::chrono_literals;

class TrustBundleTest : public ::testing::Test {
 protected:
  static std::vector<tls::Certificate> Of(std::initializer_list<const TestCa*> cas) {
    std::vector<tls::Certificate> out;
    for (const TestCa* ca : cas) out.push_back(ca->authority.certificate);
    return out;
  }
  bool Believes(const TestCa& ca) {
    for (const auto& root : bundle_.roots()) {
      if (root.ToDer() == ca.authority.certificate.ToDer()) return true;
    }
    return false;
  }
  const SystemTime t0_ = Now();
  TestCa a_ = TestCa::Make("a"), b_ = TestCa::Make("b"), c_ = TestCa::Make("c");
  TrustBundle bundle_{24h};
};

TEST_F(TrustBundleTest, AnOldRootIsBelievedAsLongAsItsCertificatesMayBeShown) {
  EXPECT_TRUE(bundle_.Saw(Of({&a_}), t0_));
  EXPECT_FALSE(bundle_.Saw(Of({&a_}), t0_ + 1h));
  EXPECT_FALSE(bundle_.next());
  EXPECT_TRUE(bundle_.Saw(Of({&a_, &b_}), t0_ + 2h));
  EXPECT_TRUE(Believes(a_) && Believes(b_));
  EXPECT_FALSE(bundle_.Saw(Of({&b_}), t0_ + 3h)) << "nothing is taken away yet";
  EXPECT_EQ(bundle_.next(), t0_ + 27h);
  EXPECT_FALSE(bundle_.Saw(Of({&b_}), t0_ + 20h)) << "it was withdrawn at the first time";
  EXPECT_FALSE(bundle_.Expire(t0_ + 26h));
  EXPECT_TRUE(Believes(a_));
  EXPECT_TRUE(bundle_.Expire(t0_ + 27h));
  EXPECT_FALSE(Believes(a_));
  EXPECT_TRUE(Believes(b_));
  EXPECT_FALSE(bundle_.next());
}

TEST_F(TrustBundleTest, TwoReplicasOfTheCaThatDisagree) {
  bundle_.Saw(Of({&a_, &b_}), t0_);
  bundle_.Saw(Of({&a_}), t0_ + 1h);
  EXPECT_TRUE(bundle_.next().has_value());
  EXPECT_FALSE(bundle_.Saw(Of({&a_, &b_}), t0_ + 2h)) << "named again: not withdrawn any more";
  EXPECT_FALSE(bundle_.next());
}

TEST_F(TrustBundleTest, NeverPastItsOwnEnd) {
  const SystemTime end = a_.authority.certificate.not_after();
  bundle_.Saw(Of({&a_}), t0_);
  bundle_.Saw(Of({&b_}), end - 1h);
  EXPECT_EQ(bundle_.next(), end);
  EXPECT_TRUE(bundle_.Expire(end));
}

TEST_F(TrustBundleTest, WithoutGraceTheNewestAnswerIsAll) {
  TrustBundle exact{0s};
  exact.Saw(Of({&a_, &b_}), t0_);
  EXPECT_TRUE(exact.Saw(Of({&b_}), t0_ + 1s));
  EXPECT_EQ(exact.roots().size(), 1u);
}

// Every pair of proxies at every pair of stages, as long as nobody is more than one stage behind.
TEST_F(TrustBundleTest, EverybodyTalksToEverybodyOneStageApart) {
  struct Stage {
    const TestCa* signer;
    std::vector<tls::Certificate> answer;
  };
  const std::vector<Stage> stages = {
      {&a_, Of({&a_})},      {&a_, Of({&a_, &b_})}, {&b_, Of({&a_, &b_})}, {&b_, Of({&b_})},
      {&b_, Of({&b_, &c_})}, {&c_, Of({&b_, &c_})}, {&c_, Of({&c_})},
  };
  const auto proxy_at = [&](size_t stage, const std::string& who) {
    TrustBundle bundle(24h);
    for (size_t i = 0; i <= stage; ++i) {
      bundle.Saw(stages[i].answer, t0_ + std::chrono::hours(12 * i));
    }
    const auto identity = stages[stage].signer->Issue(who);
    tls::ContextOptions options;
    options.chain = {identity.certificate};
    options.key = identity.key;
    options.roots = bundle.roots();
    return *tls::TlsContext::Make(std::move(options));
  };
  constexpr char kOne[] = "spiffe://cluster.local/ns/shop/sa/one";
  constexpr char kTwo[] = "spiffe://cluster.local/ns/shop/sa/two";
  for (size_t ahead = 0; ahead < stages.size(); ++ahead) {
    for (size_t behind = ahead == 0 ? 0 : ahead - 1; behind <= ahead; ++behind) {
      for (const bool client_ahead : {true, false}) {
        event::EventLoop loop;
        tls::HandshakeOptions client, server;
        client.peer.uris = {kTwo};
        auto pair = tls::testing::Shake(loop, proxy_at(client_ahead ? ahead : behind, kOne), client,
                                        proxy_at(client_ahead ? behind : ahead, kTwo), server,
                                        net::MakePipe(loop));
        ASSERT_TRUE(pair.client && pair.server);
        EXPECT_TRUE(*pair.client && *pair.server) << ahead << " to " << behind;
      }
    }
  }
}

TEST_F(TrustBundleTest, TheSameCertificateWithOtherRoots) {
  const auto alice = a_.Issue("spiffe://cluster.local/ns/shop/sa/alice");
  const auto identity = *model::Identity::Parse("spiffe://cluster.local/ns/shop/sa/alice");
  auto made =
      BuildCertificate(identity, {alice.certificate.ToPem(), a_.authority.certificate.ToPem()},
                       alice.key.ToPem(), CaOptions{}, Now());
  ASSERT_TRUE(made) << made.error().message;
  auto both = WithRoots(**made, Of({&a_, &b_}));
  ASSERT_TRUE(both) << both.error().message;
  EXPECT_EQ((*both)->chain_pem, (*made)->chain_pem);
  EXPECT_EQ((*both)->roots.size(), 2u);
  EXPECT_EQ((*both)->client->options().roots.size(), 2u);
  EXPECT_EQ((*both)->client->identity(), identity.ToString());
}

}  // namespace
}  // namespace qanat::identity
