// SPDX-License-Identifier: Apache-2.0
// The one fixed set of reasons why a connection or request was refused or ended early. The access
// log, the metrics, the admin endpoints and `qanatctl why` all say it with these words. Add a
// reason here and -Wswitch shows every place that must know it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace qanat::model {

enum class Reason : uint8_t {
  kNone,  // not refused
  // Policy.
  kPolicyDenied,         // a DENY policy matched
  kPolicyNoAllow,        // ALLOW policies exist and none matched
  kMtlsRequired,         // PeerAuthentication STRICT and the caller came in plaintext
  kPolicyNotUnderstood,  // denied because a part of a policy cannot be understood
  kPolicyUnknown,        // the workload names a policy that was never received
  kStaleState,           // what is known is too old to rule out that a policy forbids this
  kWaypointRequired,     // the destination accepts only what came through its waypoint
  // Who the ends are.
  kSourceUnknown,         // the control plane does not (yet) know the source workload
  kAddressMismatch,       // node agent and control plane disagree on who has this address
  kDestinationUnknown,    // the receiving proxy does not know the destination workload
  kDestinationMismatch,   // CONNECT for an address that is not this workload's
  kPeerIdentityMismatch,  // the other end's certificate is not the one expected
  kNoCertificate,         // no certificate for our own end
  kCertificateRevoked,    //
  kSourceUnproven,        // a shared tunnel named a source that is not the sender's to name
  // Where to.
  kSelfCall,             // a proxy port as destination
  kNoHealthyUpstream,    // a known service without a usable endpoint
  kNoSuchPort,           // the service has no such port, or no endpoint maps it
  kNoNetworkGateway,     // destination in another network, no gateway known
  kWaypointUnavailable,  // a waypoint is configured and none can be used
  kNoRoute,              // L7: no route matches host, path or method
  kDnsFailure,           // a destination known by name only could not be resolved
  kUnsupported,          // the control plane asks for something this version cannot do
  // The wire.
  kConnectFailed,      // connect(): refused, unreachable
  kConnectTimeout,     // connect(): no answer
  kTlsFailure,         // handshake failed, or plaintext where TLS was expected
  kHttp2Failure,       // the peer's HTTP/2 handshake or framing failed
  kBadRequest,         // not a CONNECT, a bad authority, malformed bytes
  kRefusedByPeer,      // the receiving proxy answered with an error status
  kDeniedByPeer,       // the receiving proxy's policy refused (401)
  kReset,              // one side aborted the connection
  kTimeout,            // L7: no answer in time
  kResourceExhausted,  // file descriptors or a limit
  kMemoryExhausted,    // the budget of memory, the proxy's or the pod's, is used up
  // Us.
  kIdentityChanged,  // a live connection's end is no longer who it was
  kDraining,         // the proxy or the pod is going away
  kInternal,         // a bug of ours
};

std::span<const Reason> AllReasons();
std::string_view ToString(Reason reason);     // "policy_denied"; stable, in metrics and JSON
std::string_view Explanation(Reason reason);  // one sentence: what happened
std::string_view Remedy(Reason reason);       // one sentence: what to do about it
// The value of the response_flags label and of Istio's dashboards (stock ztunnel: "-", DENY,
// CONNECT, TLS_FAILURE, H2_HANDSHAKE_FAILURE, NETWORK_POLICY, IDENTITY_ERROR, CERT_REVOKED).
std::string_view ResponseFlag(Reason reason);
bool IsPolicy(Reason reason);  // by an authorization policy, or a waypoint that was to decide

}  // namespace qanat::model
