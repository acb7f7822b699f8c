// SPDX-License-Identifier: Apache-2.0
// Private to common/tls: the record protection of one TLS 1.3 connection after its handshake
// (RFC 8446 section 5, 4.6.3, 6). Pure: bytes in, bytes out, no sockets, no clock, one thread at a
// time. BoringSSL does the handshake and the ciphers; the records are ours, so that a payload is
// touched once: sealed on its way into the buffer that is sent, opened on its way into the buffer
// of the reader.
//
// Whoever calls Seal*() must send what comes out, in that order: a sequence number is used up by
// the call. Nothing of a record that does not authenticate is ever visible to the caller.
#pragma once

#include <openssl/aead.h>
#include <openssl/ssl.h>
#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/tls/tls_state.h"

namespace qanat::tls {

// One direction.
class RecordKey {
 public:
  RecordKey() { EVP_AEAD_CTX_zero(&aead_); }
  ~RecordKey() { Clear(); }
  RecordKey(const RecordKey&) = delete;
  RecordKey& operator=(const RecordKey&) = delete;

  bool Set(uint16_t cipher, Secret secret, uint64_t sequence);
  bool Update();  // the next generation of the secret (RFC 8446 7.2); the sequence starts anew
  void Clear();

  // The nonce of the next record; false when the sequence numbers are used up. Uses one up.
  bool NextNonce(uint8_t out[12]);
  const EVP_AEAD_CTX* aead() const { return &aead_; }
  const Secret& secret() const { return secret_; }
  uint64_t sequence() const { return sequence_; }
  uint16_t cipher() const { return cipher_; }

 private:
  EVP_AEAD_CTX aead_;
  Secret secret_;
  uint8_t iv_[12] = {};
  uint64_t sequence_ = 0;
  uint16_t cipher_ = 0;
};

class RecordLayer {
 public:
  static constexpr size_t kHead = 5;
  static constexpr size_t kTail = 1 + 16;  // content type and tag
  static constexpr size_t kOverhead = kHead + kTail;
  static constexpr size_t kMaxPlaintext = 16384;
  static constexpr size_t kMaxRecord = kHead + 16384 + 256;
  static constexpr size_t kMaxPieces = 8;
  // AES-GCM protects 2^24.5 full records with one key (RFC 8446 5.5); we change it well before.
  static constexpr uint64_t kRekeyAfter = uint64_t{1} << 23;

  RecordLayer() = default;
  RecordLayer(const RecordLayer&) = delete;
  RecordLayer& operator=(const RecordLayer&) = delete;

  // From a finished TLS 1.3 handshake with nothing left to read or write inside of BoringSSL, which
  // must not be used for data any more.
  Status FromHandshake(SSL* ssl);
  Status Import(const TlsState& state);
  // Ends this object: it seals and opens nothing any more.
  TlsState Export();

  // ---- writing: each returns the record's length, 0 when there is none (no key, used up) ----

  // One record of application data, gathered from `pieces` (together at most kMaxPlaintext) into
  // `out`, which has kOverhead bytes more room and overlaps with none of them.
  size_t Seal(std::span<const iovec> pieces, uint8_t* out);
  // The same where the payload already lies kHead bytes into `room`, with kTail bytes behind it.
  size_t SealInPlace(std::span<uint8_t> room);
  // The connection's last record: level 1 (close_notify) or 2. Needs kOverhead + 2.
  size_t SealAlert(uint8_t level, uint8_t description, uint8_t* out);
  // Announces and makes the change of our key. Needs kOverhead + 5.
  size_t SealKeyUpdate(bool request_theirs, uint8_t* out);
  // The peer asked for a new key, or ours has served its time: SealKeyUpdate() before more data.
  bool key_update_due() const { return key_update_owed_ || write_.sequence() >= kRekeyAfter; }

  // ---- reading ----

  // The length of the record that begins with these bytes; 0: more are needed to tell.
  static size_t SizeOfRecord(std::span<const uint8_t> begin) {
    return begin.size() < kHead ? 0 : kHead + (size_t{begin[3]} << 8 | begin[4]);
  }
  // Whether the length may be waited for; a record that claims more than kMaxRecord is opened (and
  // refused) as soon as its head is there.
  static bool Acceptable(size_t size_of_record) { return size_of_record <= kMaxRecord; }

  struct Opened {
    enum class Kind : uint8_t {
      kData,     // `copied` bytes in `into`, then `rest`
      kControl,  // nothing for the user; key_update_due() may be true now
      kClosed,   // close_notify
      kFailed,   // see failure(); nothing more may be opened
    };
    Kind kind = Kind::kFailed;
    size_t copied = 0;
    std::span<uint8_t> rest;  // plaintext that did not fit, inside of `record`
  };
  // Opens one whole record. Plaintext goes to `into` as far as there is room (the record's last
  // byte never does), the rest stays in the record's memory. `record` and `into` do not overlap;
  // with an empty `into` the record is opened in place.
  Opened Open(std::span<uint8_t> record, std::span<uint8_t> into);

  struct Failure {
    uint8_t alert = 0;  // to be sent; 0: none (the peer's own alert ended the connection)
    uint8_t received_alert = 0;
    const char* why = "";
  };
  const Failure& failure() const { return failure_; }
  // A message of this layer was taken and its user calls it malformed: ends reading.
  void Refuse(uint8_t alert, const char* why) { Broken(alert, why); }

  // Whole NewSessionTicket messages (clients), if wanted; else they are dropped.
  void KeepTickets(bool keep = true) { keep_tickets_ = keep; }
  std::vector<std::vector<uint8_t>> TakeTickets() { return std::exchange(tickets_, {}); }

  uint64_t read_sequence() const { return read_.sequence(); }
  uint64_t write_sequence() const { return write_.sequence(); }

 private:
  // Bounds on what brings no data (as BoringSSL has them): a peer may not keep us busy for free.
  static constexpr int kMaxEmpty = 32;
  static constexpr int kMaxControl = 32;
  static constexpr int kMaxWarnings = 4;
  static constexpr size_t kMaxHandshake = 4 + 16384;

  size_t SealRecord(uint8_t type, std::span<const iovec> pieces, size_t size, uint8_t* out);
  Opened Control();
  Opened Broken(uint8_t alert, const char* why);
  Opened Alert(std::span<const uint8_t> body);
  Opened Handshake(std::span<const uint8_t> body);

  RecordKey read_;
  RecordKey write_;
  std::vector<uint8_t> handshake_;
  std::vector<std::vector<uint8_t>> tickets_;
  Failure failure_;
  int empty_ = 0;     // records of data without a byte, in a row
  int control_ = 0;   // alerts, and records that end a message, since the last data
  int warnings_ = 0;  // in a row
  bool server_ = false;
  bool keep_tickets_ = false;
  bool key_update_owed_ = false;
  bool key_changed_ = false;  // ours, at least once
  bool write_ended_ = true;
  bool read_ended_ = true;
};

}  // namespace qanat::tls
