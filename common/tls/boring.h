// SPDX-License-Identifier: Apache-2.0
// Private to common/tls: the BoringSSL objects behind the public value types. No other folder
// includes this (its include path does not even reach BoringSSL).
#pragma once

#include <openssl/aead.h>
#include <openssl/base.h>
#include <openssl/bio.h>
#include <openssl/bytestring.h>
#include <openssl/ec_key.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/mem.h>
#include <openssl/pem.h>
#include <openssl/pool.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/stack.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <array>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/tls/crypto.h"
#include "common/tls/tls_context.h"
#include "common/tls/x509.h"

namespace qanat::tls {

struct KeyImpl {
  bssl::UniquePtr<EVP_PKEY> key;
};

struct CertificateImpl {
  bssl::UniquePtr<X509> cert;
};

struct ContextImpl {
  ContextOptions options;
  bssl::UniquePtr<SSL_CTX> ctx;
  bssl::UniquePtr<X509_STORE> roots;
  std::array<uint8_t, 32> roots_hash{};  // the same for the same set of roots
  std::string identity;
  std::string trust_domain;
  std::vector<uint8_t> alpn_wire;
  // Of a context that resumes sessions (tickets.h): what it seals its tickets with, and its number.
  bssl::UniquePtr<EVP_AEAD_CTX> ticket_key;
  uint64_t serial = 0;
};

// The newest reason in BoringSSL's error queue of this thread ("" when none); empties the queue.
std::string TakeSslError();
Certificate WrapCertificate(bssl::UniquePtr<X509> cert);
std::string BioToString(BIO* bio);
int64_t ToPosix(Time time);
SubjectAltNames ReadNames(const GENERAL_NAMES* names);
bssl::UniquePtr<X509_STORE> MakeStore(const std::vector<Certificate>& roots);
// VerifyChain against a store made before; `alert` gets the TLS alert that fits the failure, `path`
// (where wanted) the certificates from the leaf to the root that it was verified with.
Status VerifyWith(X509_STORE* roots, X509* leaf, STACK_OF(X509) * intermediates, Purpose purpose,
                  Time now, uint8_t* alert, std::vector<Certificate>* path = nullptr);

}  // namespace qanat::tls
