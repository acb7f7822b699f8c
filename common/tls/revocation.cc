// SPDX-License-Identifier: Apache-2.0
#include "common/tls/revocation.h"

#include <algorithm>
#include <utility>

#include "common/tls/boring.h"

namespace qanat::tls {

struct CrlImpl {
  bssl::UniquePtr<X509_CRL> crl;
};

namespace {

std::string SerialKey(const ASN1_INTEGER* serial) {
  std::string out(reinterpret_cast<const char*>(ASN1_STRING_get0_data(serial)),
                  static_cast<size_t>(ASN1_STRING_length(serial)));
  if (ASN1_STRING_type(serial) == V_ASN1_NEG_INTEGER) out.insert(out.begin(), '-');
  return out;
}

std::string NameText(const X509_NAME* name) {
  bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_RFC2253);
  return BioToString(bio.get());
}

// A list whose critical extensions we do not act on would be read wrongly.
Status CheckExtensions(const X509_CRL* crl, const std::string& issuer) {
  for (int i = 0; i < X509_CRL_get_ext_count(crl); ++i) {
    X509_EXTENSION* extension = X509_CRL_get_ext(crl, i);
    int nid = OBJ_obj2nid(X509_EXTENSION_get_object(extension));
    if (nid == NID_delta_crl) {
      return Fail(Code::kInvalidArgument, "the revocation list of \"" + issuer +
                                              "\" is a delta list; give the complete one");
    }
    if (X509_EXTENSION_get_critical(extension) == 0) continue;
    if (nid == NID_issuing_distribution_point) {
      bssl::UniquePtr<ISSUING_DIST_POINT> point(static_cast<ISSUING_DIST_POINT*>(
          X509_CRL_get_ext_d2i(crl, NID_issuing_distribution_point, nullptr, nullptr)));
      // With onlyContains... fewer certificates are spoken of: those named are revoked all the
      // same. An indirect list names other issuers' certificates.
      if (point && point->indirectCRL <= 0) continue;
    }
    return Fail(Code::kInvalidArgument,
                "the revocation list of \"" + issuer +
                    "\" has a critical extension that is not understood (indirect lists are not)");
  }
  return {};
}

// A file that was cut inside of a first or last line reads as one that ends before it: what stood
// there would be lost without a word. So each such line has to be whole, and in its turn. Between
// the parts any text may stand (openssl's -text, a "---" of who put files together); what could be
// the beginning of a first line counts as text only if there is more of its line.
Status CheckArmour(std::string_view text) {
  constexpr std::string_view kDashes = "-----", kBegin = "-----BEGIN ", kEnd = "-----END ";
  std::string_view open;  // the label of what has begun
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    const bool last = line.size() == text.size();
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    while (line.ends_with('\r') || line.ends_with(' ')) line.remove_suffix(1);
    const bool maybe_cut = last && kDashes.starts_with(line);
    if (!line.starts_with('-')) continue;
    if (open.empty() && !line.starts_with(kDashes) && !maybe_cut) continue;
    const std::string_view start = open.empty() ? kBegin : kEnd;
    if (!line.starts_with(start) || line.size() <= start.size() + kDashes.size() ||
        !line.ends_with(kDashes)) {
      return Fail(Code::kInvalidArgument, "the file was cut, or mixed up, at the line \"" +
                                              std::string(line.substr(0, 80)) + "\"");
    }
    line.remove_prefix(start.size());
    line.remove_suffix(kDashes.size());
    if (open.empty()) {
      open = line;
    } else if (std::exchange(open, {}) != line) {
      return Fail(Code::kInvalidArgument, "the file is mixed up: a part ends as another one");
    }
  }
  if (open.empty()) return {};
  return Fail(Code::kInvalidArgument, "the file was cut: it ends inside of a part");
}

}  // namespace

