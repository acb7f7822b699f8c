// SPDX-License-Identifier: Apache-2.0
#include "common/tls/record_layer.h"

#include <openssl/bytestring.h>
#include <openssl/hkdf.h>
#include <openssl/mem.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

namespace qanat::tls {

namespace {

constexpr uint8_t kChangeCipherSpec = 20;
constexpr uint8_t kAlert = 21;
constexpr uint8_t kHandshake = 22;
constexpr uint8_t kApplicationData = 23;
constexpr uint8_t kNewSessionTicket = 4;
constexpr uint8_t kKeyUpdate = 24;
constexpr uint16_t kEarlyData = 42;  // an extension
constexpr size_t kTag = 16;

struct Suite {
  const EVP_AEAD* aead;
  const EVP_MD* digest;
};

// RFC 8446 B.4.
Suite SuiteOf(uint16_t cipher) {
  switch (cipher) {
    case 0x1301: return {EVP_aead_aes_128_gcm(), EVP_sha256()};
    case 0x1302: return {EVP_aead_aes_256_gcm(), EVP_sha384()};
    case 0x1303: return {EVP_aead_chacha20_poly1305(), EVP_sha256()};
    default: return {nullptr, nullptr};
  }
}

// HKDF-Expand-Label with an empty context (RFC 8446 7.1).
bool Expand(const EVP_MD* digest, std::span<const uint8_t> secret, std::string_view label,
            std::span<uint8_t> out) {
  std::array<uint8_t, 32> info;
  size_t n = 0;
  info[n++] = static_cast<uint8_t>(out.size() >> 8);
  info[n++] = static_cast<uint8_t>(out.size());
  constexpr std::string_view kPrefix = "tls13 ";
  info[n++] = static_cast<uint8_t>(kPrefix.size() + label.size());
  for (char c : kPrefix) info[n++] = static_cast<uint8_t>(c);
  for (char c : label) info[n++] = static_cast<uint8_t>(c);
  info[n++] = 0;
  return HKDF_expand(out.data(), out.size(), digest, secret.data(), secret.size(), info.data(),
                     n) == 1;
}

// RFC 8446 4.6.1. BoringSSL ends the connection for one that is malformed, and so do we, whether or
// not anybody wants tickets.
bool WellFormedTicket(std::span<const uint8_t> body) {
  CBS cbs, nonce, ticket, extensions, data;
  CBS_init(&cbs, body.data(), body.size());
  uint32_t number = 0;
  if (!CBS_get_u32(&cbs, &number) || !CBS_get_u32(&cbs, &number) ||
      !CBS_get_u8_length_prefixed(&cbs, &nonce) || !CBS_get_u16_length_prefixed(&cbs, &ticket) ||
      CBS_len(&ticket) == 0 || !CBS_get_u16_length_prefixed(&cbs, &extensions) ||
      CBS_len(&cbs) != 0) {
    return false;
  }
  std::set<uint16_t> seen;
  while (CBS_len(&extensions) != 0) {
    uint16_t type = 0;
    if (!CBS_get_u16(&extensions, &type) || !CBS_get_u16_length_prefixed(&extensions, &data) ||
        !seen.insert(type).second || (type == kEarlyData && CBS_len(&data) != 4)) {
      return false;
    }
  }
  return true;
}

}  // namespace

// ---- Secret ----

Secret::Secret(std::span<const uint8_t> bytes) {
  if (bytes.size() > kMax || bytes.empty()) return;
  std::memcpy(bytes_, bytes.data(), bytes.size());
  size_ = static_cast<uint8_t>(bytes.size());
}
Secret::~Secret() { Clear(); }
Secret::Secret(const Secret& other) = default;
Secret& Secret::operator=(const Secret& other) = default;
Secret::Secret(Secret&& other) noexcept { *this = std::move(other); }
Secret& Secret::operator=(Secret&& other) noexcept {
  if (this == &other) return *this;
  *this = other;
  other.Clear();
  return *this;
}
void Secret::Clear() {
  OPENSSL_cleanse(bytes_, sizeof bytes_);
  size_ = 0;
}

// ---- RecordKey ----

bool RecordKey::Set(uint16_t cipher, Secret secret, uint64_t sequence) {
  Clear();
  Suite suite = SuiteOf(cipher);
  if (suite.aead == nullptr || secret.bytes().size() != EVP_MD_size(suite.digest)) return false;
  uint8_t key[32];
  std::span<uint8_t> used(key, EVP_AEAD_key_length(suite.aead));
  bool good = Expand(suite.digest, secret.bytes(), "key", used) &&
              Expand(suite.digest, secret.bytes(), "iv", iv_) &&
              EVP_AEAD_CTX_init(&aead_, suite.aead, used.data(), used.size(), kTag, nullptr) == 1;
  OPENSSL_cleanse(key, sizeof key);
  if (!good) {
    Clear();
    return false;
  }
  secret_ = std::move(secret);
  sequence_ = sequence;
  cipher_ = cipher;
  return true;
}

bool RecordKey::Update() {
  uint8_t next[Secret::kMax];
  std::span<uint8_t> used(next, secret_.bytes().size());
  bool good = Expand(SuiteOf(cipher_).digest, secret_.bytes(), "traffic upd", used);
  Secret secret(used);
  OPENSSL_cleanse(next, sizeof next);
  return good && Set(cipher_, std::move(secret), 0);
}

void RecordKey::Clear() {
  EVP_AEAD_CTX_cleanup(&aead_);
  OPENSSL_cleanse(&aead_, sizeof aead_);  // the key schedule is inside
  EVP_AEAD_CTX_zero(&aead_);
  OPENSSL_cleanse(iv_, sizeof iv_);
  secret_.Clear();
}

bool RecordKey::NextNonce(uint8_t out[12]) {
  // The last number is never used: a wrap would repeat the first nonce under the same key.
  if (secret_.empty() || sequence_ == std::numeric_limits<uint64_t>::max()) return false;
  std::memcpy(out, iv_, sizeof iv_);
  for (int i = 0; i < 8; ++i) out[4 + i] ^= static_cast<uint8_t>(sequence_ >> (56 - 8 * i));
  ++sequence_;
  return true;
}

// ---- the connection ----

Status RecordLayer::FromHandshake(SSL* ssl) {
  if (SSL_version(ssl) != TLS1_3_VERSION || SSL_in_init(ssl) != 0 || SSL_has_pending(ssl) != 0) {
    return Fail(Code::kFailedPrecondition,
                "the records of this connection cannot be taken over: not TLS 1.3, or in the "
                "middle of a message");
  }
  bssl::Span<const uint8_t> read, write;
  if (!bssl::SSL_get_traffic_secrets(ssl, &read, &write)) {
    return Fail(Code::kInternal, "BoringSSL does not give the traffic secrets");
  }
  TlsState state;
  state.server = SSL_is_server(ssl) == 1;
  state.cipher = SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(ssl));
  state.read_secret = Secret({read.data(), read.size()});
  state.write_secret = Secret({write.data(), write.size()});
  state.read_sequence = SSL_get_read_sequence(ssl);
  state.write_sequence = SSL_get_write_sequence(ssl);
  return Import(state);
}

