// SPDX-License-Identifier: Apache-2.0
// Tokens, the authority's Secret and the lease, against a fake API server.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/tls/jwt.h"
#include "controlplane/kube/ca_secret.h"
#include "controlplane/kube/leader_election.h"
#include "controlplane/kube/token_review_authenticator.h"
#include "tests/support/controlplane/kube_bed.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;
using testing::SizeIs;

tls::Time Now() { return std::chrono::system_clock::now(); }

class TokenTest : public testing::Test, protected KubeBed {
 protected:
  // A token that looks as the API server's do; whether it is one only the server knows.
  std::string Token(int64_t expires_in = 3600, const std::string& audience = "istio-ca") {
    const int64_t now = std::chrono::duration_cast<seconds>(Now().time_since_epoch()).count();
    return *tls::SignJwt(key_, fmt::format("k{}", serial_++),
                         json{{"aud", {audience}}, {"exp", now + expires_in}}.dump());
  }
  void Know(const std::string& token, const std::string& user = "system:serviceaccount:shop:web") {
    server.AddToken(token, user, {"istio-ca"},
                    {{"authentication.kubernetes.io/pod-name", "web-1"},
                     {"authentication.kubernetes.io/pod-uid", "u1"},
                     {"authentication.kubernetes.io/node-name", "n1"}});
  }
  Result<TokenClaims> Ask(const std::string& token) {
    std::optional<Result<TokenClaims>> answer;
    const PendingPtr pending = authenticator_.Authenticate(
        "Bearer " + token, Now(), [&](Result<TokenClaims> claims) { answer = std::move(claims); });
    Until([&] { return answer.has_value(); });
    return answer.value_or(Fail(Code::kInternal, "no answer"));
  }
  size_t Reviews() { return server.CountRequests("POST", "tokenreviews"); }

  int serial_ = 0;
  tls::PrivateKey key_ = *tls::PrivateKey::GenerateP256();
  int caught_up_ = 0;
  TokenReviewAuthenticator authenticator_{client, [this] { ++caught_up_; }};
};

TEST_F(TokenTest, TheApiServersWordCountsForAWhile) {
  const std::string token = Token();
  Know(token);
  const auto claims = Ask(token);
  ASSERT_TRUE(claims) << claims.error().message;
  EXPECT_EQ(claims->ns, "shop");
  EXPECT_EQ(claims->service_account, "web");
  EXPECT_EQ(claims->pod_name, "web-1");
  EXPECT_EQ(claims->pod_uid, "u1");
  EXPECT_EQ(claims->node, "n1");
  EXPECT_EQ(caught_up_, 1);
  bool at_once = false;
  EXPECT_EQ(authenticator_.Authenticate("Bearer " + token, Now(),
                                        [&](const auto& again) { at_once = again.has_value(); }),
            nullptr);
  EXPECT_TRUE(at_once);
  EXPECT_EQ(Reviews(), 1u);
}

TEST_F(TokenTest, CallersWithOneTokenShareOneQuestion) {
  const std::string token = Token();
  Know(token);
  std::vector<PendingPtr> pending;
  int answers = 0;
  for (int i = 0; i < 5; ++i) {
    pending.push_back(authenticator_.Authenticate("Bearer " + token, Now(), [&](const auto&) {
      ++answers;
      pending[4].reset();  // one of those who wait gives up when another is answered
    }));
  }
  ASSERT_TRUE(Until([&] { return answers == 4; }));
  For(milliseconds(20));
  EXPECT_EQ(answers, 4);
  EXPECT_EQ(Reviews(), 1u);
}

TEST_F(TokenTest, GivingUpCancels) {
  const std::string token = Token();
  Know(token);
  PendingPtr pending = authenticator_.Authenticate("Bearer " + token, Now(),
                                                   [&](const auto&) { FAIL() << "cancelled"; });
  pending.reset();
  For(milliseconds(50));
  EXPECT_TRUE(Ask(token));
}

