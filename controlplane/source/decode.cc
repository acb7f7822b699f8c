// SPDX-License-Identifier: Apache-2.0
#include "controlplane/source/decode.h"

#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <limits>
#include <utility>

namespace qanat::controlplane {
namespace {

using Decode = AnyObject (*)(ObjectMeta, MapReader&);

AnyObject DecodeServiceAccount(ObjectMeta meta, MapReader&) {
  return ServiceAccount{std::move(meta)};
}
AnyObject DecodeOther(ObjectMeta meta, MapReader&) { return OtherObject{std::move(meta)}; }

struct Kind {
  std::string_view group;
  std::string_view versions;  // space separated
  std::string_view kind;
  Decode decode;
  bool cluster_scoped = false;
};

// What istiod serves (networking.istio.io v1, v1beta1, v1alpha3; security.istio.io v1, v1beta1) and
// what of Kubernetes the mesh reads or lives beside.
constexpr Kind kKinds[] = {
    {"", "v1", "Namespace", DecodeNamespace, true},
    {"", "v1", "Node", DecodeNode, true},
    {"", "v1", "Pod", DecodePod},
    {"", "v1", "Service", DecodeService},
    {"", "v1", "ServiceAccount", DecodeServiceAccount},
    {"", "v1", "ConfigMap", DecodeOther},
    {"", "v1", "Secret", DecodeOther},
    {"", "v1", "Endpoints", DecodeOther},
    {"", "v1", "PersistentVolumeClaim", DecodeOther},
    {"", "v1", "LimitRange", DecodeOther},
    {"", "v1", "ResourceQuota", DecodeOther},
    {"apps", "v1", "Deployment", DecodeOther},
    {"apps", "v1", "ReplicaSet", DecodeOther},
    {"apps", "v1", "StatefulSet", DecodeOther},
    {"apps", "v1", "DaemonSet", DecodeOther},
    {"batch", "v1", "Job", DecodeOther},
    {"batch", "v1 v1beta1", "CronJob", DecodeOther},
    {"autoscaling", "v1 v2", "HorizontalPodAutoscaler", DecodeOther},
    {"policy", "v1", "PodDisruptionBudget", DecodeOther},
    {"rbac.authorization.k8s.io", "v1", "Role", DecodeOther},
    {"rbac.authorization.k8s.io", "v1", "RoleBinding", DecodeOther},
    {"rbac.authorization.k8s.io", "v1", "ClusterRole", DecodeOther, true},
    {"rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", DecodeOther, true},
    {"networking.k8s.io", "v1", "NetworkPolicy", DecodeOther},
    {"discovery.k8s.io", "v1", "EndpointSlice", DecodeEndpointSlice},
    {"gateway.networking.k8s.io", "v1 v1beta1", "GatewayClass", DecodeGatewayClass, true},
    {"gateway.networking.k8s.io", "v1 v1beta1", "Gateway", DecodeGateway},
    {"gateway.networking.k8s.io", "v1 v1beta1", "HTTPRoute", DecodeHttpRoute},
    {"networking.istio.io", "v1 v1beta1 v1alpha3", "VirtualService", DecodeVirtualService},
    {"networking.istio.io", "v1 v1beta1 v1alpha3", "DestinationRule", DecodeDestinationRule},
    {"networking.istio.io", "v1 v1beta1 v1alpha3", "ServiceEntry", DecodeServiceEntry},
    {"security.istio.io", "v1 v1beta1", "PeerAuthentication", DecodePeerAuthentication},
    {"security.istio.io", "v1 v1beta1", "AuthorizationPolicy", DecodeAuthorizationPolicy},
    {"security.istio.io", "v1 v1beta1", "RequestAuthentication", DecodeRequestAuthentication},
};

struct NotServed {
  std::string_view group;
  std::string_view kind;  // "" is every kind of the group
  std::string_view remedy;
};

// Kinds that users of this product have in their files and that do nothing here: what instead.
constexpr NotServed kNotServed[] = {
    {"networking.istio.io", "Gateway",
     "use a Gateway of gateway.networking.k8s.io with an HTTPRoute; ingress gateways are not "
     "served yet"},
    {"networking.istio.io", "Sidecar", "there are no sidecars; remove it"},
    {"networking.istio.io", "EnvoyFilter", "use VirtualService, DestinationRule or policies"},
    {"networking.istio.io", "WorkloadEntry", "give the workload a Pod; others are not served yet"},
    {"networking.istio.io", "WorkloadGroup", "give the workload a Pod; others are not served yet"},
    {"networking.istio.io", "ProxyConfig", "waypoints are configured by their Gateway"},
    {"telemetry.istio.io", "Telemetry",
     "metrics are always on under Istio's names (metrics port 15020); per-metric settings are not "
     "served yet"},
    {"install.istio.io", "IstioOperator",
     "the control plane takes flags: see qanat-controlplane --help (--trust-domain, --cluster-id, "
     "--network)"},
    {"extensions.istio.io", "", "extensions are not served"},
    {"gateway.networking.k8s.io", "",
     "of the Gateway API only GatewayClass, Gateway and HTTPRoute are served"},
    {"argoproj.io", "", "it is Argo's; apply it to the cluster where Argo runs"},
    {"flagger.app", "",
     "it is Flagger's; Flagger drives this mesh through VirtualService or HTTPRoute weights"},
    {"apiextensions.k8s.io", "", "definitions of kinds are not needed here"},
    {"admissionregistration.k8s.io", "", "there is no webhook to register"},
};

int64_t ParseTimestamp(const std::string& text) {
  std::tm tm{};
  if (strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &tm) == nullptr) return 0;
  return timegm(&tm);
}

bool Contains(std::string_view list, std::string_view word) {
  while (!list.empty()) {
    const size_t space = list.find(' ');
    if (list.substr(0, space) == word) return true;
    if (space == std::string_view::npos) return false;
    list.remove_prefix(space + 1);
  }
  return false;
}

ObjectMeta ReadMeta(MapReader& root, ReadContext& context) {
  ObjectMeta meta;
  MapReader reader = root.Map("metadata");
  meta.location = {context.file, root.line()};
  meta.name = reader.String("name");
  meta.ns = reader.String("namespace");
  meta.uid = reader.String("uid");
  meta.generation = reader.Int("generation", 0, std::numeric_limits<int64_t>::max()).value_or(0);
  meta.terminating = reader.Take("deletionTimestamp") != nullptr;
  meta.generate_name = reader.String("generateName");
  meta.labels = reader.StringMap("labels");
  meta.annotations = reader.StringMap("annotations");
  meta.creation_time = ParseTimestamp(reader.String("creationTimestamp"));
  for (const YamlNode* node : reader.Items("ownerReferences")) {
    MapReader owner(node, reader.PathOf("ownerReferences"), context);
    meta.owners.push_back({owner.String("kind"), owner.String("name"), owner.String("uid"),
                           owner.Bool("controller")});
  }
  return meta;
}

void CheckNames(ObjectMeta& meta, bool cluster_scoped, int line, ReadContext& context) {
  if (meta.name.empty()) {
    context.Error(line, "metadata.name is missing", "give the object a name");
  } else if (!ValidName(meta.name)) {
    context.Error(line, fmt::format("metadata.name: \"{}\" is not a valid name", meta.name),
                  "use lower-case letters, digits, '-' and '.'");
  }
  if (cluster_scoped) {
    meta.ns.clear();
  } else if (meta.ns.empty()) {
    meta.ns = "default";
  } else if (!ValidNamespace(meta.ns)) {
    context.Error(line, fmt::format("metadata.namespace: \"{}\" is not a valid name", meta.ns),
                  "use lower-case letters, digits and '-'");
  }
}

void DecodeDocument(const std::string& file, const YamlNode& node, DecodedFile& out);

void UnknownKind(const std::string& file, const YamlNode& node, const ObjectMeta& meta,
                 std::string_view group, std::string_view version, DecodedFile& out) {
  out.unplaced.push_back({meta.ns.empty() ? "default" : meta.ns, meta.name});
  std::string remedy = "remove it, or check apiVersion and kind";
  std::string message =
      fmt::format("{} of {} is not known here: ignored", meta.kind, meta.api_version);
  bool found = false;
  for (const Kind& kind : kKinds) {
    if (kind.kind != meta.kind) continue;
    const std::string wanted = fmt::format("{}{}{}", kind.group, kind.group.empty() ? "" : "/",
                                           kind.versions.substr(0, kind.versions.find(' ')));
    if (kind.group == group) {
      message = fmt::format("{} has no version {} here: ignored", meta.kind, version);
      remedy = fmt::format("use apiVersion: {}", wanted);
      found = true;
    } else if (!found) {
      remedy = fmt::format("did you mean apiVersion: {}?", wanted);
    }
  }
  for (const NotServed& other : kNotServed) {
    if (found || other.group != group || (!other.kind.empty() && other.kind != meta.kind)) continue;
    message = fmt::format("{} ({}) has no effect in this mesh", meta.kind, meta.api_version);
    remedy = std::string(other.remedy);
    break;
  }
  out.issues.push_back({Issue::Severity::kWarning, file, node.line, ObjectName(meta),
                        std::move(message), std::move(remedy)});
}

void DecodeList(const std::string& file, const YamlNode& node, DecodedFile& out) {
  const YamlNode* items = node.Find("items");
  if (items == nullptr) return;
  for (const YamlNode& item : items->items) DecodeDocument(file, item, out);
}

void DecodeDocument(const std::string& file, const YamlNode& node, DecodedFile& out) {
  if (!node.is_map()) {
    out.issues.push_back(
        {Issue::Severity::kWarning, file, node.line, "",
         fmt::format("this document is {}, not a Kubernetes object: ignored", node.KindName()),
         "an object has apiVersion, kind and metadata; move other files elsewhere"});
    return;
  }
  ReadContext context;
  context.file = file;
  MapReader root(&node, "", context);
  const std::string api_version = root.String("apiVersion");
  const std::string kind_name = root.String("kind");
  if (api_version.empty() || kind_name.empty()) {
    out.issues.push_back(
        {Issue::Severity::kWarning, file, node.line, "",
         fmt::format("{} is missing: not a Kubernetes object, ignored",
                     api_version.empty() ? "apiVersion" : "kind"),
         "an object has apiVersion, kind and metadata; move other files elsewhere"});
    const ObjectMeta meta = ReadMeta(root, context);
    out.unplaced.push_back({meta.ns.empty() ? "default" : meta.ns, meta.name});
    return;
  }
  if (kind_name == "List" && api_version == "v1") return DecodeList(file, node, out);

  ObjectMeta meta = ReadMeta(root, context);
  meta.api_version = api_version;
  meta.kind = kind_name;
  const size_t slash = api_version.find('/');
  const std::string group = slash == std::string::npos ? "" : api_version.substr(0, slash);
  const std::string version =
      slash == std::string::npos ? api_version : api_version.substr(slash + 1);
  const Kind* kind = std::find_if(std::begin(kKinds), std::end(kKinds), [&](const Kind& k) {
    return k.kind == kind_name && k.group == group && Contains(k.versions, version);
  });
  if (kind == std::end(kKinds)) return UnknownKind(file, node, meta, group, version, out);

  CheckNames(meta, kind->cluster_scoped, node.line, context);
  context.object = ObjectName(meta);
  for (Issue& issue : context.issues) issue.object = context.object;
  AnyObject object = kind->decode(std::move(meta), root);
  out.objects.push_back({std::move(object), std::move(context.issues), context.failed});
}

}  // namespace

