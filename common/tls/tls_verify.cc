// SPDX-License-Identifier: Apache-2.0
#include "common/tls/tls_verify.h"

#include <strings.h>

#include <algorithm>

#include "common/net/address.h"
#include "common/tls/spiffe.h"

namespace qanat::tls {
namespace {

std::string List(const std::vector<std::string>& items) {
  std::string out;
  for (const auto& item : items) {
    if (!out.empty()) out += " or ";
    out += item;
  }
  return out.empty() ? "nobody" : out;
}

bool SameText(std::string_view a, std::string_view b) {
  return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

// RFC 6125: "*" stands for exactly one left-most label.
bool DnsMatches(std::string_view pattern, std::string_view name) {
  if (pattern.starts_with("*.")) {
    size_t dot = name.find('.');
    return dot != std::string_view::npos && dot > 0 &&
           SameText(pattern.substr(1), name.substr(dot));
  }
  return SameText(pattern, name);
}

bool NameMatches(const SubjectAltNames& sans, const std::string& wanted) {
  if (auto ip = net::IpAddress::Parse(wanted)) {
    return std::find(sans.ip.begin(), sans.ip.end(), ip->ToString()) != sans.ip.end();
  }
  return std::any_of(sans.dns.begin(), sans.dns.end(),
                     [&](const std::string& pattern) { return DnsMatches(pattern, wanted); });
}

bool AnyEqual(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  return std::any_of(a.begin(), a.end(), [&](const std::string& one) {
    return std::find(b.begin(), b.end(), one) != b.end();
  });
}

Status CheckServer(const SubjectAltNames& sans, const PeerPolicy& policy) {
  if (policy.uris.empty() && policy.names.empty()) {
    return Fail(Code::kFailedPrecondition,
                "nobody said which server to expect; every server is refused");
  }
  if (AnyEqual(sans.uri, policy.uris)) return {};
  for (const auto& name : policy.names) {
    if (NameMatches(sans, name)) return {};
  }
  std::vector<std::string> wanted = policy.uris;
  wanted.insert(wanted.end(), policy.names.begin(), policy.names.end());
  return Fail(Code::kUnauthenticated, "the server's certificate is for " + sans.ToString() +
                                          ", but wanted is " + List(wanted) +
                                          " (does the address belong to another workload now?)");
}

Status CheckClient(const SubjectAltNames& sans, const TlsContext& context,
                   const PeerPolicy& policy) {
  // Two identities in one certificate would let its holder choose by whom it is taken for.
  if (sans.uri.size() != 1) {
    return Fail(
        Code::kUnauthenticated,
        "the client's certificate must carry exactly one SPIFFE id, it is for " + sans.ToString());
  }
  auto parts = ParseSpiffe(sans.uri[0]);
  if (!parts) {
    return Fail(Code::kUnauthenticated, "the client's name " + sans.uri[0] +
                                            " is not of the form "
                                            "spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT");
  }
  bool known = !context.trust_domain().empty() && parts->trust_domain == context.trust_domain();
  for (const auto& domain : policy.trust_domains) known = known || parts->trust_domain == domain;
  if (!known) {
    return Fail(Code::kUnauthenticated,
                "the client " + sans.uri[0] + " is not of our trust domain " +
                    (context.trust_domain().empty() ? "(none)" : context.trust_domain()));
  }
  if (!policy.uris.empty() && !AnyEqual(sans.uri, policy.uris)) {
    return Fail(Code::kUnauthenticated,
                "the client is " + sans.uri[0] + ", but wanted is " + List(policy.uris));
  }
  return {};
}

constexpr size_t kMaxChain = 10;

// All that the outcome of VerifyAnew() depends on, but the time.
PeerVerifier::Key KeyOf(const STACK_OF(CRYPTO_BUFFER) * chain, Purpose purpose,
                        const TlsContext& context) {
  SHA256_CTX sha;
  SHA256_Init(&sha);
  const auto& roots = context.impl().roots_hash;
  SHA256_Update(&sha, roots.data(), roots.size());
  const auto use = static_cast<uint8_t>(purpose);
  SHA256_Update(&sha, &use, 1);
  for (size_t i = 0; i < std::min(sk_CRYPTO_BUFFER_num(chain), kMaxChain); ++i) {
    const CRYPTO_BUFFER* der = sk_CRYPTO_BUFFER_value(chain, i);
    const uint64_t size = CRYPTO_BUFFER_len(der);
    SHA256_Update(&sha, &size, sizeof size);
    SHA256_Update(&sha, CRYPTO_BUFFER_data(der), size);
  }
  PeerVerifier::Key out;
  SHA256_Final(out.data(), &sha);
  return out;
}

Result<VerifiedPeerPtr> VerifyAnew(const STACK_OF(CRYPTO_BUFFER) * chain, Purpose purpose,
                                   const TlsContext& context, Time now, uint8_t* alert) {
  bssl::UniquePtr<X509> leaf;
  bssl::UniquePtr<STACK_OF(X509)> rest(sk_X509_new_null());
  for (size_t i = 0; i < std::min(sk_CRYPTO_BUFFER_num(chain), kMaxChain); ++i) {
    bssl::UniquePtr<X509> cert(X509_parse_from_buffer(sk_CRYPTO_BUFFER_value(chain, i)));
    if (!cert) {
      *alert = SSL_AD_DECODE_ERROR;
      return Fail(Code::kUnauthenticated,
                  "the peer's certificate cannot be parsed: " + TakeSslError());
    }
    if (i == 0) {
      leaf = std::move(cert);
    } else {
      bssl::PushToStack(rest.get(), std::move(cert));
    }
  }
  std::vector<Certificate> path;
  QANAT_RETURN_IF_ERROR(
      VerifyWith(context.impl().roots.get(), leaf.get(), rest.get(), purpose, now, alert, &path));
  return MakeVerifiedPeer(std::move(path));
}

}  // namespace

Error RevokedError(std::string why) {
  return {Code::kUnauthenticated, std::move(why) + " (CRL_PATH; its owner needs a new certificate)",
          kRevoked};
}

Status VerifyPeer(const STACK_OF(CRYPTO_BUFFER) * chain, const TlsContext& context, Role role,
                  const PeerPolicy& policy, PeerVerifier* verifier, Time now, PeerInfo& peer,
                  uint8_t* alert) {
  peer.identity.clear();  // a ticket may have been looked at before
  if (chain == nullptr || sk_CRYPTO_BUFFER_num(chain) == 0) {
    *alert = SSL_AD_CERTIFICATE_REQUIRED;
    return Fail(Code::kUnauthenticated, "the peer presented no certificate");
  }
  const bool client = role == Role::kClient;
  const Purpose purpose = client ? Purpose::kServerAuth : Purpose::kClientAuth;
  PeerVerifier::Key key{};
  if (verifier != nullptr) {
    key = KeyOf(chain, purpose, context);
    peer.verified = verifier->Find(key, now);
  }
  if (peer.verified == nullptr) {
    QANAT_ASSIGN_OR_RETURN(peer.verified, VerifyAnew(chain, purpose, context, now, alert));
    if (verifier != nullptr) verifier->Remember(key, peer.verified);
  }
  if (verifier != nullptr) {
    if (auto why = verifier->Revoked(*peer.verified)) {
      *alert = SSL_AD_CERTIFICATE_REVOKED;
      return Fail(RevokedError(std::move(*why)));
    }
  }
  peer.leaf = peer.verified->path.front();
  peer.sans = peer.verified->sans;
  *alert = SSL_AD_BAD_CERTIFICATE;
  QANAT_RETURN_IF_ERROR(client ? CheckServer(peer.sans, policy)
                               : CheckClient(peer.sans, context, policy));
  for (const auto& uri : peer.sans.uri) {
    // With several (a server may have them) the one that was asked for is who it is to us.
    if (!ParseSpiffe(uri)) continue;
    bool wanted = std::find(policy.uris.begin(), policy.uris.end(), uri) != policy.uris.end();
    if (peer.identity.empty() || wanted) peer.identity = uri;
    if (wanted) break;
  }
  return {};
}

std::string AlertText(int alert) {
  switch (alert) {
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_ACCESS_DENIED:
      return std::string("the peer refused our certificate (alert ") +
             SSL_alert_desc_string_long(alert) + "; its log says why: name, trust domain or usage)";
    case SSL_AD_CERTIFICATE_REVOKED: return "the peer refused our certificate: it is revoked";
    case SSL_AD_CERTIFICATE_EXPIRED:
      return "the peer refused our certificate: it has expired or is not yet valid there";
    case SSL_AD_UNKNOWN_CA:
      return "the peer refused our certificate: it does not know the CA that issued it";
    case SSL_AD_CERTIFICATE_REQUIRED: return "the peer wants a certificate and we have none";
    case SSL_AD_NO_APPLICATION_PROTOCOL: return "the peer speaks none of our ALPN protocols";
    case SSL_AD_PROTOCOL_VERSION: return "the peer does not speak our TLS versions";
    default: return std::string("the peer sent the alert ") + SSL_alert_desc_string_long(alert);
  }
}

Error ExplainAlert(int alert) {
  bool certificate = (alert >= SSL_AD_BAD_CERTIFICATE && alert <= SSL_AD_CERTIFICATE_UNKNOWN) ||
                     alert == SSL_AD_UNKNOWN_CA || alert == SSL_AD_ACCESS_DENIED ||
                     alert == SSL_AD_CERTIFICATE_REQUIRED;
  return {certificate ? Code::kUnauthenticated : Code::kInvalidArgument, AlertText(alert),
          alert == SSL_AD_UNKNOWN_CA            ? kUnknownIssuer
          : alert == SSL_AD_CERTIFICATE_REVOKED ? kRevoked
                                                : 0};
}

Error ExplainSslError(std::string_view doing) {
  uint32_t packed = ERR_peek_error();
  int reason = ERR_GET_LIB(packed) == ERR_LIB_SSL ? ERR_GET_REASON(packed) : 0;
  std::string text = TakeSslError();
  if (reason >= SSL_AD_REASON_OFFSET) return ExplainAlert(reason - SSL_AD_REASON_OFFSET);
  Error out{Code::kInvalidArgument, {}, 0};
  switch (reason) {
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      out.code = Code::kUnauthenticated;
      out.message = "the client presented no certificate";
      return out;
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
    case SSL_R_UNEXPECTED_RECORD:
      out.message = "what the peer sends is not TLS (plaintext on a TLS port?)";
      break;
    case SSL_R_UNSUPPORTED_PROTOCOL:
      out.message = "the peer does not speak TLS 1.3, which is required";
      break;
    case SSL_R_NO_APPLICATION_PROTOCOL:
      out.message = "the peer speaks none of our ALPN protocols";
      break;
    case SSL_R_NO_SHARED_GROUP:
      out.message = "no key exchange group in common (X25519MLKEM768, X25519, P-256, P-384)";
      break;
    default: out.message = std::string(doing) + " failed"; break;
  }
  if (!text.empty()) out.message += " [" + text + "]";
  return out;
}

}  // namespace qanat::tls
