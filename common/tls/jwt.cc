// SPDX-License-Identifier: Apache-2.0
#include "common/tls/jwt.h"

#include <openssl/bn.h>
#include <openssl/digest.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/nid.h>
#include <openssl/rsa.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "common/tls/boring.h"

namespace qanat::tls {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxToken = 64 * 1024;

struct Algorithm {
  std::string_view name;
  int key_type;
  int curve;  // 0 for RSA
  const EVP_MD* (*digest)();
  size_t field;  // bytes of r and of s
};

constexpr std::array<Algorithm, 5> kAlgorithms = {{
    {"RS256", EVP_PKEY_RSA, 0, EVP_sha256, 0},
    {"RS384", EVP_PKEY_RSA, 0, EVP_sha384, 0},
    {"RS512", EVP_PKEY_RSA, 0, EVP_sha512, 0},
    {"ES256", EVP_PKEY_EC, NID_X9_62_prime256v1, EVP_sha256, 32},
    {"ES384", EVP_PKEY_EC, NID_secp384r1, EVP_sha384, 48},
}};

int CurveOf(const EVP_PKEY* key) {
  const EC_KEY* ec = EVP_PKEY_get0_EC_KEY(key);
  return ec != nullptr ? EC_GROUP_get_curve_name(EC_KEY_get0_group(ec)) : 0;
}

bool Suits(const Algorithm& algorithm, const EVP_PKEY* key) {
  return EVP_PKEY_id(key) == algorithm.key_type &&
         (algorithm.curve == 0 || CurveOf(key) == algorithm.curve);
}

const Algorithm* Named(std::string_view name) {
  for (const Algorithm& a : kAlgorithms) {
    if (a.name == name) return &a;
  }
  return nullptr;
}

Json ParseObject(std::string_view text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json : Json();
}

std::string StringAt(const Json& json, const char* name) {
  auto it = json.find(name);
  return it != json.end() && it->is_string() ? it->get<std::string>() : std::string();
}

// A NumericDate; fractions are cut. False when there is something that is no such date.
bool DateAt(const Json& json, const char* name, std::optional<int64_t>& out) {
  auto it = json.find(name);
  if (it == json.end()) return true;
  if (!it->is_number()) return false;
  double value = it->get<double>();
  if (!(value >= 0 && value < 1e12)) return false;
  out = static_cast<int64_t>(value);
  return true;
}

bssl::UniquePtr<BIGNUM> Number(const Json& json, const char* name) {
  auto bytes = Base64UrlDecode(StringAt(json, name));
  if (!bytes || bytes->empty() || bytes->size() > 1024) return nullptr;
  return bssl::UniquePtr<BIGNUM>(
      BN_bin2bn(reinterpret_cast<const uint8_t*>(bytes->data()), bytes->size(), nullptr));
}

bssl::UniquePtr<EVP_PKEY> KeyOf(const Json& jwk) {
  bssl::UniquePtr<EVP_PKEY> key(EVP_PKEY_new());
  std::string type = StringAt(jwk, "kty");
  if (type == "EC") {
    std::string curve = StringAt(jwk, "crv");
    int nid = curve == "P-256" ? NID_X9_62_prime256v1 : curve == "P-384" ? NID_secp384r1 : 0;
    auto x = Number(jwk, "x"), y = Number(jwk, "y");
    if (nid == 0 || !x || !y) return nullptr;
    bssl::UniquePtr<EC_KEY> ec(EC_KEY_new_by_curve_name(nid));
    if (!ec || EC_KEY_set_public_key_affine_coordinates(ec.get(), x.get(), y.get()) != 1 ||
        EVP_PKEY_set1_EC_KEY(key.get(), ec.get()) != 1) {
      return nullptr;
    }
    return key;
  }
  if (type == "RSA") {
    auto n = Number(jwk, "n"), e = Number(jwk, "e");
    if (!n || !e || BN_num_bits(n.get()) < 2048) return nullptr;
    bssl::UniquePtr<RSA> rsa(RSA_new_public_key(n.get(), e.get()));
    if (!rsa || EVP_PKEY_set1_RSA(key.get(), rsa.get()) != 1) return nullptr;
    return key;
  }
  return nullptr;
}

std::string NumberText(const BIGNUM* number, size_t width) {
  std::string bytes(width, '\0');
  if (BN_bn2bin_padded(reinterpret_cast<uint8_t*>(bytes.data()), width, number) != 1) return {};
  return Base64UrlEncode(bytes);
}

// JOSE wants r and s side by side, EVP wants them in DER.
std::vector<uint8_t> RawToDer(std::string_view raw, size_t field) {
  if (raw.size() != 2 * field) return {};
  const auto* p = reinterpret_cast<const uint8_t*>(raw.data());
  bssl::UniquePtr<ECDSA_SIG> signature(ECDSA_SIG_new());
  BIGNUM* r = BN_bin2bn(p, field, nullptr);
  BIGNUM* s = BN_bin2bn(p + field, field, nullptr);
  ECDSA_SIG_set0(signature.get(), r, s);
  uint8_t* der = nullptr;
  size_t size = 0;
  if (ECDSA_SIG_to_bytes(&der, &size, signature.get()) != 1) return {};
  bssl::UniquePtr<uint8_t> owned(der);
  return {der, der + size};
}

std::string DerToRaw(std::span<const uint8_t> der, size_t field) {
  bssl::UniquePtr<ECDSA_SIG> signature(ECDSA_SIG_from_bytes(der.data(), der.size()));
  if (!signature) return {};
  const BIGNUM *r, *s;
  ECDSA_SIG_get0(signature.get(), &r, &s);
  std::string raw(2 * field, '\0');
  auto* p = reinterpret_cast<uint8_t*>(raw.data());
  if (BN_bn2bin_padded(p, field, r) != 1 || BN_bn2bin_padded(p + field, field, s) != 1) return {};
  return raw;
}

bool SignatureFits(const Algorithm& algorithm, EVP_PKEY* key, std::string_view input,
                   std::string_view signature) {
  std::vector<uint8_t> bytes(signature.begin(), signature.end());
  if (algorithm.field != 0) bytes = RawToDer(signature, algorithm.field);
  if (bytes.empty()) return false;
  bssl::ScopedEVP_MD_CTX ctx;
  bool good = EVP_DigestVerifyInit(ctx.get(), nullptr, algorithm.digest(), nullptr, key) == 1 &&
              EVP_DigestVerify(ctx.get(), bytes.data(), bytes.size(),
                               reinterpret_cast<const uint8_t*>(input.data()), input.size()) == 1;
  ERR_clear_error();
  return good;
}

struct Split {
  std::string_view signed_part;
  std::string signature;
  Jwt jwt;
};

Result<Split> SplitToken(std::string_view token) {
  auto bad = [](std::string_view why) {
    return Fail(Code::kUnauthenticated, "malformed token: " + std::string(why));
  };
  if (token.size() > kMaxToken) return bad("longer than 64 KiB");
  size_t first = token.find('.');
  size_t second = first == std::string_view::npos ? first : token.find('.', first + 1);
  if (second == std::string_view::npos || token.find('.', second + 1) != std::string_view::npos) {
    return bad("it does not have three parts");
  }
  auto header_text = Base64UrlDecode(token.substr(0, first));
  auto payload_text = Base64UrlDecode(token.substr(first + 1, second - first - 1));
  auto signature = Base64UrlDecode(token.substr(second + 1));
  if (!header_text || !payload_text || !signature) return bad("a part is not base64url");
  Json header = ParseObject(*header_text);
  Json payload = ParseObject(*payload_text);
  if (!header.is_object() || !payload.is_object()) return bad("a part is not a JSON object");
  if (header.contains("crit")) return bad("it has critical extensions, which we do not know");
  Split out;
  out.signed_part = token.substr(0, second);
  out.signature = std::move(*signature);
  Jwt& jwt = out.jwt;
  jwt.alg = StringAt(header, "alg");
  jwt.kid = StringAt(header, "kid");
  jwt.iss = StringAt(payload, "iss");
  jwt.sub = StringAt(payload, "sub");
  jwt.jti = StringAt(payload, "jti");
  auto aud = payload.find("aud");
  if (aud != payload.end() && aud->is_string()) jwt.aud.push_back(aud->get<std::string>());
  if (aud != payload.end() && aud->is_array()) {
    for (const Json& one : *aud) {
      if (!one.is_string()) return bad("aud is not a list of strings");
      jwt.aud.push_back(one.get<std::string>());
    }
  }
  if (!DateAt(payload, "exp", jwt.exp) || !DateAt(payload, "nbf", jwt.nbf) ||
      !DateAt(payload, "iat", jwt.iat)) {
    return bad("exp, nbf or iat is not a date");
  }
  jwt.payload = std::move(*payload_text);
  return out;
}

}  // namespace

