// SPDX-License-Identifier: Apache-2.0
// X.509 for a mesh: read certificates, make and check signing requests, sign certificates, verify
// chains. Used by TLS itself, by the certificate client and by the control plane's CA. All values
// are immutable and may be shared between threads; nothing here logs or reads the clock (times are
// arguments).
#pragma once

#include <cerrno>
#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/tls/crypto.h"

namespace qanat::tls {

using Time = std::chrono::system_clock::time_point;
std::string FormatTime(Time time);  // 2026-11-22T05:22:27Z
// Seconds since 1970, as anybody may write them: what the clock's type cannot hold (it ends in
// 2262) becomes a date in 2255, or in 1684.
Time FromPosix(int64_t seconds);

struct SubjectAltNames {
  std::vector<std::string> uri;
  std::vector<std::string> dns;
  std::vector<std::string> ip;       // printed form
  std::vector<std::string> unknown;  // other kinds ("email", "dirname", ...): a CA refuses these
  size_t count() const { return uri.size() + dns.size() + ip.size() + unknown.size(); }
  std::string ToString() const;  // "uri:..., dns:...", for messages
};

struct CertificateImpl;  // X509

class Certificate {
 public:
  Certificate() = default;
  explicit Certificate(std::shared_ptr<const CertificateImpl> impl) : impl_(std::move(impl)) {}
  static Result<Certificate> FromDer(std::span<const uint8_t> der);
  // Every CERTIFICATE block of a PEM text, in order. Fails when there is none or one is broken.
  static Result<std::vector<Certificate>> ParsePem(std::string_view pem);

  bool is_set() const { return impl_ != nullptr; }
  std::string ToPem() const;
  std::vector<uint8_t> ToDer() const;
  PublicKey public_key() const;
  std::string subject() const;  // RFC 2253 form; "" when empty
  std::string issuer() const;
  std::string serial() const;      // decimal, as config_dump shows it
  std::string serial_hex() const;  // lower case
  Time not_before() const;
  Time not_after() const;
  SubjectAltNames sans() const;
  bool is_ca() const;
  bool Matches(const PrivateKey& key) const;  // the public halves are equal
  bool SelfSigned() const;                    // subject is issuer and the signature is its own

  const CertificateImpl* impl() const { return impl_.get(); }

 private:
  std::shared_ptr<const CertificateImpl> impl_;
};

std::string ToPem(const std::vector<Certificate>& chain);

// ---- signing requests ----

struct RequestNames {
  std::vector<std::string> uri;
  std::vector<std::string> dns;
  std::vector<std::string> ip;
};
// PKCS#10 in PEM: empty subject, SHA-256. With an empty subject the SAN extension is critical
// (RFC 5280 4.2.1.6; stock BoringSSL and OpenSSL builds of ztunnel do the same).
Result<std::string> MakeCsr(const PrivateKey& key, const RequestNames& names);

struct Csr {
  PublicKey key;
  std::string subject;  // "" when empty
  SubjectAltNames sans;
  std::vector<std::string> other_extensions;  // names or OIDs of whatever else was asked for
};
// Parses, checks the request's own signature, and refuses RSA keys under 2048 bits and curves other
// than P-256 and P-384.
Result<Csr> ParseCsr(std::string_view pem);

// ---- signing ----

enum class Usage { kBoth, kServer, kClient };  // extended key usage of a leaf

struct LeafTemplate {
  PublicKey key;
  RequestNames names;
  std::string common_name;  // "" = empty subject and critical SAN
  Time not_before;
  Time not_after;
  Usage usage = Usage::kBoth;
};

// A certificate with its key, able to sign.
struct Authority {
  Certificate certificate;
  PrivateKey key;
};

// A self-signed CA certificate: keyCertSign and cRLSign, critical basicConstraints CA.
Result<Authority> MakeRoot(const PrivateKey& key, std::string_view organization,
                           std::string_view common_name, Time not_before, Time not_after);
// A CA certificate below another one (path length 0).
Result<Certificate> SignIntermediate(const Authority& issuer, const PublicKey& key,
                                     std::string_view common_name, Time not_before, Time not_after);
// digitalSignature (and keyEncipherment for RSA), random 127-bit serial, key identifiers.
// Fails when the validity does not lie within the issuer's or the names are malformed.
Result<Certificate> SignLeaf(const Authority& issuer, const LeafTemplate& leaf);

// ---- checking ----

enum class Purpose { kAny, kServerAuth, kClientAuth };

// What is the matter with a certificate, for programs: Error::sys_errno (the kernel's numbers for
// its own keys) of a verification or a handshake that failed, by us or by the peer's alert.
inline constexpr int kUnknownIssuer = ENOKEY;  // leads to no root that is trusted
inline constexpr int kRevoked = EKEYREVOKED;

// The leaf is chain[0]; the rest may help to reach a root. An error names the cause: expired, not
// yet valid, unknown root (and which), wrong key usage.
Status VerifyChain(const std::vector<Certificate>& chain, const std::vector<Certificate>& roots,
                   Purpose purpose, Time now);
// The same, with the certificates from the leaf to the root that it was verified by.
Result<std::vector<Certificate>> VerifiedPath(const std::vector<Certificate>& chain,
                                              const std::vector<Certificate>& roots,
                                              Purpose purpose, Time now);

}  // namespace qanat::tls
