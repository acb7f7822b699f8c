// SPDX-License-Identifier: Apache-2.0
// Private to common/tls: the encrypted side of one established connection. Owns the transport
// below and what waits in either direction. SslRecords is BoringSSL's own (the handshake, and TLS
// 1.2 for good); OwnRecords takes TLS 1.3 over after the handshake.
#pragma once

#include <memory>
#include <span>

#include "common/base/result.h"
#include "common/net/transport.h"

namespace qanat::tls {

struct TlsHandover;

class Records {
 public:
  explicit Records(net::TransportPtr inner)
      : inner_(std::move(inner)), charge_(inner_->loop().memory()) {}
  virtual ~Records() = default;
  Records(const Records&) = delete;
  Records& operator=(const Records&) = delete;

  virtual net::IoResult Read(std::span<uint8_t> into) = 0;
  virtual net::IoResult Write(std::span<const iovec> from) = 0;
  virtual net::IoResult Shutdown() = 0;  // close_notify, then FIN once all is written
  // Gives waiting ciphertext to the transport below.
  virtual net::IoResult Flush() = 0;

  virtual size_t pending_output() const = 0;
  virtual bool has_room() const = 0;
  // Plaintext, end or error may come out of Read() without anything new from below.
  virtual bool may_have_input() const = 0;
  // For a hand-over: whether all that it is could be taken out of it now; and the taking, after
  // which it is over. What is below stays as it is.
  virtual bool CanExport() const { return false; }
  virtual void Export(TlsHandover&) {}
  // Below became readable again.
  virtual void NoteReadable() {}

  net::Transport& inner() { return *inner_; }
  size_t held() const { return charge_.bytes(); }  // memory of what waits
  const Error& error() const { return error_; }

 protected:
  net::TransportPtr inner_;
  MemoryCharge charge_;
  Error error_;
};

}  // namespace qanat::tls
