// SPDX-License-Identifier: Apache-2.0
#include "common/tls/jwt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qanat::tls {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

Time At(int64_t posix) { return Time(std::chrono::seconds(posix)); }

TEST(Jwt, SignAndVerifyBothKinds) {
  for (auto key : {*PrivateKey::GenerateP256(), *PrivateKey::GenerateRsa(2048)}) {
    auto token = SignJwt(key, "k1",
                         R"({"iss":"me","sub":"you","aud":["istio-ca","x"],)"
                         R"("exp":2000,"iat":1000,"nbf":1000,"extra":{"a":1}})");
    ASSERT_TRUE(token) << token.error().message;
    auto jwks = MakeJwks(key.public_key(), "k1");
    ASSERT_TRUE(jwks);
    auto keys = JwtKeySet::Parse(*jwks);
    ASSERT_TRUE(keys) << keys.error().message;
    auto jwt = VerifyJwt(*token, *keys);
    ASSERT_TRUE(jwt) << jwt.error().message;
    EXPECT_EQ(jwt->iss, "me");
    EXPECT_EQ(jwt->sub, "you");
    EXPECT_TRUE(jwt->HasAudience("istio-ca"));
    EXPECT_FALSE(jwt->HasAudience("y"));
    EXPECT_EQ(*jwt->exp, 2000);
    EXPECT_THAT(jwt->payload, HasSubstr("extra"));
    EXPECT_TRUE(CheckTimes(*jwt, At(1500), 0s));
    EXPECT_THAT(CheckTimes(*jwt, At(2000), 0s).error().message, HasSubstr("expired"));
    EXPECT_TRUE(CheckTimes(*jwt, At(2000), 5s));
    EXPECT_THAT(CheckTimes(*jwt, At(990), 5s).error().message, HasSubstr("ahead"));
  }
}

// RFC 7515 appendix A.3: a token that others made.
constexpr char kRfcToken[] =
    "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNv"
    "bS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-"
    "F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKT"
    "UJqPP3-Kg6NU1Q";
constexpr char kRfcKeys[] =
    R"({"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",)"
    R"("y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]})";

TEST(Jwt, VectorOfTheRfc) {
  auto keys = JwtKeySet::Parse(kRfcKeys);
  ASSERT_TRUE(keys);
  auto jwt = VerifyJwt(kRfcToken, *keys);
  ASSERT_TRUE(jwt) << jwt.error().message;
  EXPECT_EQ(jwt->iss, "joe");
  EXPECT_EQ(*jwt->exp, 1300819380);
}

TEST(Jwt, EveryFlippedCharacterIsNoticed) {
  auto keys = JwtKeySet::Parse(kRfcKeys);
  std::string token = kRfcToken;
  for (size_t i = 0; i < token.size(); ++i) {
    std::string bad = token;
    bad[i] = bad[i] == 'A' ? 'B' : 'A';
    auto jwt = VerifyJwt(bad, *keys);
    // The last character carries bits that are not decoded; strict decoding refuses them too.
    EXPECT_FALSE(jwt) << i;
  }
}

TEST(Jwt, TricksWithTheAlgorithm) {
  auto key = PrivateKey::GenerateP256();
  auto keys = JwtKeySet::Parse(*MakeJwks(key->public_key(), "k"));
  std::string payload = Base64UrlEncode(R"({"exp":99999999999})");
  for (const char* header : {R"({"alg":"none"})", R"({"alg":"HS256"})", R"({"alg":"RS256"})",
                             R"({"alg":"ES384"})", R"({})", R"({"alg":1})"}) {
    EXPECT_FALSE(VerifyJwt(Base64UrlEncode(header) + "." + payload + ".", *keys)) << header;
    EXPECT_FALSE(VerifyJwt(
        Base64UrlEncode(header) + "." + payload + "." + Base64UrlEncode(std::string(64, '\0')),
        *keys));
  }
  EXPECT_FALSE(
      VerifyJwt(Base64UrlEncode(R"({"alg":"ES256","crit":["x"]})") + "." + payload + ".x", *keys));
  // The right algorithm, somebody else's key.
  auto other = PrivateKey::GenerateP256();
  auto jwt = VerifyJwt(*SignJwt(*other, "k", R"({"exp":1})"), *keys);
  EXPECT_THAT(jwt.error().message, HasSubstr("does not fit"));
  jwt = VerifyJwt(*SignJwt(*other, "unknown", R"({"exp":1})"), *keys);
  EXPECT_THAT(jwt.error().message, HasSubstr("no key is known"));
}

TEST(Jwt, Malformed) {
  auto keys = JwtKeySet::Parse(kRfcKeys);
  for (const char* bad : {"", ".", "..", "...", "a.b", "a.b.c.d", "e30.e30.", "!.!.!",
                          "eyJhbGciOiJFUzI1NiJ9.W10.AA"}) {
    EXPECT_FALSE(VerifyJwt(bad, *keys)) << bad;
  }
  EXPECT_FALSE(VerifyJwt(std::string(100000, 'a'), *keys));
  std::string head = Base64UrlEncode(R"({"alg":"ES256"})") + ".";
  for (const char* claims : {R"({"exp":"soon"})", R"({"exp":-1})", R"({"exp":1e300})",
                             R"({"aud":[1]})", R"({"exp":null})"}) {
    EXPECT_FALSE(ParseJwtUnverified(head + Base64UrlEncode(claims) + ".AA")) << claims;
  }
  auto no_expiry = ParseJwtUnverified(head + Base64UrlEncode("{}") + ".AA");
  ASSERT_TRUE(no_expiry);
  EXPECT_FALSE(CheckTimes(*no_expiry, At(1), 0s));
}

TEST(Jwt, KeySets) {
  EXPECT_FALSE(JwtKeySet::Parse(""));
  EXPECT_FALSE(JwtKeySet::Parse("[]"));
  EXPECT_FALSE(JwtKeySet::Parse("{}"));
  EXPECT_FALSE(JwtKeySet::Parse(R"({"keys":[]})"));
  EXPECT_FALSE(JwtKeySet::Parse(R"({"keys":[{"kty":"oct","k":"AAAA"}]})"));
  // Not on the curve.
  EXPECT_FALSE(JwtKeySet::Parse(R"({"keys":[{"kty":"EC","crv":"P-256","x":"AQ","y":"AQ"}]})"));
  // For encryption only.
  std::string text = kRfcKeys;
  text.insert(text.find("\"kty\""), R"("use":"enc",)");
  EXPECT_FALSE(JwtKeySet::Parse(text));
}

}  // namespace
}  // namespace qanat::tls
