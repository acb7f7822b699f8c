// SPDX-License-Identifier: Apache-2.0
#include "common/tls/tls_context.h"

#include <algorithm>

#include "common/tls/boring.h"
#include "common/tls/spiffe.h"
#include "common/tls/ticket_state.h"

namespace qanat::tls {
namespace {

// Server side: the first of ours that the client offers. No overlap is fatal (RFC 7301 3.2).
int SelectAlpn(SSL*, const uint8_t** out, uint8_t* out_size, const uint8_t* in, unsigned in_size,
               void* arg) {
  const auto& wire = static_cast<const ContextImpl*>(arg)->alpn_wire;
  uint8_t* chosen = nullptr;
  int result = SSL_select_next_proto(&chosen, out_size, wire.data(),
                                     static_cast<unsigned>(wire.size()), in, in_size);
  if (result != OPENSSL_NPN_NEGOTIATED) return SSL_TLSEXT_ERR_ALERT_FATAL;
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

Status InstallChain(SSL_CTX* ctx, const ContextOptions& options) {
  std::vector<bssl::UniquePtr<CRYPTO_BUFFER>> buffers;
  std::vector<CRYPTO_BUFFER*> raw;
  for (const Certificate& cert : options.chain) {
    std::vector<uint8_t> der = cert.ToDer();
    buffers.emplace_back(CRYPTO_BUFFER_new(der.data(), der.size(), nullptr));
    raw.push_back(buffers.back().get());
  }
  if (SSL_CTX_set_chain_and_key(ctx, raw.data(), raw.size(), options.key.impl()->key.get(),
                                nullptr) != 1) {
    return Fail(Code::kInvalidArgument, "certificate or key cannot be used: " + TakeSslError());
  }
  return {};
}

std::array<uint8_t, 32> HashOf(const std::vector<Certificate>& roots) {
  std::vector<std::vector<uint8_t>> all;
  for (const Certificate& root : roots) all.push_back(root.ToDer());
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  SHA256_CTX sha;
  SHA256_Init(&sha);
  for (const auto& der : all) SHA256_Update(&sha, der.data(), der.size());  // each tells its length
  std::array<uint8_t, 32> out;
  SHA256_Final(out.data(), &sha);
  return out;
}

}  // namespace

TlsContext::TlsContext(std::unique_ptr<const ContextImpl> impl) : impl_(std::move(impl)) {}
TlsContext::~TlsContext() = default;
const ContextOptions& TlsContext::options() const { return impl_->options; }
const std::string& TlsContext::identity() const { return impl_->identity; }
const std::string& TlsContext::trust_domain() const { return impl_->trust_domain; }

Result<std::shared_ptr<const TlsContext>> TlsContext::Make(ContextOptions options) {
  auto impl = std::make_unique<ContextImpl>();
  if (options.chain.empty() != !options.key.is_set()) {
    return Fail(Code::kInvalidArgument, "a certificate and its key come together or not at all");
  }
  if (!options.chain.empty() && !options.chain[0].Matches(options.key)) {
    return Fail(Code::kInvalidArgument,
                "the key does not belong to the first certificate of the chain (" +
                    options.chain[0].sans().ToString() + ")");
  }
  // Without crypto/x509 inside the connection: our verifier (tls_verify.cc) parses the peer's chain
  // once and nothing of it stays in memory that is not asked for.
  impl->ctx.reset(SSL_CTX_new(TLS_with_buffers_method()));
  if (!impl->ctx) return Fail(Code::kInternal, "SSL_CTX_new: " + TakeSslError());
  SSL_CTX* ctx = impl->ctx.get();
  const bool tls12 = options.allow_tls12 && !options.post_quantum_only;
  SSL_CTX_set_min_proto_version(ctx, tls12 ? TLS1_2_VERSION : TLS1_3_VERSION);
  SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION);
  // Suites and groups, and their order, are stock's on the wire; BoringSSL by itself would put
  // AES-128 first and add ChaCha20.
  const uint16_t suites[] = {SSL_CIPHER_AES_256_GCM_SHA384, SSL_CIPHER_AES_128_GCM_SHA256};
  if (SSL_CTX_set1_tls13_ciphers(ctx, suites, nullptr, std::size(suites)) != 1) {
    return Fail(Code::kInternal, "cipher suites: " + TakeSslError());
  }
  if (SSL_CTX_set_strict_cipher_list(ctx,
                                     "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:"
                                     "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256") !=
      1) {
    return Fail(Code::kInternal, "cipher list: " + TakeSslError());
  }
  const uint16_t groups[] = {SSL_GROUP_X25519_MLKEM768, SSL_GROUP_X25519, SSL_GROUP_SECP256R1,
                             SSL_GROUP_SECP384R1};
  const size_t group_count = options.post_quantum_only ? 1 : std::size(groups);
  if (SSL_CTX_set1_group_ids(ctx, groups, group_count) != 1) {
    return Fail(Code::kInternal, "groups: " + TakeSslError());
  }
  // A server takes the first group of its own that the client can do, even if that costs a round
  // trip (HelloRetryRequest): recorded traffic should not be readable later.
  // No resumption unless it is asked for below: every handshake proves the certificate anew (stock:
  // none in effect either).
  SSL_CTX_set_options(ctx,
                      SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
  for (const auto& name : options.alpn) {
    if (name.empty() || name.size() > 255) {
      return Fail(Code::kInvalidArgument, "malformed ALPN name \"" + name + "\"");
    }
    impl->alpn_wire.push_back(static_cast<uint8_t>(name.size()));
    impl->alpn_wire.insert(impl->alpn_wire.end(), name.begin(), name.end());
  }
  if (!impl->alpn_wire.empty()) {
    SSL_CTX_set_alpn_protos(ctx, impl->alpn_wire.data(), impl->alpn_wire.size());
    SSL_CTX_set_alpn_select_cb(ctx, SelectAlpn, impl.get());
  }
  if (!options.chain.empty()) {
    QANAT_RETURN_IF_ERROR(InstallChain(ctx, options));
    for (const auto& uri : options.chain[0].sans().uri) {
      if (auto parts = ParseSpiffe(uri)) {
        impl->identity = uri;
        impl->trust_domain = parts->trust_domain;
        break;
      }
    }
  }
  impl->roots = MakeStore(options.roots);
  impl->roots_hash = HashOf(options.roots);
  impl->options = std::move(options);
  if (impl->options.resumption && !tls12 && !impl->options.chain.empty()) {
    QANAT_RETURN_IF_ERROR(EnableTickets(*impl));
  }
  return std::make_shared<const TlsContext>(std::move(impl));
}

Result<std::shared_ptr<const TlsContext>> TlsContext::FromPem(std::string_view chain_pem,
                                                              std::string_view key_pem,
                                                              std::string_view roots_pem,
                                                              ContextOptions options) {
  if (!chain_pem.empty()) {
    QANAT_ASSIGN_OR_RETURN(options.chain, Certificate::ParsePem(chain_pem));
  }
  if (!key_pem.empty()) {
    QANAT_ASSIGN_OR_RETURN(options.key, PrivateKey::FromPem(key_pem));
  }
  if (!roots_pem.empty()) {
    QANAT_ASSIGN_OR_RETURN(options.roots, Certificate::ParsePem(roots_pem));
  }
  return Make(std::move(options));
}

}  // namespace qanat::tls