const ObjectMeta& MetaOf(const AnyObject& object) {
  return std::visit([](const auto& o) -> const ObjectMeta& { return o.meta; }, object);
}

ObjectMeta& MetaOf(AnyObject& object) {
  return std::visit([](auto& o) -> ObjectMeta& { return o.meta; }, object);
}

std::string KindKey(const ObjectMeta& meta) { return meta.kind; }

std::string ObjectName(const ObjectMeta& meta) {
  if (meta.ns.empty()) return fmt::format("{} {}", meta.kind, meta.name);
  return fmt::format("{} {}/{}", meta.kind, meta.ns, meta.name);
}

DecodedFile DecodeFile(const std::string& file, std::string_view text) {
  DecodedFile out;
  const YamlFile yaml = ParseYaml(text);
  for (const YamlError& error : yaml.errors) {
    out.issues.push_back(
        {Issue::Severity::kError, file, error.line, "", error.message, error.remedy});
  }
  if (!yaml.errors.empty()) return out;
  out.parsed = true;
  for (const YamlNode& document : yaml.documents) DecodeDocument(file, document, out);
  return out;
}

DecodedFile DecodeObject(const YamlNode& node) {
  DecodedFile out;
  out.parsed = true;
  DecodeDocument("", node, out);
  return out;
}

