// SPDX-License-Identifier: Apache-2.0
// For tests: revocation lists made on the spot. Needs BoringSSL's headers.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "common/tls/boring.h"

namespace qanat::tls::testing {

struct Crl {
  std::vector<Certificate> revoked;
  std::optional<std::chrono::seconds> until = std::chrono::hours(1);  // nextUpdate
  int extension = NID_undef;
  bool indirect = false;
};

inline bssl::UniquePtr<ASN1_TIME> Asn1(Time time) {
  return bssl::UniquePtr<ASN1_TIME>(ASN1_TIME_set_posix(nullptr, ToPosix(time)));
}

inline bssl::UniquePtr<X509_CRL> Make(const Authority& issuer, const Crl& crl,
                                      const PrivateKey* other_key = nullptr) {
  bssl::UniquePtr<X509_CRL> out(X509_CRL_new());
  X509_CRL_set_version(out.get(), X509_CRL_VERSION_2);
  X509_CRL_set_issuer_name(out.get(), X509_get_subject_name(issuer.certificate.impl()->cert.get()));
  X509_CRL_set1_lastUpdate(out.get(),
                           Asn1(std::chrono::system_clock::now() - std::chrono::hours(2)).get());
  if (crl.until) {
    X509_CRL_set1_nextUpdate(out.get(), Asn1(std::chrono::system_clock::now() + *crl.until).get());
  }
  for (const Certificate& cert : crl.revoked) {
    X509_REVOKED* entry = X509_REVOKED_new();
    X509_REVOKED_set_serialNumber(entry, X509_get0_serialNumber(cert.impl()->cert.get()));
    X509_REVOKED_set_revocationDate(
        entry, Asn1(std::chrono::system_clock::now() - std::chrono::seconds(60)).get());
    X509_CRL_add0_revoked(out.get(), entry);
  }
  if (crl.extension == NID_delta_crl) {
    bssl::UniquePtr<ASN1_INTEGER> base(ASN1_INTEGER_new());
    ASN1_INTEGER_set(base.get(), 1);
    X509_CRL_add1_ext_i2d(out.get(), NID_delta_crl, base.get(), 1, 0);
  } else if (crl.extension == NID_issuing_distribution_point) {
    bssl::UniquePtr<ISSUING_DIST_POINT> point(ISSUING_DIST_POINT_new());
    point->indirectCRL = crl.indirect ? ASN1_BOOLEAN_TRUE : ASN1_BOOLEAN_FALSE;
    point->onlyuser = crl.indirect ? ASN1_BOOLEAN_FALSE : ASN1_BOOLEAN_TRUE;
    X509_CRL_add1_ext_i2d(out.get(), NID_issuing_distribution_point, point.get(), 1, 0);
  }
  const PrivateKey& key = other_key != nullptr ? *other_key : issuer.key;
  X509_CRL_sign(out.get(), key.impl()->key.get(), EVP_sha256());
  return out;
}

inline std::string Pem(X509_CRL* crl) {
  bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509_CRL(bio.get(), crl);
  return BioToString(bio.get());
}

}  // namespace qanat::tls::testing