TEST_F(TokenTest, Refusals) {
  const auto refused = [&](const std::string& token, Code code, const std::string& text) {
    const auto claims = Ask(token);
    ASSERT_FALSE(claims);
    EXPECT_EQ(claims.error().code, code);
    EXPECT_THAT(claims.error().message, HasSubstr(text));
  };
  refused("garbage", Code::kUnauthenticated, "not a service account token");
  refused(Token(-3600), Code::kUnauthenticated, "the kubelet renews it in its file");
  refused(Token(3600, "kubernetes"), Code::kUnauthenticated, "audience is not istio-ca");
  EXPECT_EQ(Reviews(), 0u) << "nobody was asked";
  refused(Token(), Code::kUnauthenticated, "kubectl rollout restart");
  const std::string human = Token();
  server.AddToken(human, "jane", {"istio-ca"});
  refused(human, Code::kUnauthenticated, "not bound to a pod");
}

TEST_F(TokenTest, AnExpiryBeyondAllTimesIsHarmless) {
  const std::string token = Token(900'000'000'000);
  Know(token);
  EXPECT_TRUE(Ask(token));
  EXPECT_TRUE(Ask(token));
  EXPECT_EQ(Reviews(), 1u);
}

TEST_F(TokenTest, WhileTheApiServerIsAwayItIsAMatterOfTryingAgain) {
  const std::string token = Token();
  Know(token);
  server.AddFault({"POST", "tokenreviews", 1, 403, "", "Forbidden", "no"});
  const auto forbidden = Ask(token);
  ASSERT_FALSE(forbidden);
  EXPECT_EQ(forbidden.error().code, Code::kUnavailable);
  EXPECT_THAT(forbidden.error().message, HasSubstr("tokenreviews"));
  EXPECT_TRUE(Ask(token));
  server.Listen(false);
  EXPECT_TRUE(Ask(token)) << "kept for a minute";
  const auto away = Ask(Token());
  ASSERT_FALSE(away);
  EXPECT_EQ(away.error().code, Code::kUnavailable);
  EXPECT_THAT(away.error().message, HasSubstr("try again"));
}

TEST(TokenReview, AServerThatIgnoresAudiencesIsNotBelieved) {
  const char* review = R"({"kind":"TokenReview","status":{"authenticated":true,"user":{"username":)"
                       R"("system:serviceaccount:shop:web","extra":)"
                       R"({"authentication.kubernetes.io/pod-uid":["u1"]}}}})";
  const auto claims = ClaimsOfReview(review);
  ASSERT_FALSE(claims);
  EXPECT_THAT(claims.error().message, HasSubstr("audience"));
}

// --- The authority's Secret ---------------------------------------------------------------------

class CaSecretTest : public testing::Test, protected KubeBed {
 protected:
  struct Replica {
    explicit Replica(CaSecretTest& t)
        : client(t.loop, t.server.Config()),
          loader(
              t.loop, client, "qanat-system", "qanat-ca", {},
              [this](CertificateAuthority a) { authority.emplace(std::move(a)); },
              [this] { ++replaced; }, milliseconds(50)) {}
    kube::Client client;
    int replaced = 0;
    std::optional<CertificateAuthority> authority;
    CaSecretLoader loader;
  };
  static constexpr const char* kOwn = "/api/v1/namespaces/qanat-system/secrets/qanat-ca";
  void PutSecret(const std::string& name, const std::map<std::string, std::string>& files) {
    json data = json::object();
    for (const auto& [key, text] : files) data[key] = tls::Base64Encode(text);
    Put({{"apiVersion", "v1"},
         {"kind", "Secret"},
         {"metadata", {{"name", name}, {"namespace", "qanat-system"}}},
         {"data", data}});
  }
};

TEST_F(CaSecretTest, TwoReplicasAtOnceMakeOneRoot) {
  Replica a(*this);
  Replica b(*this);
  ASSERT_TRUE(Until([&] { return a.authority && b.authority; }));
  EXPECT_EQ(a.authority->root_pem(), b.authority->root_pem());
  const json secret = Get(kOwn);
  EXPECT_EQ(secret["type"], "istio.io/ca-root");
  EXPECT_EQ(secret["metadata"]["labels"]["app.kubernetes.io/part-of"], "qanat");
  Replica later(*this);
  ASSERT_TRUE(Until([&] { return later.authority.has_value(); }));
  EXPECT_EQ(later.authority->root_pem(), a.authority->root_pem());
}

TEST_F(CaSecretTest, BrokenPemIsNamedAndNeverOverwritten) {
  PutSecret("qanat-ca", {{"ca-cert.pem", "nonsense"}, {"ca-key.pem", "nonsense"}});
  const std::string before = server.Get(kOwn);
  Replica a(*this);
  ASSERT_TRUE(Until([&] { return !a.loader.problem().empty(); }));
  EXPECT_THAT(a.loader.problem(), testing::AllOf(HasSubstr("Secret qanat-system/qanat-ca"),
                                                 HasSubstr("ca-cert.pem"), HasSubstr("restore")));
  EXPECT_FALSE(a.authority);
  EXPECT_EQ(server.Get(kOwn), before);
  // Once it is repaired the control plane goes on by itself.
  const CaFiles good = *MakeCaFiles("cluster.local", Now());
  PutSecret("qanat-ca", {{"ca-cert.pem", good.certificate}, {"ca-key.pem", good.key}});
  ASSERT_TRUE(Until([&] { return a.authority.has_value(); }));
  EXPECT_EQ(a.authority->root_pem(), good.certificate);
  const CaFiles other = *MakeCaFiles("cluster.local", Now());
  PutSecret("qanat-ca", {{"ca-cert.pem", good.certificate}, {"ca-key.pem", other.key}});
  Replica b(*this);
  ASSERT_TRUE(Until([&] { return !b.loader.problem().empty(); }));
  EXPECT_THAT(b.loader.problem(), HasSubstr("do not belong together"));
}

TEST_F(CaSecretTest, AChangeIsNoticed) {
  Replica a(*this);
  ASSERT_TRUE(Until([&] { return a.authority.has_value(); }));
  const json own = Get(kOwn);
  const auto says = [&](const std::string& text) {
    return Until([&] { return a.loader.problem().find(text) != std::string::npos; });
  };
  const auto well = [&] { return Until([&] { return a.loader.problem().empty(); }); };
  server.Listen(false);  // is no change
  For(milliseconds(200));
  server.Listen(true);
  For(milliseconds(500));
  EXPECT_EQ(a.loader.problem(), "");
  server.Remove(kOwn);
  ASSERT_TRUE(says("qanat-ca is gone"));
  For(milliseconds(200));
  EXPECT_TRUE(server.Get(kOwn).empty()) << "a new root would not be that of the mesh";
  Put(own);
  ASSERT_TRUE(well());
  PutSecret("qanat-ca", {{"ca-cert.pem", "nonsense"}, {"ca-key.pem", "nonsense"}});
  ASSERT_TRUE(says("a restart would fail"));
  Put(own);
  ASSERT_TRUE(well());
  EXPECT_EQ(a.replaced, 0);
  // A plug-in authority counts before our own.
  const CaFiles other = *MakeCaFiles("cluster.local", Now());
  PutSecret("cacerts", {{"ca-cert.pem", other.certificate}, {"ca-key.pem", other.key}});
  ASSERT_TRUE(Until([&] { return a.replaced == 1; }));
  EXPECT_THAT(a.loader.problem(), HasSubstr("qanat-system/cacerts has replaced"));
  For(milliseconds(200));
  EXPECT_EQ(a.replaced, 1);
}

TEST_F(CaSecretTest, NoPermissionNamesTheRule) {
  server.AddFault({"GET", "/secrets/cacerts", -1, 403, "", "Forbidden", "forbidden"});
  Replica a(*this);
  ASSERT_TRUE(Until([&] { return !a.loader.problem().empty(); }));
  EXPECT_THAT(a.loader.problem(), testing::AllOf(HasSubstr("cacerts"), HasSubstr("secrets")));
  EXPECT_TRUE(server.Get(kOwn).empty()) << "no second root while there may be a first";
}

TEST_F(CaSecretTest, ThePluginsIntermediateSignsAndLeadsToItsRoot) {
  const tls::PrivateKey root_key = *tls::PrivateKey::GenerateP256();
  const tls::Authority root =
      *tls::MakeRoot(root_key, "corp", "Corp root", Now() - seconds(60), Now() + seconds(86400));
  const tls::PrivateKey key = *tls::PrivateKey::GenerateP256();
  const tls::Certificate middle = *tls::SignIntermediate(
      root, key.public_key(), "Mesh CA", Now() - seconds(30), Now() + seconds(80000));
  const std::string root_pem = root.certificate.ToPem();
  const std::map<std::string, std::string> files = {
      {"ca-cert.pem", middle.ToPem()},
      {"ca-key.pem", key.ToPem()},
      {"cert-chain.pem", middle.ToPem() + "\n" + root_pem},
      {"root-cert.pem", root_pem}};
  PutSecret("cacerts", files);
  Replica a(*this);
  ASSERT_TRUE(Until([&] { return a.authority.has_value(); })) << a.loader.problem();
  EXPECT_TRUE(server.Get(kOwn).empty());
  const tls::PrivateKey leaf_key = *tls::PrivateKey::GenerateP256();
  const auto chain = a.authority->SignWorkload(
      leaf_key.public_key(), "spiffe://cluster.local/ns/a/sa/b", seconds(60), Now());
  ASSERT_TRUE(chain) << chain.error().message;
  ASSERT_THAT(*chain, SizeIs(3)) << "leaf, intermediate, root";
  std::vector<tls::Certificate> certificates;
  for (size_t i = 0; i < 2; ++i) {
    certificates.push_back(tls::Certificate::ParsePem((*chain)[i])->front());
  }
  EXPECT_TRUE(tls::VerifyChain(certificates, *tls::Certificate::ParsePem(chain->back()),
                               tls::Purpose::kClientAuth, Now()));
  std::map<std::string, std::string> alone = files;
  alone.erase("root-cert.pem");
  PutSecret("cacerts", alone);
  Replica b(*this);
  ASSERT_TRUE(Until([&] { return !b.loader.problem().empty(); }));
  EXPECT_THAT(b.loader.problem(), HasSubstr("root-cert.pem is needed"));
}

// --- The lease ----------------------------------------------------------------------------------

class LeaderTest : public testing::Test, protected KubeBed {
 protected:
  struct Replica {
    Replica(LeaderTest& t, const std::string& name, const std::string& version = "1.0.0")
        : client(t.loop, t.server.Config()),
          election(t.loop, client, Quick(name, version), [this](bool leading) {
            leads = leading;
            ++changes;
          }) {}
    static LeaseOptions Quick(const std::string& name, const std::string& version) {
      LeaseOptions out;
      out.ns = "qanat-system";
      out.identity = name;
      out.version = version;
      // The process may stand still for some seconds: a lease outlives that.
      out.duration = milliseconds(6000);
      out.deadline = milliseconds(4000);
      out.retry = milliseconds(150);
      return out;
    }
    kube::Client client;
    bool leads = false;
    int changes = 0;
    LeaderElection election;
  };
  static constexpr const char* kLease =
      "/apis/coordination.k8s.io/v1/namespaces/qanat-system/leases/qanat-controlplane-leader";
};

TEST_F(LeaderTest, OneOfTwoLeadsAndTheOtherTakesOver) {
  auto a = std::make_unique<Replica>(*this, "a");
  ASSERT_TRUE(Until([&] { return a->leads; }));
  Replica b(*this, "b");
  For(milliseconds(7000));
  EXPECT_TRUE(a->leads && a->election.leading());
  EXPECT_FALSE(b.leads);
  EXPECT_EQ(b.election.leader(), "a");
  EXPECT_EQ(Get(kLease)["spec"]["holderIdentity"], "a");
  a.reset();  // as if killed
  ASSERT_TRUE(Until([&] { return b.leads; }));
  EXPECT_EQ(Get(kLease)["spec"]["holderIdentity"], "b");
  EXPECT_EQ(Get(kLease)["spec"]["leaseTransitions"], 1);
}

TEST_F(LeaderTest, AReleasedLeaseIsTakenAtOnce) {
  Replica a(*this, "a");
  ASSERT_TRUE(Until([&] { return a.leads; }));
  Replica b(*this, "b");
  For(milliseconds(300));
  bool released = false;
  a.election.Release([&] { released = true; });
  EXPECT_FALSE(a.leads);
  ASSERT_TRUE(Until([&] { return released; }));
  ASSERT_TRUE(Until([&] { return b.leads; }, milliseconds(5000))) << "before it would expire";
}

TEST_F(LeaderTest, WithoutTheServerTheLeaderStopsBeforeAnotherCanStart) {
  Replica a(*this, "a");
  ASSERT_TRUE(Until([&] { return a.leads; }));
  server.Listen(false);
  ASSERT_TRUE(Until([&] { return !a.election.leading(); }, milliseconds(5700)));
  ASSERT_TRUE(Until([&] { return !a.leads; }));
  server.Listen(true);
  ASSERT_TRUE(Until([&] { return a.leads; }));
}

// What the leader has under way ends with on_change(false), so that must not wait for an answer.
TEST_F(LeaderTest, ARenewalWithoutAnswerDoesNotProlongTheLead) {
  Replica a(*this, "a");
  ASSERT_TRUE(Until([&] { return a.leads; }));
  const auto began = event::Clock::now();
  server.AddFault({.method = "PUT", .path_part = "/leases/", .count = -1, .stall = true});
  ASSERT_TRUE(Until([&] { return !a.leads; }));
  // The deadline of 4 s after the last renewal, which may be up to 180 ms younger than `began`; and
  // not the 6 s after which another may lead.
  EXPECT_LT(event::Clock::now() - began, milliseconds(5700));
}

TEST_F(LeaderTest, AMissingNamespaceIsSaid) {
  server.AddFault({"POST", "/leases", -1, 404, "", "NotFound", "namespaces not found"});
  testing::internal::CaptureStderr();
  Replica a(*this, "a");
  EXPECT_TRUE(
      Until([&] { return server.CountRequests("POST", "/leases") >= 2; }));  // the answer is known
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("namespaces not found"));
  EXPECT_FALSE(a.leads);
}

