// SPDX-License-Identifier: Apache-2.0
// Delta ADS client: several resource types on one stream, reconnecting for ever. Resources are
// handed to their type's handler one by one while the response is still arriving, so that a full
// push of a large mesh needs no second copy. Lives on one loop (the main one).
//
// Behaviour follows stock ztunnel (reference: initial_resource_versions on reconnect, rejected
// resources are not counted as received, good ones of a rejected response are applied, backoff
// 10 ms doubling to 15 s).
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/kept_text.h"
#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/grpc/backoff.h"
#include "common/grpc/channel.h"
#include "common/xds/node.h"

namespace qanat::xds {

inline constexpr std::string_view kAddressType = "type.googleapis.com/istio.workload.Address";
inline constexpr std::string_view kAuthorizationType =
    "type.googleapis.com/istio.security.Authorization";
inline constexpr std::string_view kClusterType =
    "type.googleapis.com/envoy.config.cluster.v3.Cluster";
inline constexpr std::string_view kEndpointType =
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
inline constexpr std::string_view kListenerType =
    "type.googleapis.com/envoy.config.listener.v3.Listener";
inline constexpr std::string_view kRouteType =
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
inline constexpr std::string_view kSecretType =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

class ResourceHandler {
 public:
  // Decode and stage one resource; `bytes` is the Any's value and valid for the call only. An error
  // rejects this resource alone: it goes into the NACK and is not counted as received. The name is
  // kept by the client: who keeps it too has it in the same memory.
  virtual Status OnResource(const KeptText& name, std::string_view version,
                            std::string_view bytes) = 0;
  // The server says that it does not exist (any more); also the answer to an unknown name.
  virtual void OnRemoved(std::string_view name) = 0;
  // The response is complete: publish what was staged, in one step. Also called when the stream
  // broke in the middle of a response: what came before is good and counts as received.
  virtual void OnBatchEnd() = 0;

 protected:
  ~ResourceHandler() = default;
};

// For metrics; all optional.
struct DeltaObserver {
  // reason: ConnectionError, Error, Reconnect, Complete (istio_xds_connection_terminations_total)
  std::function<void(std::string_view reason)> on_terminated;
  std::function<void(std::string_view type_url, size_t bytes)> on_message;
  std::function<void(std::string_view type_url, std::string_view errors)> on_nack;
  std::function<void()> on_connected;  // the first response of a stream has arrived
  std::function<void()> on_synced;     // once: every type had its first response
  // What was received is in force. While it says no, answers to responses wait for Acknowledge().
  std::function<bool()> may_acknowledge;
};

class DeltaClient {
 public:
  enum class Subscription {
    kWildcard,  // everything; the first message subscribes to nothing by name
    // Nothing at first, then what Subscribe() names. Answers may bring other names too, which count
    // (a service's endpoints; an address is answered under the workload's own name).
    kOnDemand,
    kByName,  // only what Subscribe() names; the type is first asked for when a name is wanted
  };

  DeltaClient(event::EventLoop& loop, grpc::Channel& channel, Node node,
              DeltaObserver observer = {}, grpc::Backoff::Policy backoff = {});
  ~DeltaClient();

  // What is held of a type, by name.
  using Versions = std::map<std::string, std::string, std::less<>>;
  // Before Start(). The handler is not owned. The order of adding is the order of asking. `held`:
  // what it knows from before, of which the server tells what is other or gone.
  void AddType(std::string_view type_url, Subscription mode, ResourceHandler* handler,
               Versions held = {});
  void Start();
  void Acknowledge();  // what waited, if it may go now

  // By-name types: the set of names wanted from now on, by difference. Names that are dropped are
  // forgotten here (their versions too); the handler is not told.
  void SetNames(std::string_view type_url, const std::set<std::string>& names);
  void Subscribe(std::string_view type_url, const std::string& name);
  void Unsubscribe(std::string_view type_url, const std::string& name);
  // Asks for one resource again, also of a wildcard type: an explicit subscription makes the server
  // send it.
  void Resend(std::string_view type_url, const std::string& name);

  bool connected() const;  // a stream exists and has answered
  // Every wildcard type had a response since the start: the readiness gate.
  bool synced() const;
  bool synced(std::string_view type_url) const;
  // This stream has told what there is of every wildcard type: what is held is what the server had
  // then or later. Otherwise it is what an earlier stream said.
  bool current() const;
  // Of this stream's latest response of any type, or connect; nothing while disconnected. For
  // leases: "fresh" means current() and the ping keepalive holds.
  std::optional<event::TimePoint> last_activity() const;
  size_t resource_count(std::string_view type_url) const;
  std::string last_error() const;  // why the last stream ended; "" if none did

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::xds
