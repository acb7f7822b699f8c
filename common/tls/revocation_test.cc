// SPDX-License-Identifier: Apache-2.0
#include "common/tls/revocation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/tls/test_certs.h"
#include "common/tls/test_crl.h"

namespace qanat::tls {
namespace {

using testing::Crl;
using ::testing::HasSubstr;
using testing::Make;
using testing::Now;
using testing::Pem;
using testing::TestCa;
using namespace std::chrono_literals;

constexpr char kAlice[] = "spiffe://cluster.local/ns/shop/sa/alice";

Result<RevocationListPtr> Parse(std::string_view text) {
  return RevocationList::Parse({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

class RevocationTest : public ::testing::Test {
 protected:
  RevocationTest() {
    auto key = PrivateKey::GenerateP256();
    middle_ = {
        *SignIntermediate(root_.authority, key->public_key(), "middle", Now() - 1h, Now() + 2h),
        *key};
    alice_ = TestCa{middle_}.Issue(kAlice).certificate;
    other_ = TestCa{middle_}.Issue(kAlice).certificate;
    path_ = {alice_, middle_.certificate, root_.authority.certificate};
  }
  TestCa root_ = TestCa::Make();
  Authority middle_;
  Certificate alice_, other_;
  std::vector<Certificate> path_;
};

TEST_F(RevocationTest, ALeafOnTheListOfItsIssuer) {
  auto list = Parse(Pem(Make(middle_, {{alice_}}).get()));
  ASSERT_TRUE(list) << list.error().message;
  EXPECT_EQ((*list)->lists(), 1u);
  EXPECT_EQ((*list)->entries(), 1u);
  auto why = (*list)->Revoked(path_);
  ASSERT_TRUE(why);
  EXPECT_THAT(*why, HasSubstr(kAlice));
  EXPECT_THAT(*why, HasSubstr(alice_.serial_hex()));
  path_[0] = other_;
  EXPECT_FALSE((*list)->Revoked(path_));
}

TEST_F(RevocationTest, AnyCertificateOfThePath) {
  auto list = Parse(Pem(Make(root_.authority, {{middle_.certificate}}).get()));
  ASSERT_TRUE(list);
  EXPECT_THAT((*list)->Revoked(path_).value_or(""), HasSubstr("middle"));
  auto self = Parse(Pem(Make(root_.authority, {{root_.authority.certificate}}).get()));
  EXPECT_TRUE((*self)->Revoked(path_)) << "a root that revoked itself";
}

TEST_F(RevocationTest, WhoNoListSpeaksOfIsNotRevoked) {
  TestCa elsewhere = TestCa::Make("elsewhere");
  auto list = Parse(Pem(Make(elsewhere.authority, {{alice_}}).get()));
  ASSERT_TRUE(list);
  EXPECT_FALSE((*list)->Revoked(path_)) << "the same serial number of another issuer";
  list = Parse(Pem(Make(middle_, {}).get()));
  EXPECT_FALSE((*list)->Revoked(path_));
}

TEST_F(RevocationTest, AListThatSomebodyElseSignedSaysNothing) {
  auto key = PrivateKey::GenerateP256();
  auto list = Parse(Pem(Make(middle_, {{alice_}}, &*key).get()));
  ASSERT_TRUE(list);
  EXPECT_FALSE((*list)->Revoked(path_));
}

TEST_F(RevocationTest, SignaturesOfThoseThatAreKnown) {
  const std::vector<Certificate> authorities = {root_.authority.certificate, middle_.certificate};
  auto key = PrivateKey::GenerateP256();
  auto forged = Parse(Pem(Make(root_.authority, {}).get()) + Pem(Make(middle_, {}, &*key).get()));
  ASSERT_TRUE(forged);
  Status status = (*forged)->CheckSignatures(authorities);
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().message, HasSubstr("middle"));
  EXPECT_TRUE((*forged)->CheckSignatures({&authorities[0], 1})) << "of an issuer nobody knows";
  auto good = Parse(Pem(Make(root_.authority, {}).get()) + Pem(Make(middle_, {}).get()));
  EXPECT_TRUE((*good)->CheckSignatures(authorities));
}

TEST_F(RevocationTest, SeveralListsInOneFile) {
  std::string text = "a comment\n" + Pem(Make(root_.authority, {}).get()) +
                     Pem(Make(middle_, {{other_}}).get()) + Pem(Make(middle_, {{alice_}}).get());
  auto list = Parse(text);
  ASSERT_TRUE(list);
  EXPECT_EQ((*list)->lists(), 3u);
  EXPECT_TRUE((*list)->Revoked(path_));
}

TEST_F(RevocationTest, Der) {
  auto crl = Make(middle_, {{alice_}});
  uint8_t* der = nullptr;
  int size = i2d_X509_CRL(crl.get(), &der);
  ASSERT_GT(size, 0);
  std::string bytes(reinterpret_cast<char*>(der), static_cast<size_t>(size));
  OPENSSL_free(der);
  auto list = Parse(bytes);
  ASSERT_TRUE(list);
  EXPECT_TRUE((*list)->Revoked(path_));
  EXPECT_FALSE(Parse(bytes + "x")) << "something behind it";
  EXPECT_FALSE(Parse(bytes.substr(0, bytes.size() - 1)));
}

TEST_F(RevocationTest, AnOldListStillHolds) {
  auto list = Parse(Pem(Make(middle_, {{alice_}, -60s}).get()));
  ASSERT_TRUE(list);
  EXPECT_TRUE((*list)->Revoked(path_));
  ASSERT_EQ((*list)->Stale(Now()).size(), 1u);
  EXPECT_THAT((*list)->Stale(Now())[0], HasSubstr("should have been renewed"));
  EXPECT_TRUE((*list)->Stale(Now() - 120s).empty());
}

TEST_F(RevocationTest, AListWithoutNextUpdateNeverGrowsOld) {
  auto list = Parse(Pem(Make(middle_, {{alice_}, std::nullopt}).get()));
  ASSERT_TRUE(list) << list.error().message;
  EXPECT_TRUE((*list)->Revoked(path_));
  EXPECT_TRUE((*list)->Stale(Now() + 1000000h).empty());
}

// Who puts files together leaves lines between them, of dashes too.
TEST_F(RevocationTest, TextAroundTheLists) {
  const std::string one = Pem(Make(middle_, {{alice_}}).get());
  for (const char* text : {"---\n", "- the list of middle\n", "-- \n", "----\n", "\n\n", "-\r\n"}) {
    const auto list = Parse(text + one + text + one + text);
    ASSERT_TRUE(list) << text << list.error().message;
    EXPECT_EQ((*list)->lists(), 2u);
    EXPECT_TRUE((*list)->Revoked(path_));
  }
  for (const char* text : {"-----\n", "-----BEGIN X509 CRL----\n", "-----END X509 CRL-----\n"}) {
    EXPECT_FALSE(Parse(one + text)) << text;
  }
}

TEST_F(RevocationTest, WhatIsNotUnderstoodIsRefusedAsAWhole) {
  EXPECT_FALSE(Parse(""));
  EXPECT_FALSE(Parse("garbage"));
  EXPECT_FALSE(Parse(alice_.ToPem()));
  std::string good = Pem(Make(middle_, {{alice_}}).get());
  EXPECT_FALSE(Parse(good + "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"));
  auto delta = Parse(Pem(Make(middle_, {{alice_}, 3600s, NID_delta_crl}).get()));
  ASSERT_FALSE(delta);
  EXPECT_THAT(delta.error().message, HasSubstr("delta"));
  auto indirect =
      Parse(Pem(Make(middle_, {{alice_}, 3600s, NID_issuing_distribution_point, true}).get()));
  ASSERT_FALSE(indirect);
  EXPECT_THAT(indirect.error().message, HasSubstr("indirect"));
  auto partial = Parse(Pem(Make(middle_, {{alice_}, 3600s, NID_issuing_distribution_point}).get()));
  ASSERT_TRUE(partial) << partial.error().message;
  EXPECT_TRUE((*partial)->Revoked(path_));
}

// Wherever a file of two lists was cut: both count, or it is refused. Only behind the whole first
// one it cannot be told from a file of one.
TEST_F(RevocationTest, AFileThatWasCut) {
  const std::string first = Pem(Make(middle_, {{alice_}}).get());
  const std::string whole = first + Pem(Make(root_.authority, {{middle_.certificate}}).get());
  ASSERT_EQ((*Parse(whole))->lists(), 2u);
  for (size_t size = 0; size < whole.size(); ++size) {
    const auto list = Parse(std::string_view(whole).substr(0, size));
    const bool one = size == first.size() || size + 1 == first.size();
    const bool all = size + 1 == whole.size();  // but for the last line's end
    ASSERT_EQ(list.has_value(), one || all) << "cut after " << size << " of " << whole.size();
    if (list) {
      EXPECT_EQ((*list)->lists(), one ? 1u : 2u);
    }
  }
}

}  // namespace
}  // namespace qanat::tls