LabelSelector ReadLabelSelector(MapReader reader) {
  LabelSelector out;
  out.match_labels = reader.StringMap("matchLabels");
  for (const YamlNode* node : reader.Items("matchExpressions")) {
    MapReader item(node, reader.PathOf("matchExpressions"), reader.context());
    LabelSelector::Expression expression;
    expression.key = item.String("key");
    expression.values = item.Strings("values");
    const std::string op = item.String("operator");
    if (op == "In") {
      expression.op = LabelSelector::Operator::kIn;
    } else if (op == "NotIn") {
      expression.op = LabelSelector::Operator::kNotIn;
    } else if (op == "Exists") {
      expression.op = LabelSelector::Operator::kExists;
    } else if (op == "DoesNotExist") {
      expression.op = LabelSelector::Operator::kDoesNotExist;
    } else {
      item.Bad(node->line, "operator", fmt::format("\"{}\" is not an operator", op),
               "use In, NotIn, Exists or DoesNotExist");
    }
    out.match_expressions.push_back(std::move(expression));
  }
  reader.Finish();
  return out;
}

bool CheckRegex(MapReader& reader, int line, std::string_view key, const std::string& pattern) {
  RE2::Options options;
  options.set_log_errors(false);
  const RE2 regex(pattern, options);
  if (regex.ok()) return true;
  reader.Bad(line, key, fmt::format("not a regular expression: {}", regex.error()),
             "write it in RE2 syntax (no back references or look-around)");
  return false;
}

