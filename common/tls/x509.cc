// SPDX-License-Identifier: Apache-2.0
// Reading certificates and verifying chains. Making them is in x509_sign.cc.
#include "common/tls/x509.h"

#include <openssl/asn1.h>
#include <openssl/bn.h>
#include <openssl/obj.h>

#include <cstdio>
#include <ctime>

#include "common/net/address.h"
#include "common/tls/boring.h"

namespace qanat::tls {
namespace {

std::string NameText(const X509_NAME* name) {
  if (name == nullptr || X509_NAME_entry_count(name) == 0) return {};
  bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_RFC2253);
  return BioToString(bio.get());
}

Time FromAsn1(const ASN1_TIME* time) {
  int64_t posix = 0;
  if (time == nullptr || ASN1_TIME_to_posix(time, &posix) != 1) return Time{};
  return FromPosix(posix);
}

// A name that goes into logs, policies and comparisons: printable ASCII without spaces only.
std::string Text(const ASN1_STRING* string) {
  std::string_view text(reinterpret_cast<const char*>(ASN1_STRING_get0_data(string)),
                        static_cast<size_t>(ASN1_STRING_length(string)));
  for (char c : text) {
    if (c <= ' ' || c >= 0x7f) return {};
  }
  return std::string(text);
}

std::string Join(const std::vector<std::string>& items, std::string_view prefix, std::string out) {
  for (const auto& item : items) {
    if (!out.empty()) out += ", ";
    out += prefix;
    out += item;
  }
  return out;
}

}  // namespace

std::string FormatTime(Time time) {
  std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

Time FromPosix(int64_t seconds) {
  constexpr int64_t kFar = 9'000'000'000;
  return Time(std::chrono::seconds(std::clamp(seconds, -kFar, kFar)));
}

int64_t ToPosix(Time time) {
  return std::chrono::duration_cast<std::chrono::seconds>(time.time_since_epoch()).count();
}

Certificate WrapCertificate(bssl::UniquePtr<X509> cert) {
  return Certificate(std::make_shared<CertificateImpl>(CertificateImpl{std::move(cert)}));
}

SubjectAltNames ReadNames(const GENERAL_NAMES* names) {
  SubjectAltNames out;
  for (size_t i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, i);
    if (name->type == GEN_URI || name->type == GEN_DNS) {
      std::string text = Text(name->d.ia5);
      if (text.empty()) {
        out.unknown.push_back(name->type == GEN_URI ? "malformed uri" : "malformed dns");
      } else {
        (name->type == GEN_URI ? out.uri : out.dns).push_back(std::move(text));
      }
    } else if (name->type == GEN_IPADD) {
      net::IpAddress ip = net::IpAddress::FromBytes(
          {ASN1_STRING_get0_data(name->d.ip), static_cast<size_t>(ASN1_STRING_length(name->d.ip))});
      if (ip.is_set()) {
        out.ip.push_back(ip.ToString());
      } else {
        out.unknown.push_back("malformed ip");
      }
    } else {
      out.unknown.push_back("kind " + std::to_string(name->type));
    }
  }
  return out;
}

std::string SubjectAltNames::ToString() const {
  std::string out = Join(uri, "", {});
  out = Join(dns, "dns:", std::move(out));
  out = Join(ip, "ip:", std::move(out));
  out = Join(unknown, "unknown:", std::move(out));
  return out.empty() ? "no names" : out;
}

Result<Certificate> Certificate::FromDer(std::span<const uint8_t> der) {
  const uint8_t* p = der.data();
  bssl::UniquePtr<X509> cert(d2i_X509(nullptr, &p, static_cast<long>(der.size())));
  if (!cert || p != der.data() + der.size()) {
    std::string why = TakeSslError();
    return Fail(Code::kInvalidArgument,
                "not an X.509 certificate: " + (why.empty() ? "bytes after its end" : why));
  }
  return WrapCertificate(std::move(cert));
}