Result<std::shared_ptr<const RevocationList>> RevocationList::Parse(std::span<const uint8_t> file) {
  std::vector<bssl::UniquePtr<X509_CRL>> found;
  constexpr std::string_view kBegin = "-----BEGIN ";
  std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  ERR_clear_error();
  if (text.find(kBegin) != std::string_view::npos) {
    QANAT_RETURN_IF_ERROR(CheckArmour(text));
    bssl::UniquePtr<BIO> bio(BIO_new_mem_buf(file.data(), static_cast<ossl_ssize_t>(file.size())));
    while (bssl::UniquePtr<X509_CRL> crl{
        PEM_read_bio_X509_CRL(bio.get(), nullptr, nullptr, nullptr)}) {
      found.push_back(std::move(crl));
    }
    uint32_t error = ERR_peek_last_error();
    bool end = ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
    std::string why = TakeSslError();
    if (!end) {
      return Fail(Code::kInvalidArgument,
                  "revocation list " + std::to_string(found.size() + 1) + " of the file: " + why);
    }
  } else {
    const uint8_t* at = file.data();
    bssl::UniquePtr<X509_CRL> crl(d2i_X509_CRL(nullptr, &at, static_cast<long>(file.size())));
    std::string why = TakeSslError();
    if (!crl || at != file.data() + file.size()) {
      return Fail(Code::kInvalidArgument, "this is no revocation list in PEM or DER: " + why);
    }
    found.push_back(std::move(crl));
  }
  if (found.empty()) {
    return Fail(Code::kInvalidArgument,
                "there is no revocation list in the file (\"-----BEGIN X509 CRL-----\")");
  }
  auto out = std::make_shared<RevocationList>();
  for (auto& crl : found) {
    const X509_NAME* issuer = X509_CRL_get_issuer(crl.get());
    QANAT_RETURN_IF_ERROR(CheckExtensions(crl.get(), NameText(issuer)));
    List list;
    const STACK_OF(X509_REVOKED)* revoked = X509_CRL_get_REVOKED(crl.get());
    for (size_t i = 0; revoked != nullptr && i < sk_X509_REVOKED_num(revoked); ++i) {
      list.serials.insert(
          SerialKey(X509_REVOKED_get0_serialNumber(sk_X509_REVOKED_value(revoked, i))));
    }
    list.crl = std::make_shared<const CrlImpl>(CrlImpl{std::move(crl)});
    out->lists_.push_back(std::move(list));
  }
  return std::shared_ptr<const RevocationList>(std::move(out));
}

std::optional<std::string> RevocationList::Revoked(std::span<const Certificate> chain) const {
  for (size_t i = 0; i < chain.size(); ++i) {
    const X509* cert = chain[i].impl()->cert.get();
    const std::string serial = SerialKey(X509_get0_serialNumber(cert));
    for (const List& list : lists_) {
      if (!list.serials.contains(serial) || X509_NAME_cmp(X509_CRL_get_issuer(list.crl->crl.get()),
                                                          X509_get_issuer_name(cert)) != 0) {
        continue;
      }
      // The root issues itself. A list that somebody else made under the same name says nothing.
      const X509* issuer = chain[std::min(i + 1, chain.size() - 1)].impl()->cert.get();
      EVP_PKEY* key = X509_get0_pubkey(issuer);
      bool genuine = key != nullptr && X509_CRL_verify(list.crl->crl.get(), key) == 1;
      ERR_clear_error();
      if (!genuine) continue;
      return "the certificate " + chain[i].serial_hex() + " of " +
             (chain[i].is_ca() ? "CA " + chain[i].subject() : chain[i].sans().ToString()) +
             " is revoked by its issuer \"" + chain[i].issuer() + "\"";
    }
  }
  return std::nullopt;
}

Status RevocationList::CheckSignatures(std::span<const Certificate> authorities) const {
  for (const List& list : lists_) {
    X509_CRL* crl = list.crl->crl.get();
    bool known = false, genuine = false;
    for (const Certificate& authority : authorities) {
      X509* cert = authority.impl()->cert.get();
      if (X509_NAME_cmp(X509_CRL_get_issuer(crl), X509_get_subject_name(cert)) != 0) continue;
      known = true;
      EVP_PKEY* key = X509_get0_pubkey(cert);
      genuine = genuine || (key != nullptr && X509_CRL_verify(crl, key) == 1);
    }
    ERR_clear_error();
    if (known && !genuine) {
      return Fail(Code::kUnauthenticated,
                  "the revocation list of \"" + NameText(X509_CRL_get_issuer(crl)) +
                      "\" is not signed by that CA's key, or was changed after it was signed");
    }
  }
  return {};
}

size_t RevocationList::entries() const {
  size_t sum = 0;
  for (const List& list : lists_) sum += list.serials.size();
  return sum;
}

std::vector<std::string> RevocationList::Stale(Time now) const {
  std::vector<std::string> out;
  for (const List& list : lists_) {
    const X509_CRL* crl = list.crl->crl.get();
    const ASN1_TIME* next = X509_CRL_get0_nextUpdate(crl);
    int64_t until = 0;
    if (next == nullptr || ASN1_TIME_to_posix(next, &until) != 1 || until >= ToPosix(now)) continue;
    out.push_back("the revocation list of \"" + NameText(X509_CRL_get_issuer(crl)) +
                  "\" should have been renewed by " +
                  FormatTime(Time(std::chrono::seconds(until))) + "; it is used on");
  }
  return out;
}

}  // namespace qanat::tls