Result<JwtKeySet> JwtKeySet::Parse(std::string_view jwks_json) {
  Json json = ParseObject(jwks_json);
  auto list = json.is_object() ? json.find("keys") : json.end();
  if (!json.is_object() || list == json.end() || !list->is_array()) {
    return Fail(Code::kInvalidArgument, "not a JWKS document: no list named \"keys\"");
  }
  std::vector<JwtKey> keys;
  for (const Json& jwk : *list) {
    if (!jwk.is_object()) continue;
    std::string use = StringAt(jwk, "use");
    if (!use.empty() && use != "sig") continue;
    auto key = KeyOf(jwk);
    ERR_clear_error();
    if (!key) continue;
    keys.push_back({StringAt(jwk, "kid"), StringAt(jwk, "alg"),
                    PublicKey(std::make_shared<KeyImpl>(KeyImpl{std::move(key)}))});
  }
  if (keys.empty()) {
    return Fail(Code::kInvalidArgument,
                "the JWKS document has no key that we can use (RSA of 2048 bits and more, P-256 or "
                "P-384, for signatures)");
  }
  return JwtKeySet(std::move(keys));
}

Result<std::string> MakeJwks(const PublicKey& key, std::string_view kid) {
  if (!key.is_set()) return Fail(Code::kInvalidArgument, "there is no key");
  const EVP_PKEY* pkey = key.impl()->key.get();
  Json jwk = {{"kid", kid}, {"use", "sig"}};
  if (const RSA* rsa = EVP_PKEY_get0_RSA(pkey); rsa != nullptr) {
    jwk["kty"] = "RSA";
    jwk["alg"] = "RS256";
    jwk["n"] = NumberText(RSA_get0_n(rsa), BN_num_bytes(RSA_get0_n(rsa)));
    jwk["e"] = NumberText(RSA_get0_e(rsa), BN_num_bytes(RSA_get0_e(rsa)));
  } else if (CurveOf(pkey) == NID_X9_62_prime256v1) {
    const EC_KEY* ec = EVP_PKEY_get0_EC_KEY(pkey);
    bssl::UniquePtr<BIGNUM> x(BN_new()), y(BN_new());
    if (EC_POINT_get_affine_coordinates_GFp(EC_KEY_get0_group(ec), EC_KEY_get0_public_key(ec),
                                            x.get(), y.get(), nullptr) != 1) {
      return Fail(Code::kInternal, "cannot read the key: " + TakeSslError());
    }
    jwk["kty"] = "EC";
    jwk["alg"] = "ES256";
    jwk["crv"] = "P-256";
    jwk["x"] = NumberText(x.get(), 32);
    jwk["y"] = NumberText(y.get(), 32);
  } else {
    return Fail(Code::kUnimplemented, "only P-256 and RSA keys go into a JWKS document");
  }
  return Json{{"keys", Json::array({jwk})}}.dump(-1, ' ', true);
}

