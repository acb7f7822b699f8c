// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "controlplane/ca/ca_service.h"
#include "controlplane/ca/jwks_authenticator.h"
#include "controlplane/source/store.h"

namespace qanat::controlplane {
namespace {

using std::chrono::hours;
using std::chrono::seconds;
using testing::HasSubstr;
using testing::SizeIs;

// A request for a P-256 key with an empty subject and no extensions.
const char* kNamelessCsr =
    "-----BEGIN CERTIFICATE REQUEST-----\n"
    "MIG6MGICAQAwADBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNE8mNe9zlgOMDvm\n"
    "CK7aAnNPE15AKGw5Vmr1STYfCCGTrYHVMDNd92neC6sSu0JX8x2E6WjOm4wb0OYy\n"
    "VRUyRS2gADAKBggqhkjOPQQDAgNIADBFAiEAviaglCVQkxNFn/ekDQl034FhROCU\n"
    "CqIiyZWGvAtl2p8CICQj7jkRGOg8Am6Pmn/ZvPLOrkyQ7W1U2oMzk5NeEvsi\n"
    "-----END CERTIFICATE REQUEST-----\n";

// Two nodes; on n1 the node proxy, a web pod, a finished pod and one of the host's network, on n2 a
// database.
const char* kPods = R"(
apiVersion: v1
kind: Pod
metadata: {name: ztunnel-n1, namespace: qanat-system, uid: zt1}
spec: {nodeName: n1, serviceAccountName: ztunnel}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: web1}
spec: {nodeName: n1, serviceAccountName: web}
status: {phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: job, namespace: shop, uid: job1}
spec: {nodeName: n1, serviceAccountName: job}
status: {phase: Succeeded}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: shop, uid: agent1}
spec: {nodeName: n1, serviceAccountName: agent, hostNetwork: true}
status: {phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, uid: db1}
spec: {nodeName: n2, serviceAccountName: db}
)";

class CaTest : public testing::Test {
 protected:
  CaTest() {
    char name[] = "/tmp/qanat-ca-XXXXXX";
    dir_ = ::mkdtemp(name);
    issuer_ = *tls::PrivateKey::GenerateP256();
    WriteJwks(issuer_);
    authority_ = std::make_unique<CertificateAuthority>(
        *CertificateAuthority::OpenOrCreate({dir_ + "/ca"}, now_));
    tokens_ = std::make_unique<JwksAuthenticator>(dir_ + "/jwks.json");
    SetWorld(kPods);
    service_ = std::make_unique<CaService>(
        *authority_, *tokens_, std::set<std::string>{"qanat-system/ztunnel"},
        [this] { return world_; }, [this] { return now_; }, registry_);
  }
  ~CaTest() override { std::filesystem::remove_all(dir_); }

  void SetWorld(std::string_view yaml) { world_ = World::Build(LoadText(yaml).objects, {}); }

  void WriteJwks(const tls::PrivateKey& key) {
    std::ofstream(dir_ + "/jwks.new") << *tls::MakeJwks(key.public_key(), "k1");
    std::filesystem::rename(dir_ + "/jwks.new", dir_ + "/jwks.json");
  }

