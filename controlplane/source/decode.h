// SPDX-License-Identifier: Apache-2.0
// YAML text of one file -> objects of the model, and what is wrong with them. Pure; any thread.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "controlplane/model/core.h"
#include "controlplane/model/gateway_api.h"
#include "controlplane/model/networking.h"
#include "controlplane/model/security.h"
#include "controlplane/source/reader.h"

namespace qanat::controlplane {

// A kind that is read and then left alone (Deployment, ConfigMap, ...): kept so that duplicates
// are found and `status` can list it.
struct OtherObject {
  ObjectMeta meta;
};

using AnyObject =
    std::variant<Namespace, Node, ServiceAccount, Pod, Service, EndpointSlice, GatewayClass,
                 Gateway, HttpRoute, VirtualService, DestinationRule, ServiceEntry,
                 PeerAuthentication, AuthorizationPolicy, RequestAuthentication, OtherObject>;

const ObjectMeta& MetaOf(const AnyObject& object);
ObjectMeta& MetaOf(AnyObject& object);

struct DecodedObject {
  AnyObject object;
  std::vector<Issue> issues;
  bool failed = false;  // the object does not count; its last good version stays
};

struct DecodedFile {
  bool parsed = false;  // false: not YAML; every last good object of the file stays
  std::vector<DecodedObject> objects;
  std::vector<Issue> issues;  // of the file and of documents that are no object at all
  // Names in documents whose kind is not known: perhaps a misspelled kind, so whatever good object
  // of that name the file had before stays (a policy does not vanish by a typing error).
  std::vector<NamespacedName> unplaced;
};

DecodedFile DecodeFile(const std::string& file, std::string_view text);
// One object that is no file's: issues carry only its name.
DecodedFile DecodeObject(const YamlNode& node);

// The kind's identity across API versions: "VirtualService", but "Gateway.networking.istio.io" for
// the classic Gateway, which shares its name with the Gateway API's.
std::string KindKey(const ObjectMeta& meta);
// "VirtualService shop/reviews"; cluster-scoped: "Namespace shop".
std::string ObjectName(const ObjectMeta& meta);

// --- one per group, in decode_*.cc; `root` is the whole document -------------------------------
AnyObject DecodeNamespace(ObjectMeta meta, MapReader& root);
AnyObject DecodeNode(ObjectMeta meta, MapReader& root);
AnyObject DecodePod(ObjectMeta meta, MapReader& root);
AnyObject DecodeService(ObjectMeta meta, MapReader& root);
AnyObject DecodeEndpointSlice(ObjectMeta meta, MapReader& root);
AnyObject DecodeGatewayClass(ObjectMeta meta, MapReader& root);
AnyObject DecodeGateway(ObjectMeta meta, MapReader& root);
AnyObject DecodeHttpRoute(ObjectMeta meta, MapReader& root);
AnyObject DecodeVirtualService(ObjectMeta meta, MapReader& root);
AnyObject DecodeDestinationRule(ObjectMeta meta, MapReader& root);
AnyObject DecodeServiceEntry(ObjectMeta meta, MapReader& root);
AnyObject DecodePeerAuthentication(ObjectMeta meta, MapReader& root);
AnyObject DecodeAuthorizationPolicy(ObjectMeta meta, MapReader& root);
AnyObject DecodeRequestAuthentication(ObjectMeta meta, MapReader& root);

// Shared between the groups.
LabelSelector ReadLabelSelector(MapReader reader);
StringMatch ReadStringMatch(MapReader& parent, std::string_view key);
StringMatch ReadStringMatchNode(const YamlNode* node, const std::string& path,
                                ReadContext& context);
bool CheckRegex(MapReader& reader, int line, std::string_view key, const std::string& pattern);
ServicePort ReadServicePort(const YamlNode* node, const std::string& path, ReadContext& context);
std::vector<TargetRef> ReadTargetRefs(MapReader& spec);

}  // namespace qanat::controlplane
