// SPDX-License-Identifier: Apache-2.0
// Delta xDS and certificate messages on the wire. Requests are outside bytes: decoding is bounded
// and never crashes. Pure; any thread.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "controlplane/ca/ca_service.h"
#include "controlplane/model/resource.h"

namespace qanat::controlplane {

struct NodeInfo {
  std::string id;
  std::map<std::string, std::string> metadata;  // the string values of the Struct
};

struct DeltaRequest {
  std::optional<NodeInfo> node;
  std::string type_url;
  std::vector<std::string> subscribe;
  std::vector<std::string> unsubscribe;
  std::map<std::string, std::string> initial_versions;
  std::string nonce;
  std::optional<std::string> error;  // present: a NACK
};
Result<DeltaRequest> DecodeDeltaRequest(std::string_view bytes);

// The resources are already encoded: this only puts them behind one another.
std::string EncodeDeltaResponse(std::string_view system_version, std::string_view type_url,
                                std::string_view nonce,
                                const std::vector<const Resource*>& resources,
                                const std::vector<std::string>& removed);

Result<CertificateRequest> DecodeCertificateRequest(std::string_view bytes);
std::string EncodeCertificateResponse(const std::vector<std::string>& chain);

// "waypoint~10.1.2.3~pod.ns~ns.svc.cluster.local"
struct NodeId {
  std::string type, ip, pod, ns;
};
std::optional<NodeId> ParseNodeId(std::string_view id);

}  // namespace qanat::controlplane