  struct TokenSpec {
    std::string ns = "qanat-system", sa = "ztunnel", pod = "ztunnel-n1", uid = "zt1", node = "n1";
    std::string audience = "istio-ca", sub;
    int64_t exp_in = 3600, nbf_in = -10;
  };
  std::string Token(const TokenSpec& s, const tls::PrivateKey* key = nullptr) {
    const int64_t t = std::chrono::duration_cast<seconds>(now_.time_since_epoch()).count();
    const std::string sub = s.sub.empty() ? "system:serviceaccount:" + s.ns + ":" + s.sa : s.sub;
    const std::string payload =
        R"({"iss":"qanat","aud":[")" + s.audience + R"("],"sub":")" + sub + R"(","exp":)" +
        std::to_string(t + s.exp_in) + R"(,"iat":)" + std::to_string(t - 10) + R"(,"nbf":)" +
        std::to_string(t + s.nbf_in) + R"(,"kubernetes.io":{"namespace":")" + s.ns +
        R"(","serviceaccount":{"name":")" + s.sa + R"(","uid":"x"},"pod":{"name":")" + s.pod +
        R"(","uid":")" + s.uid + R"("},"node":{"name":")" + s.node + R"(","uid":"y"}}})";
    return "Bearer " + *tls::SignJwt(key == nullptr ? issuer_ : *key, "k1", payload);
  }
  static TokenSpec Web() { return {"shop", "web", "web", "web1", "n1"}; }

  Result<std::vector<std::string>> Ask(const std::string& authorization, const std::string& as,
                                       const tls::RequestNames& names, int64_t validity = 0) {
    // Without names given: the web pod's own.
    const bool none = names.uri.empty() && names.dns.empty() && names.ip.empty();
    return Create(
        authorization,
        {*tls::MakeCsr(key_, none ? tls::RequestNames{{kWeb}, {}, {}} : names), validity, as});
  }
  Result<std::vector<std::string>> Create(const std::string& authorization,
                                          CertificateRequest request) {
    std::optional<Result<std::vector<std::string>>> answer;
    EXPECT_EQ(service_->CreateCertificate(authorization, std::move(request),
                                          [&](auto result) { answer = std::move(result); }),
              nullptr)
        << "keys are at hand: the answer comes at once";
    return answer.value();
  }
  uint64_t Refusals(const std::string& reason) {
    return registry_.AddCounter("qanat_ca_refusals", "Certificates refused, by reason.", {"reason"})
        .With({reason})
        ->value();
  }
  void ExpectRefused(const Result<std::vector<std::string>>& result, Code code,
                     const std::string& reason, const std::string& text) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, code) << result.error().message;
    EXPECT_THAT(result.error().message, HasSubstr(text));
    EXPECT_EQ(Refusals(reason), 1u) << reason;
  }

  const std::string kWeb = "spiffe://cluster.local/ns/shop/sa/web";
  const std::string kDb = "spiffe://cluster.local/ns/shop/sa/db";
  const std::string kZtunnel = "spiffe://cluster.local/ns/qanat-system/sa/ztunnel";
  tls::Time now_ = std::chrono::system_clock::now();
  std::string dir_;
  tls::PrivateKey issuer_;
  tls::PrivateKey key_ = *tls::PrivateKey::GenerateP256();
  std::shared_ptr<const World> world_;
  metrics::Registry registry_;
  std::unique_ptr<CertificateAuthority> authority_;
  std::unique_ptr<JwksAuthenticator> tokens_;
  std::unique_ptr<CaService> service_;
};

TEST_F(CaTest, NodeProxyGetsTheIdentityOfAPodOnItsNode) {
  const auto chain = Ask(Token({}), kWeb, {{kWeb}, {}, {}});
  ASSERT_TRUE(chain) << chain.error().message;
  ASSERT_THAT(*chain, SizeIs(2));
  EXPECT_TRUE(chain->front().ends_with("-----END CERTIFICATE-----\n"));
  const auto leaf = *tls::Certificate::ParsePem(chain->front());
  const auto roots = *tls::Certificate::ParsePem(chain->back());
  EXPECT_EQ(leaf[0].sans().uri, std::vector<std::string>{kWeb});
  EXPECT_EQ(leaf[0].sans().count(), 1u);
  EXPECT_EQ(leaf[0].subject(), "");
  EXPECT_TRUE(leaf[0].Matches(key_));
  EXPECT_TRUE(tls::VerifyChain(leaf, roots, tls::Purpose::kClientAuth, now_));
  EXPECT_TRUE(tls::VerifyChain(leaf, roots, tls::Purpose::kServerAuth, now_));
}

TEST_F(CaTest, EveryoneGetsTheirOwnAndACsrWithoutNamesWillDo) {
  const auto web = Create(Token(Web()), {kNamelessCsr, 0, ""});
  ASSERT_TRUE(web) << web.error().message;
  EXPECT_EQ((*tls::Certificate::ParsePem(web->front()))[0].sans().uri[0], kWeb);
  const auto node = Ask(Token({}), "", {{kZtunnel}, {}, {}});
  ASSERT_TRUE(node) << node.error().message;
}

TEST_F(CaTest, ValidityIsCapped) {
  const auto life = [&](int64_t asked) {
    const auto chain = Ask(Token(Web()), "", {}, asked);
    const auto leaf = (*tls::Certificate::ParsePem(chain->front()))[0];
    return std::chrono::duration_cast<seconds>(leaf.not_after() - now_).count();
  };
  EXPECT_NEAR(life(0), 24 * 3600, 1);
  EXPECT_NEAR(life(600), 600, 1);
  EXPECT_NEAR(life(10 * 365 * 86400LL), 24 * 3600, 1);
  EXPECT_NEAR(life(INT64_MAX), 24 * 3600, 1);
  EXPECT_NEAR(life(-5), 24 * 3600, 1);
}