StringMatch ReadStringMatchNode(const YamlNode* node, const std::string& path,
                                ReadContext& context) {
  StringMatch out;
  MapReader reader(node, path, context);
  int given = 0;
  for (const auto& [key, kind] : {std::pair{"exact", StringMatch::Kind::kExact},
                                  std::pair{"prefix", StringMatch::Kind::kPrefix},
                                  std::pair{"regex", StringMatch::Kind::kRegex}}) {
    if (node == nullptr || node->Find(key) == nullptr) continue;
    ++given;
    out.kind = kind;
    out.value = reader.String(key);
    if (kind == StringMatch::Kind::kRegex) CheckRegex(reader, reader.line(), key, out.value);
  }
  if (given == 0) out.kind = StringMatch::Kind::kPresent;
  if (given > 1) {
    context.Error(reader.line(), fmt::format("{}: more than one kind of match", path),
                  "keep one of exact, prefix and regex");
  }
  reader.Finish();
  return out;
}

StringMatch ReadStringMatch(MapReader& parent, std::string_view key) {
  return ReadStringMatchNode(parent.Take(key), parent.PathOf(key), parent.context());
}

std::vector<TargetRef> ReadTargetRefs(MapReader& spec) {
  std::vector<TargetRef> out;
  std::vector<const YamlNode*> nodes;
  if (const YamlNode* one = spec.Take("targetRef")) nodes.push_back(one);
  for (const YamlNode* node : spec.Items("targetRefs")) nodes.push_back(node);
  for (const YamlNode* node : nodes) {
    MapReader reader(node, spec.PathOf("targetRefs"), spec.context());
    TargetRef ref{reader.String("group"), reader.String("kind"), reader.String("name"),
                  reader.String("namespace")};
    reader.Finish();
    if (ref.kind.empty() || ref.name.empty()) {
      spec.Bad(node->line, "targetRefs", "kind and name are required",
               "for example {group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}");
      continue;
    }
    out.push_back(std::move(ref));
  }
  return out;
}

}  // namespace qanat::controlplane