bool Jwt::HasAudience(std::string_view audience) const {
  return std::find(aud.begin(), aud.end(), audience) != aud.end();
}

Result<Jwt> ParseJwtUnverified(std::string_view token) {
  QANAT_ASSIGN_OR_RETURN(Split split, SplitToken(token));
  return std::move(split.jwt);
}

Result<Jwt> VerifyJwt(std::string_view token, const JwtKeySet& keys) {
  QANAT_ASSIGN_OR_RETURN(Split split, SplitToken(token));
  const Algorithm* algorithm = Named(split.jwt.alg);
  if (algorithm == nullptr) {
    return Fail(Code::kUnauthenticated,
                "the token's algorithm \"" + split.jwt.alg.substr(0, 32) + "\" is not accepted");
  }
  bool tried = false;
  for (const JwtKey& key : keys.keys()) {
    if (!split.jwt.kid.empty() && !key.kid.empty() && key.kid != split.jwt.kid) continue;
    if (!key.alg.empty() && key.alg != algorithm->name) continue;
    EVP_PKEY* pkey = key.key.impl()->key.get();
    if (!Suits(*algorithm, pkey)) continue;
    tried = true;
    if (SignatureFits(*algorithm, pkey, split.signed_part, split.signature)) {
      return std::move(split.jwt);
    }
  }
  return Fail(Code::kUnauthenticated,
              tried ? "the token's signature does not fit (signed by another issuer's key?)"
                    : "no key is known for the token's kid \"" + split.jwt.kid.substr(0, 64) +
                          "\" and algorithm " + split.jwt.alg);
}

