// SPDX-License-Identifier: Apache-2.0
#include "common/model/reason.h"

#include <array>

namespace qanat::model {
namespace {

struct Text {
  std::string_view name, explanation, remedy, flag;
};

constexpr std::string_view kNoFlag = "-";

constexpr Text TextOf(Reason reason) {
  switch (reason) {
    case Reason::kNone: return {"none", "not refused", "", kNoFlag};
    case Reason::kPolicyDenied:
      return {"policy_denied", "a DENY policy matched this connection",
              "change the DENY policy, or call from another identity", "DENY"};
    case Reason::kPolicyNoAllow:
      return {"policy_no_allow", "ALLOW policies apply to the destination and none matched",
              "add the caller to an ALLOW policy of the destination; `qanatctl why` shows the "
              "nearest one",
              "DENY"};
    case Reason::kMtlsRequired:
      return {"mtls_required",
              "the destination requires mTLS (PeerAuthentication STRICT) and the caller came in "
              "plaintext",
              "label the caller's namespace or pod istio.io/dataplane-mode=ambient, or use "
              "PERMISSIVE for this port",
              "DENY"};
    case Reason::kPolicyNotUnderstood:
      return {"policy_not_understood",
              "a policy has a part that cannot be understood, which counts as a refusal",
              "correct the part that `qanatctl policies` names", "DENY"};
    case Reason::kPolicyUnknown:
      return {"policy_unknown", "the workload names a policy that has not been received",
              "it clears when the control plane sends the policy; check its log if it persists",
              "DENY"};
    case Reason::kStaleState:
      return {"stale_state",
              "what is known of the mesh was saved too long ago to say that no DENY policy of the "
              "destination matches",
              "bring the control plane back; /config_dump and the log say since when it has not "
              "been heard",
              "DENY"};
    case Reason::kWaypointRequired:
      return {"waypoint_required",
              "the destination accepts only what came through its waypoint, and this did not",
              "label the caller's namespace or pod istio.io/dataplane-mode=ambient so that it is "
              "routed there, or remove istio.io/use-waypoint (qanat.io/require-waypoint) from the "
              "destination",
              "DENY"};
    case Reason::kSourceUnknown:
      return {"source_unknown", "the control plane has not announced the calling workload",
              "check that the control plane runs and is connected, and that the pod has an IP",
              "CONNECT"};
    case Reason::kAddressMismatch:
      return {"address_mismatch",
              "node agent and control plane disagree on which workload has this address",
              "it clears when both have seen the new pod; if it persists compare `qanatctl "
              "workloads` with the agent's /pods",
              "IDENTITY_ERROR"};
    case Reason::kDestinationUnknown:
      return {"destination_unknown", "the receiving proxy does not know the destination workload",
              "check that the control plane runs and has announced the pod", "CONNECT"};
    case Reason::kDestinationMismatch:
      return {"destination_mismatch", "a tunnel asked for an address that is not this workload's",
              "the caller's view of the mesh is stale, or it is not allowed to choose the target",
              "CONNECT"};
    case Reason::kPeerIdentityMismatch:
      return {"peer_identity_mismatch", "the other end's certificate has another identity",
              "the address may have been reused; check the destination's service account",
              "TLS_FAILURE"};
    case Reason::kNoCertificate:
      return {"no_certificate", "no certificate for the workload's identity could be had",
              "check that the certificate authority is reachable and accepts this node's token",
              "IDENTITY_ERROR"};
    case Reason::kCertificateRevoked:
      return {
          "certificate_revoked",
          "the peer's certificate, or a CA of its chain, is on the revocation list",
          "issue a new certificate for the peer; if the list is wrong, mend the file of CRL_PATH",
          "CERT_REVOKED"};
    case Reason::kSourceUnproven:
      return {"source_unproven",
              "a stream of a shared tunnel named a source that its sender has not proven to be",
              "none if it was made over the pod's own tunnel afterwards; else look at the sending "
              "proxy, or set QANAT_SHARED_TUNNELS=false there",
              "IDENTITY_ERROR"};
    case Reason::kSelfCall:
      return {"self_call", "the destination is a port of the proxy itself",
              "call the application's own port", "CONNECT"};
    case Reason::kNoHealthyUpstream:
      return {"no_healthy_upstream", "the service has no usable endpoint",
              "check that the service's selector matches ready pods", "CONNECT"};
    case Reason::kNoSuchPort:
      return {"no_such_port", "the service has no such port, or no endpoint serves it",
              "check ports and targetPort of the service", "CONNECT"};
    case Reason::kNoNetworkGateway:
      return {"no_network_gateway", "the destination is in another network without a gateway",
              "add an east-west gateway for that network", "CONNECT"};
    case Reason::kWaypointUnavailable:
      return {"waypoint_unavailable", "the destination has a waypoint and none of it is usable",
              "check the waypoint's Gateway and its pods; traffic does not go around it",
              "CONNECT"};
    case Reason::kNoRoute:
      return {"no_route", "no route matches the request",
              "check hosts, paths and methods of the routes attached to the service", "CONNECT"};
    case Reason::kDnsFailure:
      return {"dns_failure", "the destination's host name could not be resolved",
              "check the name and the node's DNS", "CONNECT"};
    case Reason::kUnsupported:
      return {"unsupported", "the configuration asks for something this version cannot do",
              "see the detail in the log", "CONNECT"};
    case Reason::kConnectFailed:
      return {"connect_failed", "the connection to the destination was refused or unreachable",
              "check that the application listens on the port", "CONNECT"};
    case Reason::kConnectTimeout:
      return {"connect_timeout", "the destination did not answer",
              "a NetworkPolicy or firewall may block the port (15008 between nodes)",
              "NETWORK_POLICY"};
    case Reason::kTlsFailure:
      return {"tls_failure", "the TLS handshake failed",
              "check that both ends trust the same roots and have unexpired certificates",
              "TLS_FAILURE"};
    case Reason::kHttp2Failure:
      return {"http2_failure", "the tunnel's HTTP/2 handshake or framing failed",
              "check that the peer speaks HBONE on this port", "H2_HANDSHAKE_FAILURE"};
    case Reason::kBadRequest:
      return {"bad_request", "the bytes received are not a valid request",
              "the peer must send CONNECT with an authority of the form IP:port or host:port",
              "CONNECT"};
    case Reason::kRefusedByPeer:
      return {"refused_by_peer", "the receiving proxy could not serve the connection",
              "look at the receiving proxy's log for the same destination", "CONNECT"};
    case Reason::kDeniedByPeer:
      return {"denied_by_peer", "the receiving proxy's policy refused the connection",
              "`qanatctl why` shows the destination's decision tree", "DENY"};
    case Reason::kReset:
      return {"reset", "one side aborted the connection", "look at the application's log", kNoFlag};
    case Reason::kTimeout:
      return {"timeout", "no answer in time", "check the destination, or raise the timeout",
              "CONNECT"};
    case Reason::kResourceExhausted:
      return {"resource_exhausted", "file descriptors or a limit ran out",
              "raise the limit or find who holds so many connections", "CONNECT"};
    case Reason::kMemoryExhausted:
      return {"memory_exhausted", "memory ran out: what readers leave unread takes up the budget",
              "find the readers that do not read (the access log names what was ended and what it "
              "held), or raise QANAT_MEMORY_BUDGET or QANAT_MAX_MEMORY_PER_POD",
              "CONNECT"};
    case Reason::kIdentityChanged:
      return {"identity_changed", "one end of the live connection is no longer who it was",
              "connect again; the address now belongs to another workload", "IDENTITY_ERROR"};
    case Reason::kDraining:
      return {"draining", "the proxy or the pod is shutting down", "connect again", kNoFlag};
    case Reason::kInternal:
      return {"internal", "an error inside the proxy", "report it, with the log", "CONNECT"};
  }
  return {"", "", "", kNoFlag};
}

constexpr size_t kCount = static_cast<size_t>(Reason::kInternal) + 1;

constexpr std::array<Reason, kCount> MakeAll() {
  std::array<Reason, kCount> all{};
  for (size_t i = 0; i < kCount; ++i) all[i] = static_cast<Reason>(i);
  return all;
}
constexpr std::array<Reason, kCount> kAll = MakeAll();

}  // namespace

std::span<const Reason> AllReasons() { return kAll; }
std::string_view ToString(Reason reason) { return TextOf(reason).name; }
std::string_view Explanation(Reason reason) { return TextOf(reason).explanation; }
std::string_view Remedy(Reason reason) { return TextOf(reason).remedy; }
std::string_view ResponseFlag(Reason reason) { return TextOf(reason).flag; }

bool IsPolicy(Reason reason) {
  return reason >= Reason::kPolicyDenied && reason <= Reason::kWaypointRequired;
}

}  // namespace qanat::model