Result<std::vector<Certificate>> Certificate::ParsePem(std::string_view pem) {
  bssl::UniquePtr<BIO> bio(BIO_new_mem_buf(pem.data(), static_cast<ossl_ssize_t>(pem.size())));
  std::vector<Certificate> out;
  for (;;) {
    bssl::UniquePtr<X509> cert(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
    if (!cert) {
      uint32_t error = ERR_peek_last_error();
      bool end = ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
      std::string why = TakeSslError();
      if (!end) {
        return Fail(Code::kInvalidArgument, "certificate " + std::to_string(out.size() + 1) +
                                                " of the PEM text is broken: " + why);
      }
      break;
    }
    out.push_back(WrapCertificate(std::move(cert)));
  }
  if (out.empty()) {
    return Fail(Code::kInvalidArgument, "no CERTIFICATE block in the PEM text");
  }
  return out;
}

std::string Certificate::ToPem() const {
  if (!is_set()) return {};
  bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(bio.get(), impl_->cert.get());
  return BioToString(bio.get());
}

std::vector<uint8_t> Certificate::ToDer() const {
  if (!is_set()) return {};
  uint8_t* der = nullptr;
  int size = i2d_X509(impl_->cert.get(), &der);
  if (size <= 0) return {};
  bssl::UniquePtr<uint8_t> owned(der);
  return {der, der + size};
}

std::string ToPem(const std::vector<Certificate>& chain) {
  std::string out;
  for (const Certificate& cert : chain) out += cert.ToPem();
  return out;
}

PublicKey Certificate::public_key() const {
  if (!is_set()) return {};
  bssl::UniquePtr<EVP_PKEY> key(X509_get_pubkey(impl_->cert.get()));
  if (!key) {
    ERR_clear_error();
    return {};
  }
  return PublicKey(std::make_shared<KeyImpl>(KeyImpl{std::move(key)}));
}

std::string Certificate::subject() const {
  return is_set() ? NameText(X509_get_subject_name(impl_->cert.get())) : std::string();
}

std::string Certificate::issuer() const {
  return is_set() ? NameText(X509_get_issuer_name(impl_->cert.get())) : std::string();
}

std::string Certificate::serial() const {
  if (!is_set()) return {};
  bssl::UniquePtr<BIGNUM> n(ASN1_INTEGER_to_BN(X509_get0_serialNumber(impl_->cert.get()), nullptr));
  bssl::UniquePtr<char> text(n ? BN_bn2dec(n.get()) : nullptr);
  return text ? std::string(text.get()) : std::string();
}

std::string Certificate::serial_hex() const {
  if (!is_set()) return {};
  bssl::UniquePtr<BIGNUM> n(ASN1_INTEGER_to_BN(X509_get0_serialNumber(impl_->cert.get()), nullptr));
  bssl::UniquePtr<char> text(n ? BN_bn2hex(n.get()) : nullptr);
  return text ? std::string(text.get()) : std::string();
}

Time Certificate::not_before() const {
  return is_set() ? FromAsn1(X509_get0_notBefore(impl_->cert.get())) : Time{};
}

Time Certificate::not_after() const {
  return is_set() ? FromAsn1(X509_get0_notAfter(impl_->cert.get())) : Time{};
}

SubjectAltNames Certificate::sans() const {
  if (!is_set()) return {};
  int critical = 0;
  bssl::UniquePtr<GENERAL_NAMES> names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(impl_->cert.get(), NID_subject_alt_name, &critical, nullptr)));
  ERR_clear_error();
  if (!names) {
    SubjectAltNames out;
    // -1: there is none. Anything else: twice there, or not decodable.
    if (critical != -1) out.unknown.push_back("malformed extension");
    return out;
  }
  return ReadNames(names.get());
}

bool Certificate::is_ca() const { return is_set() && X509_check_ca(impl_->cert.get()) == 1; }

bool Certificate::Matches(const PrivateKey& key) const {
  if (!is_set() || !key.is_set()) return false;
  bool same = X509_check_private_key(impl_->cert.get(), key.impl()->key.get()) == 1;
  ERR_clear_error();
  return same;
}

bool Certificate::SelfSigned() const {
  if (!is_set()) return false;
  bssl::UniquePtr<EVP_PKEY> key(X509_get_pubkey(impl_->cert.get()));
  bool self = key &&
              X509_NAME_cmp(X509_get_subject_name(impl_->cert.get()),
                            X509_get_issuer_name(impl_->cert.get())) == 0 &&
              X509_verify(impl_->cert.get(), key.get()) == 1;
  ERR_clear_error();
  return self;
}

bssl::UniquePtr<X509_STORE> MakeStore(const std::vector<Certificate>& roots) {
  bssl::UniquePtr<X509_STORE> store(X509_STORE_new());
  for (const Certificate& root : roots) {
    if (root.is_set()) X509_STORE_add_cert(store.get(), root.impl()->cert.get());
  }
  // A root need not be self-signed: whoever configured an intermediate CA as the root means it
  // (stock: every certificate of the root bundle is a trust anchor).
  X509_STORE_set_flags(store.get(), X509_V_FLAG_PARTIAL_CHAIN);
  ERR_clear_error();
  return store;
}