Status RecordLayer::Import(const TlsState& state) {
  if (state.handshake.size() > kMaxHandshake ||
      !read_.Set(state.cipher, state.read_secret, state.read_sequence) ||
      !write_.Set(state.cipher, state.write_secret, state.write_sequence)) {
    read_.Clear();
    write_.Clear();
    return Fail(Code::kInvalidArgument,
                "the state of a TLS connection does not make sense: cipher " +
                    std::to_string(state.cipher));
  }
  server_ = state.server;
  handshake_ = state.handshake;
  key_update_owed_ = state.key_update_owed;
  read_ended_ = write_ended_ = false;
  return {};
}

TlsState RecordLayer::Export() {
  TlsState state;
  state.server = server_;
  state.cipher = read_.cipher();
  state.read_secret = read_.secret();
  state.write_secret = write_.secret();
  state.read_sequence = read_.sequence();
  state.write_sequence = write_.sequence();
  state.key_update_owed = key_update_owed_;
  state.handshake = std::move(handshake_);
  read_.Clear();
  write_.Clear();
  read_ended_ = write_ended_ = true;
  return state;
}

// ---- writing ----

size_t RecordLayer::SealRecord(uint8_t type, std::span<const iovec> pieces, size_t size,
                               uint8_t* out) {
  uint8_t nonce[12];
  if (write_ended_ || size > kMaxPlaintext || !write_.NextNonce(nonce)) return 0;
  const size_t body = size + kTail;
  out[0] = kApplicationData;
  out[1] = 3;
  out[2] = 3;
  out[3] = static_cast<uint8_t>(body >> 8);
  out[4] = static_cast<uint8_t>(body);
  CRYPTO_IOVEC parts[kMaxPieces + 1];
  size_t count = 0;
  uint8_t* to = out + kHead;
  if (pieces.size() <= kMaxPieces) {
    for (const iovec& piece : pieces) {
      if (piece.iov_len == 0) continue;
      parts[count++] = {to, static_cast<const uint8_t*>(piece.iov_base), piece.iov_len};
      to += piece.iov_len;
    }
  } else {
    for (const iovec& piece : pieces) {
      if (piece.iov_len > 0) std::memcpy(to, piece.iov_base, piece.iov_len);
      to += piece.iov_len;
    }
    parts[count++] = {out + kHead, out + kHead, size};
  }
  *to = type;
  parts[count++] = {to, to, 1};
  CRYPTO_IVEC head{out, kHead};
  size_t tag = 0;
  if (EVP_AEAD_CTX_sealv(write_.aead(), parts, count, to + 1, &tag, kTag, nonce, sizeof nonce,
                         &head, 1) != 1 ||
      tag != kTag) {
    write_ended_ = true;
    return 0;
  }
  return kHead + body;
}