TEST_F(LeaderTest, WhoeverTakesTheLeaseByHandHasIt) {
  Replica a(*this, "a");
  ASSERT_TRUE(Until([&] { return a.leads; }));
  json lease = Get(kLease);
  lease["spec"]["holderIdentity"] = "somebody";
  Put(lease);
  ASSERT_TRUE(Until([&] { return !a.leads; }));
  ASSERT_TRUE(Until([&] { return a.leads; })) << "it is not renewed";
  // A write by others that leaves us the holder costs nothing.
  lease = Get(kLease);
  lease["metadata"]["labels"]["x"] = "y";
  const int changes = a.changes;
  Put(lease);
  For(milliseconds(700));
  EXPECT_EQ(a.changes, changes);
  EXPECT_TRUE(a.election.leading());
}

TEST(VersionTest, NumbersAreComparedAsNumbers) {
  EXPECT_TRUE(IsNewer("0.10.0", "0.9.3"));
  EXPECT_TRUE(IsNewer("v1.0", "0.9.3"));
  EXPECT_TRUE(IsNewer("0.1.1-rc.1", "0.1.0"));
  EXPECT_FALSE(IsNewer("0.1.0", "0.1.0"));
  EXPECT_FALSE(IsNewer("0.1.0", "0.1.1"));
  EXPECT_FALSE(IsNewer("nightly", "0.1.0"));
  EXPECT_FALSE(IsNewer("2.0", "nightly"));
  EXPECT_FALSE(IsNewer("", "0.1.0"));
}

