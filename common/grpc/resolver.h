// SPDX-License-Identifier: Apache-2.0
// Names to addresses without blocking a loop: getaddrinfo on a helper thread that belongs to the
// resolver. IP literals are answered without it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/net/address.h"

namespace qanat::grpc {

class Resolver {
 public:
  using Done = std::function<void(Result<std::vector<net::IpAddress>>)>;

  explicit Resolver(event::EventLoop& loop);
  ~Resolver();  // does not wait for a hanging name server

  // Calls `done` from the loop, once, unless the token has been destroyed before.
  class Query {
   public:
    virtual ~Query() = default;
  };
  std::unique_ptr<Query> Resolve(const std::string& host, Done done);

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace qanat::grpc
