// SPDX-License-Identifier: Apache-2.0
// One question to one name server, by UDP or TCP. Against forged answers (RFC 5452): every exchange
// has a random id and a socket of its own with a random port, connected, so that the kernel lets
// only that server's packets in; the answer must repeat the question. Owned by who asks; lives on
// its loop.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "common/base/result.h"
#include "common/dns/message.h"
#include "common/event/event_loop.h"
#include "common/net/address.h"
#include "common/netns/netns.h"

namespace qanat::ztunnel::dns {

class Exchange {
 public:
  struct Options {
    net::SocketAddress server;
    const netns::NetNs* netns = nullptr;  // where the socket is made; nullptr: our own
    uint32_t mark = 0;
    bool tcp = false;
    std::chrono::milliseconds timeout{1400};
  };
  // The answer as it came but for its id, which is the query's again.
  using Done = std::function<void(Result<std::vector<uint8_t>>)>;

  // Calls `done` once, from the loop, never from inside this call; destroying it cancels, also
  // inside `done`.
  static std::unique_ptr<Exchange> Start(event::EventLoop& loop, const Options& options,
                                         ::qanat::dns::Bytes query, Done done);
  virtual ~Exchange() = default;
};

}  // namespace qanat::ztunnel::dns
