// SPDX-License-Identifier: Apache-2.0
// Small cryptographic helpers and key handling, so that nobody outside common/tls needs BoringSSL's
// headers. Everything here is thread safe: keys are immutable once made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace qanat::tls {

std::vector<uint8_t> RandomBytes(size_t count);
std::string RandomHex(size_t bytes);  // 2 characters a byte
std::string Sha256Hex(std::string_view data);
std::string Sha256(std::string_view data);  // 32 raw bytes
// Takes the same time wherever the two differ; false when the lengths do.
bool ConstantTimeEqual(std::string_view a, std::string_view b);

std::string Base64Encode(std::string_view data);
Result<std::string> Base64Decode(std::string_view text);     // padded
std::string Base64UrlEncode(std::string_view data);          // no padding, as JOSE wants
Result<std::string> Base64UrlDecode(std::string_view text);  // no padding; strict

struct KeyImpl;  // EVP_PKEY

// A public key, shared and immutable. "None" when default made.
class PublicKey {
 public:
  PublicKey() = default;
  explicit PublicKey(std::shared_ptr<const KeyImpl> impl) : impl_(std::move(impl)) {}
  static Result<PublicKey> FromPem(std::string_view pem);  // SubjectPublicKeyInfo
  std::string ToPem() const;
  std::string Sha256OfSpki() const;  // 32 raw bytes: identifies the key
  bool is_set() const { return impl_ != nullptr; }
  const KeyImpl* impl() const { return impl_.get(); }

 private:
  std::shared_ptr<const KeyImpl> impl_;
};

// A private key, shared and immutable. Never printed, never logged.
class PrivateKey {
 public:
  PrivateKey() = default;
  explicit PrivateKey(std::shared_ptr<const KeyImpl> impl) : impl_(std::move(impl)) {}
  static Result<PrivateKey> GenerateP256();
  static Result<PrivateKey> GenerateRsa(unsigned bits);
  static Result<PrivateKey> FromPem(std::string_view pem);  // PKCS#8, SEC 1 (EC) or PKCS#1 (RSA)
  std::string ToPem() const;                                // PKCS#8
  PublicKey public_key() const { return PublicKey(impl_); }
  bool is_set() const { return impl_ != nullptr; }
  const KeyImpl* impl() const { return impl_.get(); }

 private:
  std::shared_ptr<const KeyImpl> impl_;
};

}  // namespace qanat::tls
