// SPDX-License-Identifier: Apache-2.0
// Names to addresses for the proxy itself, as one of its pods would resolve them: with that pod's
// name servers, out of its namespace, cached by TTL. For workloads that are known by a host name
// only (ServiceEntry with resolution DNS). One per worker.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "ztunnel/config.h"
#include "ztunnel/dns/forwarder.h"

namespace qanat::ztunnel::dns {

class Resolver {
 public:
  // Never empty; those of the preferred family only, unless there are none.
  using Done = std::function<void(Result<std::vector<net::IpAddress>>)>;
  class Lookup {  // destroying it cancels
   public:
    virtual ~Lookup() = default;
  };

  Resolver(event::EventLoop& loop, const Config& config) : loop_(loop), config_(config) {}
  // `family`: AF_INET or AF_INET6, asked for first. Calls `done` once, never from inside this.
  std::unique_ptr<Lookup> Resolve(const PodPtr& pod, const std::string& host, int family,
                                  Done done);
  void RemovePod(const std::string& uid) { pods_.erase(uid); }

 private:
  struct Entry {
    PodPtr pod;
    PodDnsSettings settings;
    Forwarder forwarder;
    Entry(event::EventLoop& loop, const Config& config, const PodPtr& of);
  };
  class Run;

  event::EventLoop& loop_;
  const Config& config_;
  std::map<std::string, std::shared_ptr<Entry>> pods_;  // by uid
};

}  // namespace qanat::ztunnel::dns
