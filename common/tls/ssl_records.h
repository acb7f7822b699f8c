// SPDX-License-Identifier: Apache-2.0
// Private to common/tls: the encrypted side of a connection by BoringSSL alone: every handshake,
// and all of TLS 1.2. Continue() hands a TLS 1.3 connection to our own record layer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/tls/boring.h"
#include "common/tls/records.h"
#include "common/tls/ticket_state.h"

namespace qanat::tls {

class SslRecords final : public Records {
 public:
  SslRecords(bssl::UniquePtr<SSL> ssl, net::TransportPtr inner);

  // After the handshake: the same connection with records of our own, or as it is where that
  // cannot be (TLS 1.2).
  // `tickets` may be null.
  static std::unique_ptr<Records> Continue(std::unique_ptr<SslRecords> records,
                                           std::unique_ptr<TicketTaker> tickets = nullptr);
  // A server's tickets wait in BoringSSL for its first data, and must be out before its keys are
  // taken.
  void SendTickets();

  enum class Step { kDone, kWait, kFailed };
  Step Handshake();  // after kFailed see error()

  net::IoResult Read(std::span<uint8_t> into) override;
  net::IoResult Write(std::span<const iovec> from) override;
  net::IoResult Shutdown() override;
  net::IoResult Flush() override;

  size_t pending_output() const override { return out_.size() - out_head_; }
  bool has_room() const override { return pending_output() < kLowWater; }
  bool may_have_input() const override;
  void NoteReadable() override { starved_ = false; }

  SSL* ssl() { return ssl_.get(); }

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
  net::IoResult FlushOut();
  void Charge();

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
};

}  // namespace qanat::tls
