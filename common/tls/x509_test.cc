// SPDX-License-Identifier: Apache-2.0
#include "common/tls/x509.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/tls/spiffe.h"
#include "common/tls/test_certs.h"

namespace qanat::tls {
namespace {

using ::testing::HasSubstr;
using testing::Now;
using testing::TestCa;
using namespace std::chrono_literals;

constexpr char kAlice[] = "spiffe://cluster.local/ns/shop/sa/alice";

TEST(Crypto, KnownValues) {
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Base64Encode("any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw==");
  EXPECT_EQ(*Base64Decode("YW55IGNhcm5hbCBwbGVhcw=="), "any carnal pleas");
  EXPECT_EQ(Base64UrlEncode("\xfb\xff\xfe"), "-__-");
  EXPECT_EQ(*Base64UrlDecode("-__-"), "\xfb\xff\xfe");
  EXPECT_FALSE(Base64UrlDecode("+//+"));
  EXPECT_FALSE(Base64UrlDecode("YQ=="));
  EXPECT_FALSE(Base64UrlDecode("a"));
  EXPECT_TRUE(ConstantTimeEqual("same", "same"));
  EXPECT_FALSE(ConstantTimeEqual("same", "sane"));
  EXPECT_FALSE(ConstantTimeEqual("same", "same but longer"));
  EXPECT_NE(RandomHex(16), RandomHex(16));
  EXPECT_EQ(RandomHex(16).size(), 32u);
}

TEST(Crypto, KeysInAndOut) {
  auto key = PrivateKey::GenerateP256();
  ASSERT_TRUE(key);
  std::string pem = key->ToPem();
  EXPECT_THAT(pem, HasSubstr("BEGIN PRIVATE KEY"));  // PKCS#8
  auto back = PrivateKey::FromPem(pem);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->public_key().Sha256OfSpki(), key->public_key().Sha256OfSpki());
  auto half = PublicKey::FromPem(key->public_key().ToPem());
  ASSERT_TRUE(half);
  EXPECT_EQ(half->Sha256OfSpki(), key->public_key().Sha256OfSpki());
  EXPECT_FALSE(PrivateKey::FromPem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"));
  EXPECT_FALSE(PrivateKey::FromPem(""));
  // The traditional form, as `openssl ecparam -name prime256v1 -genkey` writes it.
  EXPECT_TRUE(
      PrivateKey::FromPem("-----BEGIN EC PRIVATE KEY-----\n"
                          "MHcCAQEEIO7XlSaESladsDNyc274FWkeg0XZ3RAltPwn7OneHzPBoAoGCCqGSM49\n"
                          "AwEHoUQDQgAEAJsTpkwTIPTiN3fsPgteKhNRE3ZDcb7Zr1ZuDhid1ODkVhLBoc7j\n"
                          "9+SBzynJLCqT4iPoy7Ta8nazW2IGTpfbJg==\n"
                          "-----END EC PRIVATE KEY-----\n"));
}

TEST(Spiffe, OnlyTheExactForm) {
  auto parts = ParseSpiffe(kAlice);
  ASSERT_TRUE(parts);
  EXPECT_EQ(parts->trust_domain, "cluster.local");
  EXPECT_EQ(parts->ns, "shop");
  EXPECT_EQ(parts->service_account, "alice");
  for (const char* bad :
       {"", "spiffe://", "spiffe://td", "spiffe://td/ns/n/sa", "spiffe://td/ns/n/sa/",
        "spiffe://td/ns/n/sa/a/", "spiffe://td/ns/n/sa/a/b", "spiffe:///ns/n/sa/a",
        "spiffe://td/ns//sa/a", "spiffe://td/sa/n/ns/a", "http://td/ns/n/sa/a",
        "SPIFFE://td/ns/n/sa/a", "spiffe://td/ns/n/sa/a?x", "spiffe://td/ns/n/sa/a#x",
        "spiffe://td/ns/n/sa/a%2e", "spiffe://td/ns/n/sa/a b", "spiffe://td/ns/../sa/a"}) {
    EXPECT_FALSE(ParseSpiffe(bad)) << bad;
  }
}

TEST(X509, LeafHasWhatTheMeshWants) {
  TestCa ca = TestCa::Make();
  auto alice = ca.Issue(kAlice);
  const Certificate& cert = alice.certificate;
  EXPECT_EQ(cert.sans().uri, std::vector<std::string>{kAlice});
  EXPECT_EQ(cert.sans().count(), 1u);
  EXPECT_EQ(cert.subject(), "");
  EXPECT_EQ(cert.issuer(), ca.authority.certificate.subject());
  EXPECT_FALSE(cert.is_ca());
  EXPECT_FALSE(cert.SelfSigned());
  EXPECT_TRUE(cert.Matches(alice.key));
  EXPECT_FALSE(cert.Matches(ca.authority.key));
  EXPECT_EQ(cert.serial_hex().size(), 32u);
  EXPECT_NE(cert.serial(), ca.Issue(kAlice).certificate.serial());
  EXPECT_NEAR(std::chrono::duration<double>(cert.not_after() - Now()).count(), 3600, 5);
  EXPECT_TRUE(ca.authority.certificate.is_ca());
  EXPECT_TRUE(ca.authority.certificate.SelfSigned());
  EXPECT_THAT(ca.authority.certificate.subject(), HasSubstr("O=cluster.local"));
}

TEST(X509, ServingCertificateNames) {
  TestCa ca = TestCa::Make();
  auto cert =
      ca.Issue(RequestNames{{}, {"istiod.istio-system.svc"}, {"10.0.0.1", "fd00::1"}}).certificate;
  EXPECT_EQ(cert.sans().dns, std::vector<std::string>{"istiod.istio-system.svc"});
  EXPECT_EQ(cert.sans().ip, (std::vector<std::string>{"10.0.0.1", "fd00::1"}));
}

TEST(X509, PemRoundTrip) {
  TestCa ca = TestCa::Make();
  auto alice = ca.Issue(kAlice);
  std::string pem = ToPem({alice.certificate, ca.authority.certificate});
  auto chain = Certificate::ParsePem("text around is skipped\n" + pem);
  ASSERT_TRUE(chain);
  ASSERT_EQ(chain->size(), 2u);
  EXPECT_EQ((*chain)[0].ToDer(), alice.certificate.ToDer());
  EXPECT_EQ((*chain)[0].serial(), alice.certificate.serial());
  EXPECT_FALSE(Certificate::ParsePem(""));
  EXPECT_FALSE(Certificate::ParsePem("no certificate"));
  auto broken =
      Certificate::ParsePem(pem + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
  ASSERT_FALSE(broken);
  EXPECT_THAT(broken.error().message, HasSubstr("certificate 3"));
  auto der = alice.certificate.ToDer();
  der.push_back(0);
  EXPECT_FALSE(Certificate::FromDer(der));
}

TEST(X509, RequestHasOneCriticalUriAndNoSubject) {
  auto key = PrivateKey::GenerateP256();
  auto pem = MakeCsr(*key, {{kAlice}, {}, {}});
  ASSERT_TRUE(pem);
  auto csr = ParseCsr(*pem);
  ASSERT_TRUE(csr) << csr.error().message;
  EXPECT_EQ(csr->subject, "");
  EXPECT_EQ(csr->sans.uri, std::vector<std::string>{kAlice});
  EXPECT_EQ(csr->sans.count(), 1u);
  EXPECT_TRUE(csr->other_extensions.empty());
  EXPECT_EQ(csr->key.Sha256OfSpki(), key->public_key().Sha256OfSpki());
}

TEST(X509, RequestsThatAreRefused) {
  auto key = PrivateKey::GenerateP256();
  std::string pem = *MakeCsr(*key, {{kAlice}, {}, {}});
  EXPECT_FALSE(ParseCsr(""));
  EXPECT_FALSE(
      ParseCsr("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n"
               "-----END CERTIFICATE REQUEST-----\n"));
  EXPECT_FALSE(ParseCsr(std::string(100000, 'x')));
  // One flipped bit anywhere: either it does not parse or the signature does not fit.
  std::string body = pem.substr(pem.find('\n') + 1);
  body.erase(body.find("-----"));
  std::erase(body, '\n');
  std::string der = *Base64Decode(body);
  int parsed = 0;
  for (size_t i = 0; i < der.size(); ++i) {
    std::string bad = der;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    parsed += ParseCsr("-----BEGIN CERTIFICATE REQUEST-----\n" + Base64Encode(bad) +
                       "\n-----END CERTIFICATE REQUEST-----\n")
                  ? 1
                  : 0;
  }
  EXPECT_EQ(parsed, 0);
  // Two names are there to be seen, whoever signs decides.
  auto two = ParseCsr(*MakeCsr(*key, {{kAlice, "spiffe://cluster.local/ns/a/sa/b"}, {"x"}, {}}));
  EXPECT_EQ(two->sans.count(), 3u);
  auto weak = PrivateKey::GenerateRsa(1024);
  ASSERT_TRUE(weak);
  auto csr = ParseCsr(*MakeCsr(*weak, {{kAlice}, {}, {}}));
  ASSERT_FALSE(csr);
  EXPECT_THAT(csr.error().message, HasSubstr("2048"));
}

TEST(X509, SigningRefuses) {
  TestCa ca = TestCa::Make();
  auto key = PrivateKey::GenerateP256();
  LeafTemplate leaf;
  leaf.key = key->public_key();
  leaf.names.uri = {kAlice};
  leaf.not_before = Now() - 1min;
  leaf.not_after = Now() + 1h;
  EXPECT_TRUE(SignLeaf(ca.authority, leaf));
  LeafTemplate late = leaf;
  late.not_after = ca.authority.certificate.not_after() + 1h;
  EXPECT_THAT(SignLeaf(ca.authority, late).error().message, HasSubstr("renew the CA"));
  LeafTemplate empty = leaf;
  empty.names = {};
  EXPECT_FALSE(SignLeaf(ca.authority, empty));
  LeafTemplate spaces = leaf;
  spaces.names.uri = {"spiffe://td/ns/a/sa/b c"};
  EXPECT_FALSE(SignLeaf(ca.authority, spaces));
  LeafTemplate bad_ip = leaf;
  bad_ip.names.ip = {"300.1.1.1"};
  EXPECT_FALSE(SignLeaf(ca.authority, bad_ip));
  auto alice = ca.Issue(kAlice);
  EXPECT_FALSE(SignLeaf({alice.certificate, alice.key}, leaf));
  EXPECT_FALSE(SignLeaf({ca.authority.certificate, alice.key}, leaf));
}

TEST(X509, ChainVerification) {
  TestCa ca = TestCa::Make();
  auto alice = ca.Issue(kAlice);
  std::vector<Certificate> chain = {alice.certificate}, roots = {ca.authority.certificate};
  EXPECT_TRUE(VerifyChain(chain, roots, Purpose::kClientAuth, Now()));
  EXPECT_TRUE(VerifyChain(chain, roots, Purpose::kServerAuth, Now()));
  EXPECT_THAT(VerifyChain(chain, roots, Purpose::kAny, Now() + 2h).error().message,
              HasSubstr("expired at"));
  EXPECT_THAT(VerifyChain(chain, roots, Purpose::kAny, Now() - 2h).error().message,
              HasSubstr("valid only from"));
  EXPECT_FALSE(VerifyChain(chain, {}, Purpose::kAny, Now()));
  EXPECT_FALSE(VerifyChain({}, roots, Purpose::kAny, Now()));
  // A leaf cannot issue.
  auto key = PrivateKey::GenerateP256();
  auto middle = SignIntermediate(ca.authority, key->public_key(), "m", Now() - 2min, Now() + 2h);
  TestCa below{Authority{*middle, *key}};
  auto carol = below.Issue(kAlice);
  EXPECT_TRUE(VerifyChain({carol.certificate, *middle}, roots, Purpose::kAny, Now()));
  // Path length 0: an intermediate of an intermediate does not verify.
  auto key2 = PrivateKey::GenerateP256();
  auto second =
      SignIntermediate(below.authority, key2->public_key(), "n", Now() - 1min, Now() + 30min);
  ASSERT_TRUE(second);
  TestCa lowest{Authority{*second, *key2}};
  auto dave = lowest.Issue(RequestNames{{kAlice}, {}, {}}, Usage::kBoth, -30s, 60s);
  EXPECT_FALSE(VerifyChain({dave.certificate, *second, *middle}, roots, Purpose::kAny, Now()));
}

}  // namespace
}  // namespace qanat::tls