Status VerifyWith(X509_STORE* roots, X509* leaf, STACK_OF(X509) * intermediates, Purpose purpose,
                  Time now, uint8_t* alert, std::vector<Certificate>* path) {
  auto refuse = [&](uint8_t code, std::string why) -> Status {
    if (alert != nullptr) *alert = code;
    ERR_clear_error();
    return Fail(Error{Code::kUnauthenticated, std::move(why),
                      code == SSL_AD_UNKNOWN_CA ? kUnknownIssuer : 0});
  };
  bssl::UniquePtr<X509_STORE_CTX> ctx(X509_STORE_CTX_new());
  if (!ctx || X509_STORE_CTX_init(ctx.get(), roots, leaf, intermediates) != 1) {
    return refuse(SSL_AD_INTERNAL_ERROR, "cannot verify: " + TakeSslError());
  }
  X509_STORE_CTX_set_time_posix(ctx.get(), 0, ToPosix(now));
  switch (purpose) {
    case Purpose::kAny: break;
    case Purpose::kServerAuth:
      X509_STORE_CTX_set_purpose(ctx.get(), X509_PURPOSE_SSL_SERVER);
      break;
    case Purpose::kClientAuth:
      X509_STORE_CTX_set_purpose(ctx.get(), X509_PURPOSE_SSL_CLIENT);
      break;
  }
  if (X509_verify_cert(ctx.get()) == 1) {
    ERR_clear_error();
    if (path != nullptr) {
      const STACK_OF(X509)* found = X509_STORE_CTX_get0_chain(ctx.get());
      path->clear();
      for (size_t i = 0; i < sk_X509_num(found); ++i) {
        path->push_back(WrapCertificate(bssl::UpRef(sk_X509_value(found, i))));
      }
    }
    return {};
  }
  int error = X509_STORE_CTX_get_error(ctx.get());
  X509* at = X509_STORE_CTX_get_current_cert(ctx.get());
  if (at == nullptr) at = leaf;
  bssl::UniquePtr<X509> owned(bssl::UpRef(at));
  Certificate cert = WrapCertificate(std::move(owned));
  std::string who = cert.is_ca() ? "CA certificate " + cert.subject()
                                 : "certificate of " + cert.sans().ToString();
  switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return refuse(SSL_AD_CERTIFICATE_EXPIRED,
                    who + " expired at " + FormatTime(cert.not_after()) + ", it is " +
                        FormatTime(now) + " (was it renewed? is a clock wrong?)");
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return refuse(SSL_AD_CERTIFICATE_EXPIRED, who + " is valid only from " +
                                                    FormatTime(cert.not_before()) + ", it is " +
                                                    FormatTime(now) + " (is a clock wrong?)");
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
      return refuse(SSL_AD_UNKNOWN_CA, who + " was issued by \"" + cert.issuer() +
                                           "\", which leads to no root that we trust (another "
                                           "mesh's CA, or roots not yet distributed?)");
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
      return refuse(SSL_AD_UNKNOWN_CA,
                    who + " claims the issuer \"" + cert.issuer() +
                        "\" but is not signed with that root's key (a CA made anew under the same "
                        "name?)");
    case X509_V_ERR_INVALID_PURPOSE:
      return refuse(SSL_AD_UNSUPPORTED_CERTIFICATE,
                    who + " may not be used as a " +
                        (purpose == Purpose::kServerAuth ? "server" : "client") +
                        " (extended key usage)");
    default:
      return refuse(SSL_AD_BAD_CERTIFICATE, who + ": " + X509_verify_cert_error_string(error));
  }
}

Result<std::vector<Certificate>> VerifiedPath(const std::vector<Certificate>& chain,
                                              const std::vector<Certificate>& roots,
                                              Purpose purpose, Time now) {
  if (chain.empty() || !chain[0].is_set()) {
    return Fail(Code::kUnauthenticated, "there is no certificate");
  }
  bssl::UniquePtr<STACK_OF(X509)> rest(sk_X509_new_null());
  for (size_t i = 1; i < chain.size(); ++i) {
    if (!chain[i].is_set()) continue;
    bssl::PushToStack(rest.get(), bssl::UpRef(chain[i].impl()->cert));
  }
  auto store = MakeStore(roots);
  std::vector<Certificate> path;
  QANAT_RETURN_IF_ERROR(VerifyWith(store.get(), chain[0].impl()->cert.get(), rest.get(), purpose,
                                   now, nullptr, &path));
  return path;
}

Status VerifyChain(const std::vector<Certificate>& chain, const std::vector<Certificate>& roots,
                   Purpose purpose, Time now) {
  QANAT_RETURN_IF_ERROR(VerifiedPath(chain, roots, purpose, now));
  return {};
}

}  // namespace qanat::tls
