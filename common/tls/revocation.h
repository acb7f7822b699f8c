// SPDX-License-Identifier: Apache-2.0
// Certificate revocation lists (RFC 5280 section 5) as one immutable value: parsed once, shared by
// all threads, replaced as a whole when the file changes.
//
// A certificate counts as revoked when a list names its serial number and that list was signed by
// the key that issued the certificate. Whoever no list speaks of is not revoked. A list that is
// past its nextUpdate still holds: what it revoked does not come back because nobody wrote a newer
// one (stock ztunnel goes on using it, too).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "common/base/result.h"
#include "common/tls/x509.h"

namespace qanat::tls {

struct CrlImpl;  // X509_CRL

class RevocationList {
 public:
  // One list in DER, or any number of "X509 CRL" blocks in PEM. Fails when there is none, one is
  // broken, or one has a critical extension that is not understood (delta and indirect lists):
  // guessing what it means would be worse than keeping the lists from before.
  static Result<std::shared_ptr<const RevocationList>> Parse(std::span<const uint8_t> file);

  // `chain` is a verified path: leaf, intermediates, root; each issued by the next. The first that
  // is revoked, in words; nothing if none is.
  std::optional<std::string> Revoked(std::span<const Certificate> chain) const;

  // Whether each list is signed by whom it claims, as far as its issuer is among these: a list that
  // nobody vouches for would silently revoke nothing. The error says which list.
  Status CheckSignatures(std::span<const Certificate> authorities) const;

  size_t lists() const { return lists_.size(); }
  size_t entries() const;
  // Lists that are past their nextUpdate, in words, for the log.
  std::vector<std::string> Stale(Time now) const;

 private:
  struct List {
    std::shared_ptr<const CrlImpl> crl;
    std::unordered_set<std::string> serials;  // content of the INTEGER, sign included
  };
  std::vector<List> lists_;  // a handful: compared one by one, by the issuer's name
};

using RevocationListPtr = std::shared_ptr<const RevocationList>;

}  // namespace qanat::tls
