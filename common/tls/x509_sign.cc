// SPDX-License-Identifier: Apache-2.0
// Signing requests and certificates.
#include <openssl/asn1.h>
#include <openssl/bn.h>
#include <openssl/digest.h>
#include <openssl/ec.h>
#include <openssl/nid.h>
#include <openssl/obj.h>
#include <openssl/rsa.h>

#include "common/net/address.h"
#include "common/tls/boring.h"
#include "common/tls/x509.h"

namespace qanat::tls {
namespace {

tl::unexpected<Error> Broken(std::string_view what) {
  return Fail(Code::kInternal, std::string(what) + ": " + TakeSslError());
}

bool Printable(std::string_view text) {
  for (char c : text) {
    if (c <= ' ' || c >= 0x7f) return false;
  }
  return !text.empty();
}

Status AddName(GENERAL_NAMES* names, int type, std::string_view text) {
  bssl::UniquePtr<GENERAL_NAME> name(GENERAL_NAME_new());
  bssl::UniquePtr<ASN1_STRING> value(
      ASN1_STRING_type_new(type == GEN_IPADD ? V_ASN1_OCTET_STRING : V_ASN1_IA5STRING));
  if (!name || !value ||
      ASN1_STRING_set(value.get(), text.data(), static_cast<ossl_ssize_t>(text.size())) != 1) {
    return Broken("cannot build a name");
  }
  GENERAL_NAME_set0_value(name.get(), type, value.release());
  if (!bssl::PushToStack(names, std::move(name))) return Broken("cannot build a name");
  return {};
}

Result<bssl::UniquePtr<GENERAL_NAMES>> MakeNames(const RequestNames& wanted) {
  bssl::UniquePtr<GENERAL_NAMES> names(sk_GENERAL_NAME_new_null());
  for (const auto& uri : wanted.uri) {
    if (!Printable(uri)) return Fail(Code::kInvalidArgument, "malformed URI name \"" + uri + "\"");
    QANAT_RETURN_IF_ERROR(AddName(names.get(), GEN_URI, uri));
  }
  for (const auto& dns : wanted.dns) {
    if (!Printable(dns) || dns.find_first_of("/:@") != std::string::npos) {
      return Fail(Code::kInvalidArgument, "malformed DNS name \"" + dns + "\"");
    }
    QANAT_RETURN_IF_ERROR(AddName(names.get(), GEN_DNS, dns));
  }
  for (const auto& text : wanted.ip) {
    QANAT_ASSIGN_OR_RETURN(net::IpAddress ip, net::IpAddress::Parse(text));
    auto bytes = ip.bytes();
    QANAT_RETURN_IF_ERROR(AddName(names.get(), GEN_IPADD,
                                  {reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
  }
  if (sk_GENERAL_NAME_num(names.get()) == 0) {
    return Fail(Code::kInvalidArgument, "a certificate needs at least one name");
  }
  return names;
}

bssl::UniquePtr<X509_NAME> MakeSubject(std::string_view organization,
                                       std::string_view common_name) {
  bssl::UniquePtr<X509_NAME> name(X509_NAME_new());
  auto add = [&](const char* field, std::string_view value) {
    if (value.empty()) return;
    X509_NAME_add_entry_by_txt(name.get(), field, MBSTRING_UTF8,
                               reinterpret_cast<const uint8_t*>(value.data()),
                               static_cast<ossl_ssize_t>(value.size()), -1, 0);
  };
  add("O", organization);
  add("CN", common_name);
  return name;
}

bool SetUsage(X509* cert, std::initializer_list<int> bits) {
  bssl::UniquePtr<ASN1_BIT_STRING> usage(ASN1_BIT_STRING_new());
  for (int bit : bits) {
    if (ASN1_BIT_STRING_set_bit(usage.get(), bit, 1) != 1) return false;
  }
  return X509_add1_ext_i2d(cert, NID_key_usage, usage.get(), 1, X509V3_ADD_DEFAULT) == 1;
}

bool SetBasicConstraints(X509* cert, bool ca, int path_length) {
  bssl::UniquePtr<BASIC_CONSTRAINTS> constraints(BASIC_CONSTRAINTS_new());
  constraints->ca = ca ? ASN1_BOOLEAN_TRUE : ASN1_BOOLEAN_FALSE;
  if (path_length >= 0) {
    constraints->pathlen = ASN1_INTEGER_new();
    ASN1_INTEGER_set_int64(constraints->pathlen, path_length);
  }
  return X509_add1_ext_i2d(cert, NID_basic_constraints, constraints.get(), 1, X509V3_ADD_DEFAULT) ==
         1;
}

bool SetKeyIds(X509* cert, X509* issuer) {
  uint8_t digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (X509_pubkey_digest(cert, EVP_sha1(), digest, &size) != 1) return false;
  bssl::UniquePtr<ASN1_OCTET_STRING> id(ASN1_OCTET_STRING_new());
  ASN1_OCTET_STRING_set(id.get(), digest, static_cast<int>(size));
  if (X509_add1_ext_i2d(cert, NID_subject_key_identifier, id.get(), 0, X509V3_ADD_DEFAULT) != 1) {
    return false;
  }
  const ASN1_OCTET_STRING* of_issuer =
      issuer != nullptr ? X509_get0_subject_key_id(issuer) : id.get();
  if (of_issuer == nullptr) return true;
  bssl::UniquePtr<AUTHORITY_KEYID> authority(AUTHORITY_KEYID_new());
  authority->keyid = ASN1_OCTET_STRING_dup(of_issuer);
  return X509_add1_ext_i2d(cert, NID_authority_key_identifier, authority.get(), 0,
                           X509V3_ADD_DEFAULT) == 1;
}

bool SetExtendedUsage(X509* cert, Usage usage) {
  bssl::UniquePtr<EXTENDED_KEY_USAGE> list(sk_ASN1_OBJECT_new_null());
  auto add = [&](int nid) { sk_ASN1_OBJECT_push(list.get(), OBJ_nid2obj(nid)); };
  if (usage != Usage::kClient) add(NID_server_auth);
  if (usage != Usage::kServer) add(NID_client_auth);
  return X509_add1_ext_i2d(cert, NID_ext_key_usage, list.get(), 0, X509V3_ADD_DEFAULT) == 1;
}

// What every certificate has: version 3, a random serial, times, names, key.
Result<bssl::UniquePtr<X509>> Begin(const X509_NAME* subject, const X509_NAME* issuer,
                                    const PublicKey& key, Time not_before, Time not_after) {
  if (!key.is_set()) return Fail(Code::kInvalidArgument, "there is no key to certify");
  if (not_after <= not_before) {
    return Fail(Code::kInvalidArgument, "a certificate must end after it begins");
  }
  bssl::UniquePtr<X509> cert(X509_new());
  bssl::UniquePtr<BIGNUM> serial(BN_new());
  bssl::UniquePtr<ASN1_TIME> begin(ASN1_TIME_set_posix(nullptr, ToPosix(not_before)));
  bssl::UniquePtr<ASN1_TIME> end(ASN1_TIME_set_posix(nullptr, ToPosix(not_after)));
  bssl::UniquePtr<ASN1_INTEGER> number(ASN1_INTEGER_new());
  // 127 bits: positive in 16 bytes. The top bit is set, so it is never zero.
  if (!cert || !serial || !begin || !end || !number ||
      BN_rand(serial.get(), 127, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) != 1 ||
      BN_to_ASN1_INTEGER(serial.get(), number.get()) == nullptr ||
      X509_set_version(cert.get(), X509_VERSION_3) != 1 ||
      X509_set_serialNumber(cert.get(), number.get()) != 1 ||
      X509_set_subject_name(cert.get(), subject) != 1 ||
      X509_set_issuer_name(cert.get(), issuer) != 1 ||
      X509_set1_notBefore(cert.get(), begin.get()) != 1 ||
      X509_set1_notAfter(cert.get(), end.get()) != 1 ||
      X509_set_pubkey(cert.get(), key.impl()->key.get()) != 1) {
    return Broken("cannot build a certificate");
  }
  return cert;
}

Result<Certificate> Finish(bssl::UniquePtr<X509> cert, const PrivateKey& key) {
  if (X509_sign(cert.get(), key.impl()->key.get(), EVP_sha256()) == 0) {
    return Broken("cannot sign the certificate");
  }
  ERR_clear_error();
  return WrapCertificate(std::move(cert));
}

Status CheckIssuer(const Authority& issuer, Time not_before, Time not_after) {
  if (!issuer.certificate.is_set() || !issuer.certificate.Matches(issuer.key)) {
    return Fail(Code::kFailedPrecondition, "the CA's certificate and key do not belong together");
  }
  if (!issuer.certificate.is_ca()) {
    return Fail(Code::kFailedPrecondition, "the issuer's certificate is not a CA's");
  }
  if (not_after > issuer.certificate.not_after() || not_before < issuer.certificate.not_before()) {
    return Fail(Code::kFailedPrecondition,
                "the validity asked for (" + FormatTime(not_before) + " to " +
                    FormatTime(not_after) + ") is not within the CA certificate's own (" +
                    FormatTime(issuer.certificate.not_before()) + " to " +
                    FormatTime(issuer.certificate.not_after()) + "); renew the CA certificate");
  }
  return {};
}

bool GoodKey(const EVP_PKEY* key) {
  switch (EVP_PKEY_id(key)) {
    case EVP_PKEY_RSA: return EVP_PKEY_bits(key) >= 2048 && EVP_PKEY_bits(key) <= 8192;
    case EVP_PKEY_EC: {
      const EC_KEY* ec = EVP_PKEY_get0_EC_KEY(key);
      int curve = ec != nullptr ? EC_GROUP_get_curve_name(EC_KEY_get0_group(ec)) : 0;
      return curve == NID_X9_62_prime256v1 || curve == NID_secp384r1;
    }
    default: return false;
  }
}

}  // namespace

Result<std::string> MakeCsr(const PrivateKey& key, const RequestNames& names) {
  if (!key.is_set()) return Fail(Code::kInvalidArgument, "there is no key to ask for");
  QANAT_ASSIGN_OR_RETURN(auto general, MakeNames(names));
  bssl::UniquePtr<X509_REQ> request(X509_REQ_new());
  X509_EXTENSION* extension = X509V3_EXT_i2d(NID_subject_alt_name, /*crit=*/1, general.get());
  bssl::UniquePtr<X509_EXTENSIONS> extensions(sk_X509_EXTENSION_new_null());
  if (!request || extension == nullptr ||
      sk_X509_EXTENSION_push(extensions.get(), extension) == 0 ||
      X509_REQ_set_version(request.get(), X509_REQ_VERSION_1) != 1 ||
      X509_REQ_set_pubkey(request.get(), key.impl()->key.get()) != 1 ||
      X509_REQ_add_extensions(request.get(), extensions.get()) != 1 ||
      X509_REQ_sign(request.get(), key.impl()->key.get(), EVP_sha256()) == 0) {
    return Broken("cannot build a signing request");
  }
  bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509_REQ(bio.get(), request.get());
  ERR_clear_error();
  return BioToString(bio.get());
}

Result<Csr> ParseCsr(std::string_view pem) {
  auto refuse = [](std::string why) {
    std::string detail = TakeSslError();
    if (!detail.empty()) why += ": " + detail;
    return Fail(Code::kInvalidArgument, "signing request refused: " + why);
  };
  if (pem.size() > 64 * 1024) return refuse("longer than 64 KiB");
  bssl::UniquePtr<BIO> bio(BIO_new_mem_buf(pem.data(), static_cast<ossl_ssize_t>(pem.size())));
  bssl::UniquePtr<X509_REQ> request(PEM_read_bio_X509_REQ(bio.get(), nullptr, nullptr, nullptr));
  if (!request) return refuse("not a CERTIFICATE REQUEST in PEM form");
  bssl::UniquePtr<EVP_PKEY> key(X509_REQ_get_pubkey(request.get()));
  if (!key) return refuse("its public key is not readable");
  if (!GoodKey(key.get())) {
    return refuse("its key must be P-256, P-384 or RSA of 2048 bits and more");
  }
  if (X509_REQ_verify(request.get(), key.get()) != 1) {
    return refuse("it is not signed with its own key");
  }
  Csr out;
  const X509_NAME* subject = X509_REQ_get_subject_name(request.get());
  if (X509_NAME_entry_count(subject) > 0) {
    bssl::UniquePtr<BIO> text(BIO_new(BIO_s_mem()));
    X509_NAME_print_ex(text.get(), subject, 0, XN_FLAG_RFC2253);
    out.subject = BioToString(text.get());
  }
  // One extensionRequest attribute, one SAN extension in it: with two it would depend on the reader
  // which of them counts.
  int first = X509_REQ_get_attr_by_NID(request.get(), NID_ext_req, -1);
  if (first >= 0 && X509_REQ_get_attr_by_NID(request.get(), NID_ext_req, first) >= 0) {
    return refuse("it has two lists of extensions");
  }
  bssl::UniquePtr<X509_EXTENSIONS> extensions(X509_REQ_get_extensions(request.get()));
  if (first >= 0 && !extensions) return refuse("its extensions are not readable");
  bool have_names = false;
  for (size_t i = 0; extensions && i < sk_X509_EXTENSION_num(extensions.get()); ++i) {
    const X509_EXTENSION* extension = sk_X509_EXTENSION_value(extensions.get(), i);
    const ASN1_OBJECT* object = X509_EXTENSION_get_object(extension);
    if (OBJ_obj2nid(object) == NID_subject_alt_name) {
      if (have_names) return refuse("it has two lists of names");
      have_names = true;
      bssl::UniquePtr<GENERAL_NAMES> names(static_cast<GENERAL_NAMES*>(X509V3_EXT_d2i(extension)));
      if (!names) return refuse("its names are not readable");
      out.sans = ReadNames(names.get());
    } else {
      char text[128];
      OBJ_obj2txt(text, sizeof text, object, 0);
      out.other_extensions.push_back(text);
    }
  }
  out.key = PublicKey(std::make_shared<KeyImpl>(KeyImpl{std::move(key)}));
  ERR_clear_error();
  return out;
}

Result<Authority> MakeRoot(const PrivateKey& key, std::string_view organization,
                           std::string_view common_name, Time not_before, Time not_after) {
  if (!key.is_set()) return Fail(Code::kInvalidArgument, "there is no key for the root");
  auto subject = MakeSubject(organization, common_name);
  QANAT_ASSIGN_OR_RETURN(
      auto cert, Begin(subject.get(), subject.get(), key.public_key(), not_before, not_after));
  if (!SetBasicConstraints(cert.get(), true, -1) || !SetUsage(cert.get(), {5, 6}) ||
      !SetKeyIds(cert.get(), nullptr)) {
    return Broken("cannot build the root certificate");
  }
  QANAT_ASSIGN_OR_RETURN(Certificate root, Finish(std::move(cert), key));
  return Authority{std::move(root), key};
}

Result<Certificate> SignIntermediate(const Authority& issuer, const PublicKey& key,
                                     std::string_view common_name, Time not_before,
                                     Time not_after) {
  QANAT_RETURN_IF_ERROR(CheckIssuer(issuer, not_before, not_after));
  auto subject = MakeSubject({}, common_name);
  X509* parent = issuer.certificate.impl()->cert.get();
  QANAT_ASSIGN_OR_RETURN(
      auto cert, Begin(subject.get(), X509_get_subject_name(parent), key, not_before, not_after));
  if (!SetBasicConstraints(cert.get(), true, 0) || !SetUsage(cert.get(), {5, 6}) ||
      !SetKeyIds(cert.get(), parent)) {
    return Broken("cannot build the intermediate certificate");
  }
  return Finish(std::move(cert), issuer.key);
}

Result<Certificate> SignLeaf(const Authority& issuer, const LeafTemplate& leaf) {
  QANAT_RETURN_IF_ERROR(CheckIssuer(issuer, leaf.not_before, leaf.not_after));
  QANAT_ASSIGN_OR_RETURN(auto names, MakeNames(leaf.names));
  auto subject = MakeSubject({}, leaf.common_name);
  X509* parent = issuer.certificate.impl()->cert.get();
  QANAT_ASSIGN_OR_RETURN(auto cert, Begin(subject.get(), X509_get_subject_name(parent), leaf.key,
                                          leaf.not_before, leaf.not_after));
  bool rsa = EVP_PKEY_id(leaf.key.impl()->key.get()) == EVP_PKEY_RSA;
  bool usage = rsa ? SetUsage(cert.get(), {0, 2}) : SetUsage(cert.get(), {0});
  if (!usage || !SetBasicConstraints(cert.get(), false, -1) ||
      !SetExtendedUsage(cert.get(), leaf.usage) || !SetKeyIds(cert.get(), parent) ||
      X509_add1_ext_i2d(cert.get(), NID_subject_alt_name, names.get(), leaf.common_name.empty(),
                        X509V3_ADD_DEFAULT) != 1) {
    return Broken("cannot build the certificate");
  }
  return Finish(std::move(cert), issuer.key);
}

}  // namespace qanat::tls
