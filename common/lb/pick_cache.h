// SPDX-License-Identifier: Apache-2.0
// Picks for services with many endpoints without a look at each of them: what a pick may fall on is
// put in order once (the nearest usable endpoints with sums of their capacities) and kept for as
// long as service and endpoint list are these; then a pick is one binary search. The distribution
// is PickEndpoint's (lb.h), which also answers whatever is out of the ordinary: few endpoints,
// something tried or failing among them, nothing usable. One worker's, on its thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/lb/lb.h"

namespace qanat::lb {

using EndpointListPtr = std::shared_ptr<const model::EndpointList>;

// What a pick may fall on, for one service port and callers of one place.
class Prepared {
 public:
  Prepared(const model::Service& service, const model::EndpointList& endpoints,
           const model::Workload& source, uint16_t service_port);

  size_t size() const { return choices_.size(); }
  struct Choice {
    uint64_t until = 0;  // the sum of the capacities up to this one and with it
    uint32_t endpoint = 0;
    uint16_t port = 0;
  };
  const std::vector<Choice>& choices() const { return choices_; }
  // nullptr: there is none.
  const Choice* Pick(uint64_t random) const;
  // Whether one of these (workload uid and port, as Outliers::EndpointKey makes them) is among the
  // choices; now and then true where it is not.
  bool MayHaveAny(const std::vector<std::string>& keys) const;

 private:
  std::vector<Choice> choices_;
  std::vector<uint64_t> hashes_;  // of the choices' keys, sorted
};

class PickCache {
 public:
  explicit PickCache(size_t least = kLeast) : least_(least) {}

  Pick PickEndpoint(const model::ServicePtr& service, const EndpointListPtr& endpoints,
                    const model::Workload& source, uint16_t service_port,
                    const net::IpAddress& asked, const Random& random, const Avoid& avoid);
  // The mesh changed: whatever is of a service or a list that is not the present one goes.
  // `present`: the list of the service, null where it is gone or another object.
  void Sweep(const std::function<EndpointListPtr(const model::ServicePtr&)>& present);
  size_t size() const { return entries_.size(); }

 private:
  static constexpr size_t kLeast = 32;              // endpoints; fewer are looked at faster
  static constexpr size_t kMostChoices = 1u << 18;  // 6 MB; then it begins anew
  struct Key {
    const model::Service* service;
    uint16_t port;
    std::string place;  // what the choice depends on of its caller
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    size_t operator()(const Key& key) const;
  };
  struct Entry {
    model::ServicePtr service;  // so that the pointers stay theirs
    EndpointListPtr endpoints;
    Prepared prepared;
  };

  const size_t least_;
  std::unordered_map<Key, Entry, Hash> entries_;
  size_t choices_ = 0;
};

}  // namespace qanat::lb