TEST_F(LeaderTest, AReleasedLeaseGoesToTheNewerReplicaFirst) {
  Replica leader(*this, "leader", "1.2.0");
  ASSERT_TRUE(Until([&] { return leader.leads; }));
  EXPECT_EQ(Get(kLease)["metadata"]["annotations"]["qanat.io/version"], "1.2.0");
  Replica older(*this, "older", "1.1.9");
  For(milliseconds(300));
  leader.election.Release([] {});
  For(milliseconds(1000));
  EXPECT_FALSE(older.leads) << "it would overwrite what a newer one has written";
  Replica newer(*this, "newer", "1.2.0");
  ASSERT_TRUE(Until([&] { return newer.leads; }, milliseconds(4500)));
  For(milliseconds(7000));
  EXPECT_EQ(older.changes, 0);
}

TEST_F(LeaderTest, WhoGoesBackToAnOlderVersionLeadsAfterAWhile) {
  {
    Replica newer(*this, "newer", "1.2.0");
    ASSERT_TRUE(Until([&] { return newer.leads; }));
    bool released = false;
    newer.election.Release([&] { released = true; });
    ASSERT_TRUE(Until([&] { return released; }));
  }
  Replica older(*this, "older", "1.1.9");
  ASSERT_TRUE(Until([&] { return older.leads; }, milliseconds(30000)));
  EXPECT_EQ(Get(kLease)["metadata"]["annotations"]["qanat.io/version"], "1.1.9");
}

}  // namespace
}  // namespace qanat::controlplane