size_t RecordLayer::Seal(std::span<const iovec> pieces, uint8_t* out) {
  size_t size = 0;
  for (const iovec& piece : pieces) size += piece.iov_len;
  return SealRecord(kApplicationData, pieces, size, out);
}

size_t RecordLayer::SealInPlace(std::span<uint8_t> room) {
  if (room.size() < kOverhead) return 0;
  iovec piece{room.data() + kHead, room.size() - kOverhead};
  return SealRecord(kApplicationData, {&piece, 1}, piece.iov_len, room.data());
}

size_t RecordLayer::SealAlert(uint8_t level, uint8_t description, uint8_t* out) {
  uint8_t body[2] = {level, description};
  iovec piece{body, sizeof body};
  size_t size = SealRecord(kAlert, {&piece, 1}, sizeof body, out);
  write_ended_ = true;
  return size;
}

size_t RecordLayer::SealKeyUpdate(bool request_theirs, uint8_t* out) {
  uint8_t body[5] = {kKeyUpdate, 0, 0, 1, request_theirs ? uint8_t{1} : uint8_t{0}};
  iovec piece{body, sizeof body};
  size_t size = SealRecord(kHandshake, {&piece, 1}, sizeof body, out);
  if (size == 0) return 0;
  key_update_owed_ = false;
  if (!write_.Update()) write_ended_ = true;
  key_changed_ = true;
  return size;
}

// ---- reading ----

RecordLayer::Opened RecordLayer::Broken(uint8_t alert, const char* why) {
  read_ended_ = true;
  read_.Clear();
  failure_.alert = alert;
  failure_.why = why;
  return {};
}

RecordLayer::Opened RecordLayer::Control() {
  empty_ = 0;
  if (++control_ > kMaxControl) {
    return Broken(SSL_AD_UNEXPECTED_MESSAGE, "too many messages without data");
  }
  return {Opened::Kind::kControl, 0, {}};
}

RecordLayer::Opened RecordLayer::Open(std::span<uint8_t> record, std::span<uint8_t> into) {
  if (read_ended_) return {};
  if (record.size() < kHead) return Broken(SSL_AD_INTERNAL_ERROR, "half a record");
  if (record[0] != kApplicationData) {
    bool known = record[0] == kChangeCipherSpec || record[0] == kAlert || record[0] == kHandshake;
    return Broken(SSL_AD_UNEXPECTED_MESSAGE,
                  known ? "a record without protection" : "what came is no TLS record");
  }
  if (record[1] != 3 || record[2] != 3) {
    return Broken(SSL_AD_PROTOCOL_VERSION, "a record of another version");
  }
  const size_t size = SizeOfRecord(record);
  if (!Acceptable(size)) return Broken(SSL_AD_RECORD_OVERFLOW, "a record of more than 16 KiB");
  if (size != record.size()) return Broken(SSL_AD_INTERNAL_ERROR, "half a record");
  if (size < kOverhead) return Broken(SSL_AD_BAD_RECORD_MAC, "a record that is too short");
  uint8_t nonce[12];
  if (!read_.NextNonce(nonce)) {
    return Broken(SSL_AD_UNEXPECTED_MESSAGE, "the peer used up its sequence numbers");
  }
  // The plaintext is the payload, its type and perhaps zeros. The last byte stays here.
  const size_t inner = size - kHead - kTag;
  const size_t head = std::min(into.size(), inner - 1);
  uint8_t* body = record.data() + kHead;
  CRYPTO_IOVEC parts[2] = {{into.data(), body, head}, {body + head, body + head, inner - head}};
  CRYPTO_IVEC aad{record.data(), kHead};
  const size_t skip = head == 0 ? 1 : 0;
  if (EVP_AEAD_CTX_openv_detached(read_.aead(), parts + skip, 2 - skip, nonce, sizeof nonce,
                                  body + inner, kTag, &aad, 1) != 1) {
    return Broken(SSL_AD_BAD_RECORD_MAC, "a record was changed on its way");
  }
  if (inner > kMaxPlaintext + 1) {
    return Broken(SSL_AD_RECORD_OVERFLOW, "a record of more than 16 KiB");
  }
  size_t type_at = inner - 1;
  while (type_at > head && body[type_at] == 0) --type_at;
  if (body[type_at] == 0 && type_at == head) {
    while (type_at > 0 && into[type_at - 1] == 0) --type_at;
    if (type_at == 0) return Broken(SSL_AD_UNEXPECTED_MESSAGE, "a record without a type");
    --type_at;
  }
  const uint8_t type = type_at < head ? into[type_at] : body[type_at];
  const size_t copied = std::min(head, type_at);
  std::span<uint8_t> rest(body + copied, type_at - copied);
  if (type == kApplicationData) {
    if (!handshake_.empty()) {
      return Broken(SSL_AD_UNEXPECTED_MESSAGE, "data inside of a handshake message");
    }
    if (type_at == 0) {
      if (++empty_ > kMaxEmpty) {
        return Broken(SSL_AD_UNEXPECTED_MESSAGE, "too many empty records");
      }
      return {Opened::Kind::kControl, 0, {}};
    }
    empty_ = control_ = warnings_ = 0;
    return {Opened::Kind::kData, copied, rest};
  }
  // Seldom and small: brought together.
  std::vector<uint8_t> whole(into.begin(), into.begin() + static_cast<std::ptrdiff_t>(copied));
  whole.insert(whole.end(), rest.begin(), rest.end());
  if (type == kAlert) return Alert(whole);
  if (type == kHandshake) return Handshake(whole);
  return Broken(SSL_AD_UNEXPECTED_MESSAGE, "a record of unknown type");
}

