// SPDX-License-Identifier: Apache-2.0
// Sockets made ahead in the network namespaces of pods. To make one there takes two setns(), so
// where connections follow each other several are made in one visit. Few are kept, and only while
// they are being used: an open socket keeps its namespace from going away.
//
// One per worker, on its loop.
#pragma once

#include <limits>
#include <map>
#include <memory>
#include <vector>

#include "common/event/event_loop.h"
#include "common/net/socket.h"

namespace qanat::ztunnel {

class SpareSockets {
 public:
  static constexpr size_t kMostAtOnce = 8;
  static constexpr size_t kMostKept = 512;  // of all namespaces
  static constexpr std::chrono::milliseconds kSoon{1000};

  // `kept_from`: see BoundDescriptors().
  explicit SpareSockets(event::EventLoop& loop, int kept_from = std::numeric_limits<int>::max())
      : loop_(loop), kept_from_(kept_from), expire_(loop, [this] { Expire(); }) {}

  // As net::StartConnect(); descriptors that are kept count as none.
  Result<Fd> StartConnect(const net::ConnectOptions& options);
  // The namespace's pod went away.
  void Forget(const netns::NetNs& netns);
  // Descriptors are scarce.
  void Clear();
  size_t kept() const { return kept_; }

 private:
  // Sockets that were made in one way.
  struct Kind {
    int family = 0;
    bool transparent = false, no_delay = true;
    uint32_t mark = 0;
    net::KeepAlive keepalive;
    bool operator==(const Kind&) const = default;
  };
  struct Stock {
    Kind kind;
    std::vector<Fd> fds;
    size_t batch = 1;  // how many were made the last time, if that was enough for `kSoon`
    event::TimePoint made{}, used{};
  };

  Stock& Find(const netns::Id& where, const Kind& kind);
  Result<Fd> Make(const net::ConnectOptions& options);
  Result<Fd> Take(const net::ConnectOptions& options);
  void Expire();

  event::EventLoop& loop_;
  const int kept_from_;
  // The sockets in it keep a namespace, so its number is not used again as long as they are here.
  std::map<netns::Id, std::vector<Stock>> stocks_;
  size_t kept_ = 0;
  event::Timer expire_;
};

}  // namespace qanat::ztunnel
