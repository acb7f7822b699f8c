// SPDX-License-Identifier: Apache-2.0
// The state of one delta ADS client: what it subscribed to, what it has, what it must be sent next.
// No sockets, no clock, no gRPC: requests go in, messages come out. On the control plane's loop.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "controlplane/ads/codec.h"
#include "controlplane/ads/snapshot.h"
#include "controlplane/model/resource.h"

namespace qanat::controlplane {

// What a session is served from. The set of a node proxy is the snapshot's; a waypoint has its own.
struct SessionSource {
  std::shared_ptr<const ResourceSet> resources;
  std::shared_ptr<const ConfigSnapshot> snapshot;
};

class AdsSession {
 public:
  struct TypeState {
    bool wildcard = false;
    std::set<std::string> names;               // subscribed to by name
    std::map<std::string, std::string> known;  // name -> version there; "" is known to be absent
    std::string sent_nonce;                    // not yet answered, "" when none is outstanding
    std::string acked_nonce;
    std::string last_error;  // of the last NACK; "" after the next ACK
    uint64_t pushes = 0, acks = 0, nacks = 0;
    size_t last_size = 0;
    bool answered = false;  // the first response has been sent
    bool dirty = true;
  };

  // Types that this client may ask for; others are refused.
  explicit AdsSession(std::vector<std::string> types) : types_(std::move(types)) {}

  // False: the type is not served to this client.
  bool OnRequest(const DeltaRequest& request);
  void SetSource(SessionSource source);

  struct Message {
    std::string type_url;
    std::string bytes;
    size_t resources = 0;
    size_t removed = 0;
  };
  // What to send next, if anything. Call again after each message is written. A type waits for the
  // client's answer before its next message, so changes gather while a client is slow.
  std::optional<Message> Next();

  // Everything that it subscribed to is there, sent and acknowledged.
  bool synced() const;
  const std::map<std::string, TypeState, std::less<>>& types() const { return state_; }
  uint64_t generation() const { return source_.snapshot ? source_.snapshot->generation : 0; }

 private:
  enum class Part { kAll, kUpserts };
  struct Step {
    std::string_view type;
    Part part;
  };
  std::optional<Message> Send(const Step& step);
  void Difference(std::string_view type, const TypeState& state, Part part,
                  std::vector<const Resource*>& upserts, std::vector<std::string>& removed) const;

  const std::vector<std::string> types_;
  SessionSource source_;
  std::map<std::string, TypeState, std::less<>> state_;
  uint64_t next_nonce_ = 0;
};

}  // namespace qanat::controlplane
