// SPDX-License-Identifier: Apache-2.0
// A TCP connection of an application to the DNS proxy: messages with a length before them, several
// at a time, answered in any order (RFC 7766). Owned by the pod's Server.
#pragma once

#include <vector>

#include "ztunnel/dns/server.h"

namespace qanat::ztunnel::dns {

class TcpClient final : public event::Deferred {
 public:
  TcpClient(Server& server, uint64_t id, Fd fd);
  void Stop();                             // no callbacks any more
  void Reply(::qanat::dns::Bytes answer);  // to one of the open questions

 private:
  void OnIo(uint32_t events);
  bool Read();   // false: the connection is over
  bool Write();  // the same
  void TakeMessages();
  bool full() const;         // so much is unwritten that nothing more is asked for
  bool has_message() const;  // a whole one
  void Settle();             // what is to be watched now, or the end

  Server& server_;
  const uint64_t id_;
  Fd fd_;
  std::vector<uint8_t> in_, out_;
  MemoryCharge charge_;
  size_t written_ = 0;
  size_t open_ = 0;        // questions without an answer yet
  bool ended_ = false;     // the client has sent its last
  bool handling_ = false;  // inside Settle: it goes on with what an answer made possible
  event::Timer idle_;
  std::unique_ptr<event::IoWatch> watch_;  // last: goes first
};

}  // namespace qanat::ztunnel::dns