Status CheckTimes(const Jwt& jwt, Time now, std::chrono::seconds leeway) {
  int64_t at = ToPosix(now);
  auto text = [](int64_t posix) { return FormatTime(FromPosix(posix)); };
  if (!jwt.exp) return Fail(Code::kUnauthenticated, "the token has no expiry");
  if (*jwt.exp + leeway.count() <= at) {
    return Fail(Code::kUnauthenticated,
                "the token expired at " + text(*jwt.exp) + ", it is " + text(at));
  }
  for (const auto& [name, date] : {std::pair{"nbf", jwt.nbf}, std::pair{"iat", jwt.iat}}) {
    if (date && *date > at + leeway.count()) {
      return Fail(Code::kUnauthenticated, std::string("the token's ") + name +
                                              " lies ahead: " + text(*date) + ", it is " +
                                              text(at) + " (is a clock wrong?)");
    }
  }
  return {};
}

Result<std::string> SignJwt(const PrivateKey& key, std::string_view kid, std::string_view payload) {
  if (!key.is_set()) return Fail(Code::kInvalidArgument, "there is no key to sign with");
  if (!ParseObject(payload).is_object()) {
    return Fail(Code::kInvalidArgument, "the claims are not a JSON object");
  }
  EVP_PKEY* pkey = key.impl()->key.get();
  const Algorithm* algorithm = nullptr;
  for (const Algorithm& a : kAlgorithms) {
    if (algorithm == nullptr && Suits(a, pkey)) algorithm = &a;
  }
  if (algorithm == nullptr) return Fail(Code::kUnimplemented, "tokens need a P-256 or RSA key");
  Json header = {{"alg", algorithm->name}, {"typ", "JWT"}};
  if (!kid.empty()) header["kid"] = kid;
  std::string token = Base64UrlEncode(header.dump(-1, ' ', true, Json::error_handler_t::replace));
  token += '.';
  token += Base64UrlEncode(payload);
  bssl::ScopedEVP_MD_CTX ctx;
  size_t size = 0;
  const auto* input = reinterpret_cast<const uint8_t*>(token.data());
  if (EVP_DigestSignInit(ctx.get(), nullptr, algorithm->digest(), nullptr, pkey) != 1 ||
      EVP_DigestSign(ctx.get(), nullptr, &size, input, token.size()) != 1) {
    return Fail(Code::kInternal, "cannot sign the token: " + TakeSslError());
  }
  std::string signature(size, '\0');
  auto* out = reinterpret_cast<uint8_t*>(signature.data());
  if (EVP_DigestSign(ctx.get(), out, &size, input, token.size()) != 1) {
    return Fail(Code::kInternal, "cannot sign the token: " + TakeSslError());
  }
  signature.resize(size);
  if (algorithm->field != 0) signature = DerToRaw({out, size}, algorithm->field);
  token += '.';
  token += Base64UrlEncode(signature);
  return token;
}

}  // namespace qanat::tls
