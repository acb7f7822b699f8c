// SPDX-License-Identifier: Apache-2.0
// The proof's question: sent to a name server that does not exist, it must be answered by the proxy
// and the answer must come from that server. It asks for an operation that no server does, which
// every one answers at once and by itself.
#pragma once

#include <string>

#include "agent/redirect/proof.h"
#include "bpf/user/node_maps.h"
#include "common/base/fd.h"
#include "common/net/address.h"
#include "common/netns/netns.h"

namespace qanat::agent {

class DnsProbe {
 public:
  // `connected`: by connect() and getpeername(), else by sendmsg() and recvmsg() alone.
  DnsProbe(bpf::NodeMaps& maps, const netns::NetNs& pod, const net::IpAddress& source,
           bool connected);
  ~DnsProbe();
  DnsProbe(const DnsProbe&) = delete;
  DnsProbe& operator=(const DnsProbe&) = delete;

  // What is known by now; final once it has passed.
  ProofStep Look();

 private:
  Status Start(const net::IpAddress& source);
  bool Send() const;
  void Receive();

  bpf::NodeMaps& maps_;
  ProofStep step_;
  bool connected_;
  net::SocketAddress server_;
  qanat_tuple tuple_{};
  Fd socket_;
  std::string error_;
  int looks_ = 0;
};

}  // namespace qanat::agent