RecordLayer::Opened RecordLayer::Alert(std::span<const uint8_t> body) {
  if (body.size() != 2) return Broken(SSL_AD_DECODE_ERROR, "a malformed alert");
  if (body[1] == SSL_AD_CLOSE_NOTIFY) {
    read_ended_ = true;
    return {Opened::Kind::kClosed, 0, {}};
  }
  // In TLS 1.3 every other alert but user_canceled is fatal, whatever its level says (6.2).
  if (body[1] == SSL_AD_USER_CANCELLED && body[0] == SSL3_AL_WARNING) {
    if (++warnings_ > kMaxWarnings) {
      return Broken(SSL_AD_UNEXPECTED_MESSAGE, "too many warnings");
    }
    return Control();
  }
  failure_.received_alert = body[1];
  return Broken(0, "the peer ended the connection");
}

RecordLayer::Opened RecordLayer::Handshake(std::span<const uint8_t> body) {
  if (body.empty()) return Broken(SSL_AD_UNEXPECTED_MESSAGE, "an empty handshake record");
  handshake_.insert(handshake_.end(), body.begin(), body.end());
  size_t at = 0;
  while (handshake_.size() - at >= 4) {
    const uint8_t* message = handshake_.data() + at;
    const size_t size = 4 + (size_t{message[1]} << 16 | size_t{message[2]} << 8 | message[3]);
    if (size > kMaxHandshake) {
      return Broken(SSL_AD_ILLEGAL_PARAMETER, "a handshake message of more than 16 KiB");
    }
    if (handshake_.size() - at < size) break;
    if (message[0] == kKeyUpdate) {
      if (size != 5 || message[4] > 1) return Broken(SSL_AD_DECODE_ERROR, "a malformed KeyUpdate");
      // What follows is protected by the new key, so it cannot be in the same record (5.1).
      if (at + size != handshake_.size()) {
        return Broken(SSL_AD_UNEXPECTED_MESSAGE, "bytes behind a KeyUpdate in its record");
      }
      // A key of ours that was changed and has protected nothing since is new enough: one answer to
      // however many requests (4.6.3).
      const bool unused = key_changed_ && write_.sequence() == 0;
      if (message[4] == 1 && !unused) key_update_owed_ = true;
      if (!read_.Update()) return Broken(SSL_AD_INTERNAL_ERROR, "no new key");
    } else if (message[0] == kNewSessionTicket && !server_) {
      if (!WellFormedTicket({message + 4, size - 4})) {
        return Broken(SSL_AD_DECODE_ERROR, "a malformed NewSessionTicket");
      }
      if (keep_tickets_) tickets_.emplace_back(message, message + size);
    } else {
      return Broken(SSL_AD_UNEXPECTED_MESSAGE, "a handshake message after the handshake");
    }
    at += size;
  }
  if (at == handshake_.size()) {
    std::vector<uint8_t>().swap(handshake_);
  } else {
    handshake_.erase(handshake_.begin(), handshake_.begin() + static_cast<std::ptrdiff_t>(at));
  }
  // A peer may cut a message into records of a byte each: its length is bound enough.
  if (at == 0) return {Opened::Kind::kControl, 0, {}};
  return Control();
}

}  // namespace qanat::tls
