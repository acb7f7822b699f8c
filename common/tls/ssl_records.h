// SPDX-License-Identifier: Apache-2.0
// Private to common/tls: the encrypted side of one connection. Owns the transport below, the
// BoringSSL connection and the ciphertext that waits in either direction. Plaintext goes in and out
// through Read and Write; a record layer of our own (keyed from SSL_get_traffic_secrets after the
// handshake) can take the place of SSL_read and SSL_write behind these calls.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/net/transport.h"
#include "common/tls/boring.h"

namespace qanat::tls {

class SslRecords {
 public:
  SslRecords(bssl::UniquePtr<SSL> ssl, net::TransportPtr inner);
  SslRecords(const SslRecords&) = delete;
  SslRecords& operator=(const SslRecords&) = delete;

  enum class Step { kDone, kWait, kFailed };
  Step Handshake();  // after kFailed see error()

  net::IoResult Read(std::span<uint8_t> into);
  net::IoResult Write(std::span<const iovec> from);
  net::IoResult Shutdown();  // close_notify, then FIN once all is written
  // Gives waiting ciphertext to the transport below.
  net::IoResult Flush();

  size_t pending_output() const { return out_.size() - out_head_; }
  bool has_room() const { return pending_output() < kLowWater; }
  // Plaintext, end or error may come out of Read() without anything new from below.
  bool may_have_input() const;
  // Below became readable again.
  void NoteReadable() { starved_ = false; }

  SSL* ssl() { return ssl_.get(); }
  net::Transport& inner() { return *inner_; }
  const Error& error() const { return error_; }

 private:
  static constexpr size_t kReadSize = 64 * 1024;
  static constexpr size_t kLowWater = 64 * 1024;   // below: more plaintext is taken
  static constexpr size_t kHighWater = 64 * 1024;  // sealed before it is handed down
  static constexpr size_t kRecord = 16384;
  static constexpr size_t kKeep = 4096;  // memory that an idle connection may hold for output

  static const BIO_METHOD* BioMethod();
  static int BioRead(BIO* bio, char* out, int size);
  static int BioWrite(BIO* bio, const char* in, int size);
  static long BioControl(BIO* bio, int command, long number, void* pointer);
  int FromBelow(uint8_t* out, size_t size);
  net::IoResult Classify(int result, std::string_view doing);

  net::TransportPtr inner_;
  bssl::UniquePtr<SSL> ssl_;
  // What was read from below and not yet taken by BoringSSL; the memory is there only meanwhile.
  std::unique_ptr<uint8_t[]> in_;
  size_t in_begin_ = 0;
  size_t in_end_ = 0;
  std::vector<uint8_t> out_;
  size_t out_head_ = 0;
  bool writing_ = false;
  bool starved_ = false;
  bool below_ended_ = false;  // FIN
  bool below_failed_ = false;
  bool finished_ = false;                                    // FIN sent
  net::IoResult::Kind terminal_ = net::IoResult::Kind::kOk;  // sticky end of reading
  Error error_;
};

}  // namespace qanat::tls
