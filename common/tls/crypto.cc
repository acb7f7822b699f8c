// SPDX-License-Identifier: Apache-2.0
#include "common/tls/crypto.h"

#include <openssl/base64.h>
#include <openssl/mem.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <openssl/sha2.h>

#include "common/tls/boring.h"

namespace qanat::tls {
namespace {

constexpr char kHex[] = "0123456789abcdef";

std::string ToHex(std::span<const uint8_t> bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (uint8_t b : bytes) {
    out.push_back(kHex[b >> 4]);
    out.push_back(kHex[b & 15]);
  }
  return out;
}

std::span<const uint8_t> AsBytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

bssl::UniquePtr<BIO> ReadBio(std::string_view text) {
  return bssl::UniquePtr<BIO>(BIO_new_mem_buf(text.data(), static_cast<ossl_ssize_t>(text.size())));
}

}  // namespace

std::string TakeSslError() {
  std::string text;
  // The oldest entry is the cause; later ones say through which functions it went.
  if (uint32_t error = ERR_get_error(); error != 0) {
    const char* reason = ERR_reason_error_string(error);
    text = reason != nullptr ? reason : "error " + std::to_string(error);
  }
  ERR_clear_error();
  return text;
}

std::string BioToString(BIO* bio) {
  const uint8_t* data = nullptr;
  size_t size = 0;
  if (bio == nullptr || BIO_mem_contents(bio, &data, &size) != 1) return {};
  return std::string(reinterpret_cast<const char*>(data), size);
}

std::vector<uint8_t> RandomBytes(size_t count) {
  std::vector<uint8_t> out(count);
  RAND_bytes(out.data(), out.size());  // BoringSSL aborts rather than fail
  return out;
}

std::string RandomHex(size_t bytes) { return ToHex(RandomBytes(bytes)); }

std::string Sha256(std::string_view data) {
  std::string out(SHA256_DIGEST_LENGTH, '\0');
  SHA256(AsBytes(data).data(), data.size(), reinterpret_cast<uint8_t*>(out.data()));
  return out;
}

std::string Sha256Hex(std::string_view data) { return ToHex(AsBytes(Sha256(data))); }

bool ConstantTimeEqual(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string Base64Encode(std::string_view data) {
  size_t size = 0;
  if (EVP_EncodedLength(&size, data.size()) != 1) return {};
  std::string out(size, '\0');
  size_t n =
      EVP_EncodeBlock(reinterpret_cast<uint8_t*>(out.data()), AsBytes(data).data(), data.size());
  out.resize(n);
  return out;
}

Result<std::string> Base64Decode(std::string_view text) {
  size_t size = 0;
  if (text.empty()) return std::string();
  if (EVP_DecodedLength(&size, text.size()) != 1) {
    return Fail(Code::kInvalidArgument, "base64 text has a wrong length");
  }
  std::string out(size, '\0');
  if (EVP_DecodeBase64(reinterpret_cast<uint8_t*>(out.data()), &size, out.size(),
                       AsBytes(text).data(), text.size()) != 1) {
    return Fail(Code::kInvalidArgument, "not base64");
  }
  out.resize(size);
  return out;
}

std::string Base64UrlEncode(std::string_view data) {
  std::string out = Base64Encode(data);
  while (!out.empty() && out.back() == '=') out.pop_back();
  for (char& c : out) {
    if (c == '+') c = '-';
    if (c == '/') c = '_';
  }
  return out;
}

Result<std::string> Base64UrlDecode(std::string_view text) {
  std::string padded;
  padded.reserve(text.size() + 3);
  for (char c : text) {
    if (c == '+' || c == '/' || c == '=') return Fail(Code::kInvalidArgument, "not base64url");
    padded.push_back(c == '-' ? '+' : c == '_' ? '/' : c);
  }
  while (padded.size() % 4 != 0) padded.push_back('=');
  return Base64Decode(padded);
}

Result<PublicKey> PublicKey::FromPem(std::string_view pem) {
  auto bio = ReadBio(pem);
  bssl::UniquePtr<EVP_PKEY> key(PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr));
  if (!key) {
    return Fail(Code::kInvalidArgument, "not a public key in PEM form: " + TakeSslError());
  }
  return PublicKey(std::make_shared<KeyImpl>(KeyImpl{std::move(key)}));
}

std::string PublicKey::ToPem() const {
  if (!is_set()) return {};
  bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_PUBKEY(bio.get(), impl_->key.get());
  return BioToString(bio.get());
}

std::string PublicKey::Sha256OfSpki() const {
  if (!is_set()) return {};
  uint8_t* der = nullptr;
  int size = i2d_PUBKEY(impl_->key.get(), &der);
  if (size <= 0) return {};
  bssl::UniquePtr<uint8_t> owned(der);
  return Sha256({reinterpret_cast<const char*>(der), static_cast<size_t>(size)});
}

Result<PrivateKey> PrivateKey::GenerateP256() {
  bssl::UniquePtr<EC_KEY> ec(EC_KEY_new_by_curve_name(NID_X9_62_prime256v1));
  bssl::UniquePtr<EVP_PKEY> key(EVP_PKEY_new());
  if (!ec || !key || EC_KEY_generate_key(ec.get()) != 1 ||
      EVP_PKEY_set1_EC_KEY(key.get(), ec.get()) != 1) {
    return Fail(Code::kInternal, "cannot generate a P-256 key: " + TakeSslError());
  }
  return PrivateKey(std::make_shared<KeyImpl>(KeyImpl{std::move(key)}));
}

Result<PrivateKey> PrivateKey::GenerateRsa(unsigned bits) {
  bssl::UniquePtr<RSA> rsa(RSA_new());
  bssl::UniquePtr<BIGNUM> e(BN_new());
  bssl::UniquePtr<EVP_PKEY> key(EVP_PKEY_new());
  if (!rsa || !e || !key || BN_set_word(e.get(), RSA_F4) != 1 ||
      RSA_generate_key_ex(rsa.get(), static_cast<int>(bits), e.get(), nullptr) != 1 ||
      EVP_PKEY_set1_RSA(key.get(), rsa.get()) != 1) {
    return Fail(Code::kInternal, "cannot generate an RSA key: " + TakeSslError());
  }
  return PrivateKey(std::make_shared<KeyImpl>(KeyImpl{std::move(key)}));
}

Result<PrivateKey> PrivateKey::FromPem(std::string_view pem) {
  auto bio = ReadBio(pem);
  bssl::UniquePtr<EVP_PKEY> key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  if (!key) {
    return Fail(Code::kInvalidArgument,
                "not an unencrypted private key in PEM form: " + TakeSslError());
  }
  return PrivateKey(std::make_shared<KeyImpl>(KeyImpl{std::move(key)}));
}

std::string PrivateKey::ToPem() const {
  if (!is_set()) return {};
  bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_PKCS8PrivateKey(bio.get(), impl_->key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  return BioToString(bio.get());
}

}  // namespace qanat::tls