TEST_F(CaTest, AnotherNodesPodIsRefused) {
  ExpectRefused(Ask(Token({}), kDb, {{kDb}, {}, {}}), Code::kPermissionDenied,
                "no_such_pod_on_node", "no pod on node n1 runs as shop/db");
}

TEST_F(CaTest, FinishedPodGivesNoIdentity) {
  const std::string job = "spiffe://cluster.local/ns/shop/sa/job";
  ExpectRefused(Ask(Token({}), job, {{job}, {}, {}}), Code::kPermissionDenied,
                "no_such_pod_on_node", "no pod on node n1");
}

TEST_F(CaTest, APodOfTheHostsNetworkLendsNoIdentity) {
  const std::string agent = "spiffe://cluster.local/ns/shop/sa/agent";
  ExpectRefused(Ask(Token({}), agent, {{agent}, {}, {}}), Code::kPermissionDenied,
                "no_such_pod_on_node", "no pod on node n1");
}

TEST_F(CaTest, NodeClaimOfTheTokenMustFitThePod) {
  TokenSpec spec;
  spec.node = "n2";  // to get at the pods of n2
  ExpectRefused(Ask(Token(spec), kDb, {}), Code::kUnauthenticated, "not_authenticated",
                "is on node n1, not on n2");
}

TEST_F(CaTest, PlainWorkloadMayNotImpersonate) {
  ExpectRefused(Ask(Token(Web()), kDb, {}), Code::kPermissionDenied, "not_a_node_proxy",
                "shop/web may not ask for another's identity");
}

TEST_F(CaTest, TwoNamesInTheRequestAreRefused) {
  ExpectRefused(Ask(Token({}), kWeb, {{kWeb, kDb}, {}, {}}), Code::kPermissionDenied, "csr_names",
                kDb);
}

TEST_F(CaTest, OtherKindsOfNamesAreRefused) {
  ExpectRefused(Ask(Token({}), kWeb, {{kWeb}, {"web.shop.svc"}, {}}), Code::kPermissionDenied,
                "csr_names", "web.shop.svc");
  EXPECT_FALSE(Ask(Token({}), kWeb, {{}, {}, {"10.0.0.1"}}));
  EXPECT_FALSE(Ask(Token(Web()), "", {{kDb}, {}, {}}));
}

TEST_F(CaTest, ForeignTrustDomainIsRefused) {
  ExpectRefused(Ask(Token({}), "spiffe://other.example/ns/shop/sa/web", {}),
                Code::kPermissionDenied, "foreign_trust_domain", "another trust domain");
}

TEST_F(CaTest, MalformedIdentitiesAreRefused) {
  for (const char* identity :
       {"x", "spiffe://cluster.local/ns/shop/sa/web/", "spiffe://cluster.local/ns//sa/web",
        "spiffe://cluster.local/ns/shop/sa/%77eb", "SPIFFE://cluster.local/ns/shop/sa/web"}) {
    const auto result = Ask(Token({}), identity, {});
    ASSERT_FALSE(result) << identity;
  }
  EXPECT_EQ(Refusals("bad_identity"), 5u);
}

TEST_F(CaTest, TokenOfADeletedPodIsRefusedWhenReplayed) {
  const std::string token = Token(Web());
  ASSERT_TRUE(Ask(token, "", {}));
  std::string without = kPods;
  without.replace(without.find("uid: web1"), 9, "uid: web2");  // deleted, made again
  SetWorld(without);
  ExpectRefused(Ask(token, "", {}), Code::kUnauthenticated, "not_authenticated",
                "does not exist, or not any more");
}

