// SPDX-License-Identifier: Apache-2.0
// Our record layer against BoringSSL. Both read the same bytes with the same keys: ours may refuse
// more than BoringSSL does, but what ours gives to its user is what BoringSSL gives, and without
// interference it is all of it. What a peer may not say though it has the keys (RFC 8446 5.1, 5.2,
// 5.4, 4.6.3) ends ours, after all that came before it and nothing behind it. The input is a
// script: who writes, how much, how it is cut, where bits are flipped, which forged but well
// protected records come.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <source_location>
#include <string>
#include <vector>

#include "common/tls/test_oracle.h"

using namespace qanat::tls;  // NOLINT: a fuzzer of this one namespace
using Kind = RecordLayer::Opened::Kind;

namespace {

class Script {
 public:
  Script(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  uint8_t Byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  size_t Size(size_t limit) {
    const size_t high = Byte();
    return (high << 8 | Byte()) % (limit + 1);
  }
  std::string Text(size_t size) {
    std::string out(size, 'x');
    for (size_t i = 0; i < std::min<size_t>(size, 16); ++i) out[i] = static_cast<char>(Byte());
    return out;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

void Check(bool good, std::source_location where = std::source_location::current()) {
  if (good) return;
  std::fprintf(stderr, "%s:%u: this does not hold\n", where.file_name(), where.line());
  std::abort();
}

// Writes with the peer's key whatever the script says.
struct Forger {
  RecordKey key;
  void Put(std::span<const uint8_t> inner, std::vector<uint8_t>& wire, bool update = false) {
    uint8_t nonce[12];
    Check(key.NextNonce(nonce));
    const size_t size = inner.size() + 16, at = wire.size();
    wire.resize(at + 5 + size);
    const uint8_t head[5] = {23, 3, 3, static_cast<uint8_t>(size >> 8), static_cast<uint8_t>(size)};
    std::memcpy(wire.data() + at, head, 5);
    size_t written = 0;
    Check(EVP_AEAD_CTX_seal(key.aead(), wire.data() + at + 5, &written, size, nonce, 12,
                            inner.data(), inner.size(), head, 5) == 1);
    Judge(inner, update);
  }

  // What the receiver is to make of all of it.
  std::string data;        // before the end
  bool forbidden = false;  // ends it
  bool unsure = false;     // either will do: messages and alerts of other kinds, too many of a kind

 private:
  void Judge(std::span<const uint8_t> inner, bool update) {
    if (forbidden || unsure) return;
    const size_t padded = inner.size();
    while (!inner.empty() && inner.back() == 0) inner = inner.first(inner.size() - 1);
    // Too long with its padding (5.2: the whole of the inner plaintext), or of no type.
    if (padded > 16384 + 1 || inner.empty()) {
      forbidden = true;
      return;
    }
    const uint8_t type = inner.back();
    inner = inner.first(inner.size() - 1);
    if (type == 23) {
      data.append(reinterpret_cast<const char*>(inner.data()), inner.size());
      unsure = inner.empty() && ++empty_ > 16;
      if (!inner.empty()) empty_ = updates_ = 0;
    } else if (update) {
      forbidden = inner[4] > 1;
      unsure = ++updates_ > 16;
    } else if (type == 22 || type == 21) {
      unsure = true;
    } else {
      forbidden = true;
    }
  }
  int empty_ = 0, updates_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 4096) return 0;
  Script script(data, size);
  const uint8_t mode = script.Byte();
  const uint16_t suite = testing::kSuites[mode % 3];
  testing::Oracle oracle(suite, (mode & 4) != 0 ? Role::kServer : Role::kClient);
  RecordLayer layer;
  Check(layer.FromHandshake(oracle.ours()).has_value());
  const bool forging = (mode & 8) != 0;
  Forger forger;
  if (forging) {
    bssl::Span<const uint8_t> read, write;
    Check(bssl::SSL_get_traffic_secrets(oracle.peer(), &read, &write));
    Check(forger.key.Set(suite, Secret({write.data(), write.size()}), 0));
  }
  std::vector<uint8_t> wire;  // from the peer, not yet delivered
  std::string ours, theirs;   // what the two readers gave
  bool touched = false, over = false, peer_ok = true;
  int updates = 0;  // more than 32 in a row are refused by both
  while (!script.empty() && !over) {
    switch (script.Byte() % 8) {
      case 0:
      case 1: {  // the peer writes
        std::string text = script.Text(script.Size(20000));
        if (forging) {
          std::vector<uint8_t> inner(
              text.begin(),
              text.begin() + static_cast<std::ptrdiff_t>(std::min<size_t>(text.size(), 17000)));
          inner.push_back(script.Byte() % 4 == 0 ? script.Byte() : 23);
          inner.resize(inner.size() + script.Byte() % 4);
          forger.Put(inner, wire);
        } else if (!text.empty()) {
          auto more = oracle.PeerWrites(text);
          wire.insert(wire.end(), more.begin(), more.end());
        }
        break;
      }
      case 2: {  // we write; the peer must read the same
        std::string text = script.Text(script.Size(16384));
        std::vector<uint8_t> out(text.size() + RecordLayer::kOverhead);
        const size_t cut = text.empty() ? 0 : script.Size(text.size());
        iovec pieces[2] = {{text.data(), cut}, {text.data() + cut, text.size() - cut}};
        const size_t sealed = layer.Seal(pieces, out.data());
        Check(sealed == out.size());
        if (!peer_ok) break;
        oracle.ToPeer(out);
        int error = 0;
        std::string got = oracle.PeerReads(&error);
        if (error != SSL_ERROR_WANT_READ) {
          peer_ok = false;  // too many empty records or key changes for its taste
        } else {
          Check(got == text);
        }
        break;
      }
      case 3:
        if (!forging) {
          if (++updates <= 16) SSL_key_update(oracle.peer(), script.Byte() % 2);
          break;
        }
        {
          const uint8_t update[] = {24, 0, 0, 1, static_cast<uint8_t>(script.Byte() % 3), 22};
          forger.Put(update, wire, true);
          Check(forger.key.Update());
        }
        break;
      case 4: {
        std::vector<uint8_t> update(RecordLayer::kOverhead + 5);
        Check(layer.SealKeyUpdate(script.Byte() % 2 != 0, update.data()) == update.size());
        if (peer_ok) oracle.ToPeer(update);
        break;
      }
      case 5:  // somebody on the way
        if (wire.empty()) break;
        touched = true;
        wire[script.Size(wire.size() - 1)] ^= static_cast<uint8_t>(1 << script.Byte() % 8);
        break;
      case 6: {  // anything
        touched = true;
        const size_t count = script.Byte() % 32;
        for (size_t i = 0; i < count; ++i) wire.push_back(script.Byte());
        break;
      }
      case 7: {  // deliver
        BIO_write(SSL_get_rbio(oracle.ours()), wire.data(), static_cast<int>(wire.size()));
        char buffer[20000];
        ERR_clear_error();
        for (int n; (n = SSL_read(oracle.ours(), buffer, sizeof buffer)) > 0;) {
          theirs.append(buffer, static_cast<size_t>(n));
        }
        std::span<uint8_t> left(wire);
        const size_t room = script.Size(20000);
        while (!over) {
          const size_t record = RecordLayer::SizeOfRecord(left);
          if (record == 0) break;
          const bool acceptable = RecordLayer::Acceptable(record);
          if (acceptable && record > left.size()) break;
          std::vector<uint8_t> into(room);
          auto opened = layer.Open(left.first(acceptable ? record : RecordLayer::kHead), into);
          if (opened.kind == Kind::kData) {
            ours.append(reinterpret_cast<char*>(into.data()), opened.copied);
            ours.append(reinterpret_cast<char*>(opened.rest.data()), opened.rest.size());
          }
          over = opened.kind == Kind::kClosed || opened.kind == Kind::kFailed;
          left = left.subspan(acceptable ? record : RecordLayer::kHead);
        }
        if (!over) wire.assign(left.begin(), left.end());
        // BoringSSL has the rest in its BIO already.
        Check(theirs.compare(0, ours.size(), ours) == 0);
        if (!touched && forging && !forger.unsure) {
          Check(ours == forger.data);
          Check(over == forger.forbidden);
          Check(over || wire.empty());
        }
        if (!touched && !forging && peer_ok) {
          Check(ours == theirs && wire.empty());
          Check(!over);
        }
        // The rest was delivered to the oracle; deliver only new bytes next time.
        if (!wire.empty()) over = true;
        break;
      }
    }
  }
  return 0;
}
