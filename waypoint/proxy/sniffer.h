// SPDX-License-Identifier: Apache-2.0
// Looks at the first bytes of a connection whose port has no known protocol: HTTP/1, HTTP/2, or
// something else (also when nothing comes for a while: the server may speak first). Owned by the
// Worker.
#pragma once

#include <functional>
#include <string>

#include "common/http/connection.h"
#include "common/net/transport.h"
#include "waypoint/proxy/context.h"

namespace qanat::waypoint {

class Sniffer final : public event::Deferred, private net::TransportEvents {
 public:
  // Called once, from the loop, unless the client goes away first. `kOther` stands for TCP.
  using Done =
      std::function<void(http::Detected protocol, net::TransportPtr transport, std::string bytes)>;
  Sniffer(WorkerContext& context, Owner& owner, net::TransportPtr transport, Done done);

 private:
  void OnReadable() override;
  void OnWritable() override {}
  void Decide(http::Detected protocol);

  Owner& owner_;
  net::TransportPtr transport_;
  Done done_;
  std::string bytes_;
  event::Timer timer_;
};

}  // namespace qanat::waypoint
