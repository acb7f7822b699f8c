// SPDX-License-Identifier: Apache-2.0
// Private to common/tls: TLS 1.3 records over a transport, with RecordLayer in the place of
// SSL_read and SSL_write. A payload is touched once in each direction: received into memory of the
// loop and opened from there into the reader's buffer; sealed from the writer's pieces into memory
// of the loop and sent from there. The connection itself holds memory only for what waits: a record
// that came in part, plaintext that the reader had no room for, ciphertext that the transport below
// did not take.
#pragma once

#include <memory>
#include <vector>

#include "common/event/event_loop.h"
#include "common/tls/record_layer.h"
#include "common/tls/records.h"
#include "common/tls/ticket_state.h"

namespace qanat::tls {

class OwnRecords final : public Records {
 public:
  // What the handshake left: bytes received and not opened, bytes sealed and not sent.
  struct Rest {
    std::span<const uint8_t> unopened;
    std::vector<uint8_t> unsent;
    bool below_ended = false;
    std::unique_ptr<TicketTaker> tickets;  // of a client that wants them
    // Of a connection that was another object's before:
    std::span<const uint8_t> plaintext;  // opened and not read
    uint64_t sent_small = 0;
  };
  OwnRecords(net::TransportPtr inner, std::unique_ptr<RecordLayer> layer, Rest rest);
  ~OwnRecords() override;

  net::IoResult Read(std::span<uint8_t> into) override;
  net::IoResult Write(std::span<const iovec> from) override;
  net::IoResult Shutdown() override;
  net::IoResult Flush() override;
  size_t pending_output() const override { return out_.size() - out_head_; }
  bool has_room() const override { return pending_output() < kLowWater; }
  bool may_have_input() const override;
  bool CanExport() const override;
  void Export(TlsHandover& to) override;

  // How much of a record's payload is worth waiting for: a peer can use nothing of a record before
  // its last byte is there. So records fit into one segment at first and after a pause, when the
  // path's window is small, and are as large as they may be in bulk.
  static constexpr size_t kSmallRecord = 1300;
  static constexpr size_t kSmallUntil = 64 * 1024;  // bytes sent
  static constexpr auto kPause = std::chrono::seconds(1);

 private:
  static constexpr size_t kLowWater = 16 * 1024;  // below: more plaintext is taken

  // Opens records of in[begin, end) into `into`; moves begin; returns the bytes of plaintext.
  size_t OpenRecords(uint8_t* in, size_t& begin, size_t end, std::span<uint8_t> into);
  // Keeps plaintext that did not fit and in[begin, end), outside of in_, for the next Read().
  void Keep(const uint8_t* in, size_t begin, size_t end);
  void DropInput();
  void Charge() { charge_.Set((in_ ? in_end_ : 0) + out_.capacity()); }
  size_t WantedInput(size_t room, size_t have) const;
  void EndReading(net::IoResult below);
  void Broken();
  void SendOwedControl();
  net::IoResult Send(std::span<const uint8_t> sealed);
  size_t RecordLimit();

  std::unique_ptr<RecordLayer> layer_;
  std::unique_ptr<TicketTaker> tickets_;  // until the first data
  // in_: [.. plaintext plain_begin_..plain_end_ ..][ciphertext in_begin_..in_end_]
  std::unique_ptr<uint8_t[]> in_;
  size_t plain_begin_ = 0, plain_end_ = 0;
  size_t in_begin_ = 0, in_end_ = 0;
  // While records are opened: plaintext that stayed in their memory.
  std::span<uint8_t> rest_;
  size_t last_record_ = 0;  // size on the wire, to ask for whole ones
  std::vector<uint8_t> out_;
  size_t out_head_ = 0;
  size_t sent_small_ = 0;
  event::TimePoint last_write_;
  bool below_ended_ = false;
  bool write_broken_ = false;
  bool closing_ = false;                                     // close_notify is sealed
  bool finished_ = false;                                    // FIN sent
  net::IoResult::Kind terminal_ = net::IoResult::Kind::kOk;  // sticky end of reading
};

}  // namespace qanat::tls