TEST_F(CaTest, ExpiredEarlyAndForeignTokensAreRefused) {
  TokenSpec expired = Web();
  expired.exp_in = -60;
  EXPECT_FALSE(Ask(Token(expired), "", {}));
  const std::string replayed = Token(Web());
  now_ += hours(2);
  EXPECT_FALSE(Ask(replayed, "", {}));
  TokenSpec early = Web();
  early.nbf_in = 3000;
  EXPECT_FALSE(Ask(Token(early), "", {}));
  TokenSpec audience = Web();
  audience.audience = "kubernetes";
  EXPECT_FALSE(Ask(Token(audience), "", {}));
  const tls::PrivateKey other = *tls::PrivateKey::GenerateP256();
  EXPECT_FALSE(Ask(Token(Web(), &other), "", {}));
  TokenSpec sub = Web();
  sub.sub = "system:serviceaccount:shop:db";
  EXPECT_FALSE(Ask(Token(sub), "", {}));
  TokenSpec account = Web();
  account.sa = "db";  // the pod does not run as it
  EXPECT_FALSE(Ask(Token(account), "", {}));
  TokenSpec name = Web();
  name.pod = "other";
  EXPECT_FALSE(Ask(Token(name), "", {}));
  for (const char* text : {"", "Bearer ", "Bearer x", "Bearer a.b.c", "Basic abc"}) {
    EXPECT_FALSE(Ask(text, "", {}));
  }
  EXPECT_FALSE(Ask("Bearer " + std::string(20000, 'a'), "", {}));
  EXPECT_EQ(Refusals("not_authenticated"), 14u);
}

TEST_F(CaTest, KeysAreReadAgainWhenTheyChange) {
  const tls::PrivateKey next = *tls::PrivateKey::GenerateP256();
  ASSERT_TRUE(Ask(Token(Web()), "", {}));
  WriteJwks(next);
  EXPECT_FALSE(Ask(Token(Web()), "", {}));
  EXPECT_TRUE(Ask(Token(Web(), &next), "", {}));
  // A broken file does not lock everyone out.
  std::ofstream(dir_ + "/jwks.json") << "{";
  EXPECT_TRUE(Ask(Token(Web(), &next), "", {}));
}

TEST_F(CaTest, GarbageForARequest) {
  for (const char* csr : {"", "x",
                          "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE "
                          "REQUEST-----\n"}) {
    const auto result = Create(Token(Web()), {csr, 0, ""});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Code::kInvalidArgument);
  }
}

TEST_F(CaTest, RootIsPrivateAndSurvives) {
  struct stat st{};
  ASSERT_EQ(::stat((dir_ + "/ca/root-key.pem").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  const auto again = CertificateAuthority::OpenOrCreate({dir_ + "/ca"}, now_);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->root_pem(), authority_->root_pem());
  EXPECT_GT(authority_->root().not_after() - now_, hours(24 * 3649));
  ::chmod((dir_ + "/ca/root-key.pem").c_str(), 0644);
  EXPECT_THAT(CertificateAuthority::OpenOrCreate({dir_ + "/ca"}, now_).error().message,
              HasSubstr("chmod 600"));
  ::chmod((dir_ + "/ca/root-key.pem").c_str(), 0600);
  EXPECT_FALSE(CertificateAuthority::OpenOrCreate({dir_ + "/ca"}, now_ + hours(24 * 4000)));
  std::ofstream(dir_ + "/ca/root-key.pem") << tls::PrivateKey::GenerateP256()->ToPem();
  EXPECT_THAT(CertificateAuthority::OpenOrCreate({dir_ + "/ca"}, now_).error().message,
              HasSubstr("do not belong together"));
  std::filesystem::remove(dir_ + "/ca/root-key.pem");
  EXPECT_THAT(CertificateAuthority::OpenOrCreate({dir_ + "/ca"}, now_).error().message,
              HasSubstr("only one of"));
}

TEST_F(CaTest, ServingCertificate) {
  const auto serving = authority_->IssueServing({"istiod.istio-system.svc", "localhost"},
                                                {"127.0.0.1", "fd90::254"}, now_);
  ASSERT_TRUE(serving) << serving.error().message;
  const auto chain = *tls::Certificate::ParsePem(serving->chain_pem);
  EXPECT_EQ(chain[0].sans().dns,
            (std::vector<std::string>{"istiod.istio-system.svc", "localhost"}));
  EXPECT_EQ(chain[0].sans().ip, (std::vector<std::string>{"127.0.0.1", "fd90::254"}));
  EXPECT_TRUE(chain[0].Matches(*tls::PrivateKey::FromPem(serving->key_pem)));
  // It must not pass for a workload.
  EXPECT_FALSE(tls::VerifyChain(chain, {authority_->root()}, tls::Purpose::kClientAuth, now_));
  EXPECT_TRUE(tls::VerifyChain(chain, {authority_->root()}, tls::Purpose::kServerAuth, now_));
}

}  // namespace
}  // namespace qanat::controlplane
