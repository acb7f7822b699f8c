// SPDX-License-Identifier: Apache-2.0
// SOCKS5 (RFC 1928) as far as a test program or a VM needs it to name a destination instead of
// being captured: CONNECT to an address, no authentication. Off unless UNSTABLE_ENABLE_SOCKS5=true;
// bound to loopback in the pod. As with captured connections, success is said before the upstream
// is reached.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "common/base/fd.h"
#include "ztunnel/proxy/connection.h"

namespace qanat::ztunnel {

// The protocol alone, pure. Takes exactly the bytes it asks for, so that what the client sends
// behind its request stays in the socket.
class SocksParser {
 public:
  enum class State : uint8_t { kReading, kConnect, kRefused };

  size_t wanted() const { return wanted_ - have_.size(); }  // > 0 while kReading
  // Returns what is to be sent to the client, possibly nothing.
  std::string Take(std::string_view bytes);
  State state() const { return state_; }
  const net::SocketAddress& destination() const { return destination_; }  // with kConnect

 private:
  enum class Part : uint8_t { kGreeting, kMethods, kHead, kAddress };
  std::string Step();
  std::string Refuse(std::string answer);

  State state_ = State::kReading;
  Part part_ = Part::kGreeting;
  size_t wanted_ = 2;
  std::string have_;
  uint8_t address_type_ = 0;
  net::SocketAddress destination_;
};

// A client that still says where it wants to go. Gives its socket to an OutboundConnection.
class SocksConnection final : public Connection {
 public:
  SocksConnection(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer);
  void Start();
  void Close(model::Reason reason, const std::string& detail) override;
  void Drain() override { Close(model::Reason::kDraining, ""); }

 private:
  void OnReadable();
  void GoOn();

  Fd fd_;
  const net::SocketAddress peer_;
  SocksParser parser_;
  std::unique_ptr<event::IoWatch> watch_;
  std::unique_ptr<event::Timer> timer_;
};

}  // namespace qanat::ztunnel
