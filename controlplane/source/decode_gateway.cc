// SPDX-License-Identifier: Apache-2.0
// gateway.networking.k8s.io.
#include <fmt/format.h>

#include "controlplane/source/decode.h"

namespace qanat::controlplane {
namespace {

HeaderList ReadHeaderList(MapReader& reader, std::string_view key) {
  HeaderList out;
  for (const YamlNode* node : reader.Items(key)) {
    MapReader item(node, reader.PathOf(key), reader.context());
    std::string name = item.String("name");
    if (name.empty()) item.Bad(node->line, "name", "is missing");
    out.emplace_back(std::move(name), item.String("value"));
    item.Finish();
  }
  return out;
}

HeaderOps ReadModifier(MapReader reader) {
  HeaderOps ops;
  ops.set = ReadHeaderList(reader, "set");
  ops.add = ReadHeaderList(reader, "add");
  ops.remove = reader.Strings("remove");
  reader.Finish();
  return ops;
}

std::optional<HttpPathModifier> ReadPathModifier(MapReader reader) {
  if (!reader.present()) return std::nullopt;
  HttpPathModifier out;
  const std::string type = reader.String("type");
  const std::string full = reader.String("replaceFullPath");
  const std::string prefix = reader.String("replacePrefixMatch");
  if (type == "ReplacePrefixMatch") {
    out.replace_prefix = true;
    out.value = prefix;
  } else if (type == "ReplaceFullPath") {
    out.value = full;
  } else {
    reader.Bad(reader.line(), "type", fmt::format("\"{}\" is not a path modifier", type),
               "use ReplaceFullPath or ReplacePrefixMatch");
  }
  reader.Finish();
  return out;
}

BackendRef ReadBackendRef(MapReader& reader, const std::string& route_namespace) {
  BackendRef ref;
  ref.group = reader.String("group");
  if (std::string kind = reader.String("kind"); !kind.empty()) ref.kind = std::move(kind);
  ref.ns = reader.String("namespace");
  if (ref.ns.empty()) ref.ns = route_namespace;
  ref.name = reader.String("name");
  ref.port = reader.Port("port");
  ref.weight = static_cast<uint32_t>(reader.Int("weight", 0, 1'000'000).value_or(1));
  if (ref.name.empty()) reader.Bad(reader.line(), "name", "is missing");
  return ref;
}

HttpRouteFilter::Mirror ReadMirror(MapReader reader, const std::string& ns) {
  HttpRouteFilter::Mirror mirror;
  MapReader backend = reader.Map("backendRef");
  mirror.backend = ReadBackendRef(backend, ns);
  backend.Finish();
  if (const auto percent = reader.Int("percent", 0, 100)) {
    mirror.percent = static_cast<double>(*percent);
  }
  MapReader fraction = reader.Map("fraction");
  if (fraction.present()) {
    const auto numerator = fraction.Int("numerator", 0, 1'000'000'000);
    const auto denominator = fraction.Int("denominator", 1, 1'000'000'000);
    mirror.percent = 100.0 * static_cast<double>(numerator.value_or(0)) /
                     static_cast<double>(denominator.value_or(100));
    fraction.Finish();
  }
  reader.Finish();
  return mirror;
}

std::vector<HttpRouteFilter> ReadFilters(MapReader& parent, const std::string& ns) {
  std::vector<HttpRouteFilter> out;
  for (const YamlNode* node : parent.Items("filters")) {
    MapReader reader(node, parent.PathOf("filters"), parent.context());
    HttpRouteFilter filter;
    filter.name = reader.String("type");
    using Type = HttpRouteFilter::Type;
    if (filter.name == "RequestHeaderModifier") {
      filter.type = Type::kRequestHeaders;
      filter.headers = ReadModifier(reader.Map("requestHeaderModifier"));
    } else if (filter.name == "ResponseHeaderModifier") {
      filter.type = Type::kResponseHeaders;
      filter.headers = ReadModifier(reader.Map("responseHeaderModifier"));
    } else if (filter.name == "RequestRedirect") {
      filter.type = Type::kRedirect;
      MapReader redirect = reader.Map("requestRedirect");
      filter.redirect.scheme = redirect.String("scheme");
      filter.redirect.hostname = redirect.String("hostname");
      filter.redirect.path = ReadPathModifier(redirect.Map("path"));
      filter.redirect.port = redirect.Port("port");
      filter.redirect.status = static_cast<int>(redirect.Int("statusCode", 300, 399).value_or(302));
      redirect.Finish();
    } else if (filter.name == "URLRewrite") {
      filter.type = Type::kRewrite;
      MapReader rewrite = reader.Map("urlRewrite");
      filter.rewrite.hostname = rewrite.String("hostname");
      filter.rewrite.path = ReadPathModifier(rewrite.Map("path"));
      rewrite.Finish();
    } else if (filter.name == "RequestMirror") {
      filter.type = Type::kMirror;
      filter.mirror = ReadMirror(reader.Map("requestMirror"), ns);
    } else {
      parent.context().Warn(node->line,
                            fmt::format("filter type \"{}\" is not served: requests that it would "
                                        "touch are answered with 500",
                                        filter.name),
                            "use RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect, "
                            "URLRewrite or RequestMirror");
      reader.Ignore({"extensionRef", "cors", "externalAuth"});
    }
    reader.Finish();
    out.push_back(std::move(filter));
  }
  return out;
}

HttpRouteMatch::Kind ReadMatchKind(MapReader& reader, std::string_view exact) {
  const std::string type = reader.String("type");
  if (type == "PathPrefix" && exact.empty()) return HttpRouteMatch::Kind::kPrefix;
  if (type == "RegularExpression") return HttpRouteMatch::Kind::kRegex;
  if (type == "Exact") return HttpRouteMatch::Kind::kExact;
  if (!type.empty()) {
    reader.Bad(reader.line(), "type", fmt::format("\"{}\" is not a kind of match", type),
               exact.empty() ? "use Exact, PathPrefix or RegularExpression"
                             : "use Exact or RegularExpression");
  }
  return exact.empty() ? HttpRouteMatch::Kind::kPrefix : HttpRouteMatch::Kind::kExact;
}

std::vector<HttpRouteMatch::Named> ReadNamed(MapReader& parent, std::string_view key) {
  std::vector<HttpRouteMatch::Named> out;
  for (const YamlNode* node : parent.Items(key)) {
    MapReader reader(node, parent.PathOf(key), parent.context());
    HttpRouteMatch::Named named;
    named.kind = ReadMatchKind(reader, "exact");
    named.name = reader.String("name");
    named.value = reader.String("value");
    if (named.name.empty()) reader.Bad(node->line, "name", "is missing");
    if (named.kind == HttpRouteMatch::Kind::kRegex) {
      CheckRegex(reader, node->line, "value", named.value);
    }
    reader.Finish();
    out.push_back(std::move(named));
  }
  return out;
}

HttpRouteMatch ReadMatch(const YamlNode* node, const std::string& path, ReadContext& context) {
  MapReader reader(node, path, context);
  HttpRouteMatch match;
  MapReader path_reader = reader.Map("path");
  match.path_kind = ReadMatchKind(path_reader, "");
  if (std::string value = path_reader.String("value"); !value.empty()) match.path = value;
  if (match.path_kind == HttpRouteMatch::Kind::kRegex) {
    CheckRegex(path_reader, path_reader.line(), "value", match.path);
  } else if (match.path.front() != '/') {
    path_reader.Bad(path_reader.line(), "value", "must begin with /");
  }
  path_reader.Finish();
  match.headers = ReadNamed(reader, "headers");
  match.query_params = ReadNamed(reader, "queryParams");
  match.method = reader.String("method");
  reader.Finish();
  return match;
}

HttpRouteRule ReadRule(const YamlNode* node, const std::string& ns, ReadContext& context) {
  MapReader reader(node, "spec.rules", context);
  HttpRouteRule rule;
  rule.line = reader.line();
  rule.name = reader.String("name");
  for (const YamlNode* match : reader.Items("matches")) {
    rule.matches.push_back(ReadMatch(match, "spec.rules.matches", context));
  }
  rule.filters = ReadFilters(reader, ns);
  for (const YamlNode* backend_node : reader.Items("backendRefs")) {
    MapReader backend(backend_node, "spec.rules.backendRefs", context);
    HttpRouteRule::Backend out;
    out.ref = ReadBackendRef(backend, ns);
    out.filters = ReadFilters(backend, ns);
    backend.Finish();
    rule.backends.push_back(std::move(out));
  }
  MapReader timeouts = reader.Map("timeouts");
  rule.request_timeout = timeouts.Duration("request");
  rule.backend_request_timeout = timeouts.Duration("backendRequest");
  timeouts.Finish();
  MapReader retry = reader.Map("retry");
  if (retry.present()) {
    HttpRouteRule::Retry out;
    for (const YamlNode* code : retry.Items("codes")) {
      unsigned value = 0;
      for (char c : code->text) {
        value = c >= '0' && c <= '9' && value < 1000 ? value * 10 + static_cast<unsigned>(c - '0')
                                                     : 1000;
      }
      if (value < 400 || value > 599) {
        retry.Bad(code->line, "codes",
                  fmt::format("\"{}\" is not a status to retry on", code->text),
                  "use numbers from 400 to 599");
        continue;
      }
      out.codes.push_back(value);
    }
    if (const auto attempts = retry.Int("attempts", 0, 1000)) {
      out.attempts = static_cast<uint32_t>(*attempts);
    }
    out.backoff = retry.Duration("backoff");
    retry.Finish();
    rule.retry = std::move(out);
  }
  reader.NotServed("sessionPersistence", "use a DestinationRule with consistentHash");
  reader.Finish();
  return rule;
}

Gateway::Listener ReadListener(const YamlNode* node, ReadContext& context) {
  MapReader reader(node, "spec.listeners", context);
  Gateway::Listener out;
  out.name = reader.String("name");
  out.port = reader.Port("port");
  out.protocol = reader.String("protocol");
  out.hostname = reader.String("hostname");
  MapReader tls = reader.Map("tls");
  for (const YamlNode* ref : tls.Items("certificateRefs")) {
    MapReader certificate(ref, "spec.listeners.tls.certificateRefs", context);
    out.certificate_refs.push_back(certificate.String("name"));
  }
  MapReader namespaces = reader.Map("allowedRoutes").Map("namespaces");
  const std::string from = namespaces.String("from");
  if (from == "All") {
    out.from = Gateway::From::kAll;
  } else if (from == "Selector") {
    out.from = Gateway::From::kSelector;
    out.from_selector = ReadLabelSelector(namespaces.Map("selector"));
  } else if (from == "None") {
    out.from = Gateway::From::kNone;
  } else if (!from.empty() && from != "Same") {
    namespaces.Bad(namespaces.line(), "from", fmt::format("\"{}\" is not a choice", from),
                   "use Same, All, Selector or None");
  }
  if (out.port == 0 && !context.failed) reader.Bad(node->line, "port", "is missing");
  reader.Finish();
  return out;
}

}  // namespace

AnyObject DecodeGatewayClass(ObjectMeta meta, MapReader& root) {
  MapReader spec = root.Map("spec");
  GatewayClass out{std::move(meta), spec.String("controllerName"), false};
  out.has_parameters = spec.Take("parametersRef") != nullptr;
  return out;
}

AnyObject DecodeGateway(ObjectMeta meta, MapReader& root) {
  Gateway gateway;
  gateway.meta = std::move(meta);
  MapReader spec = root.Map("spec");
  gateway.class_name = spec.String("gatewayClassName");
  if (gateway.class_name.empty()) {
    // The status overlay says only status.addresses.
    if (spec.present())
      spec.Bad(spec.line(), "gatewayClassName", "is missing",
               "use qanat-waypoint or istio-waypoint");
  }
  for (const YamlNode* node : spec.Items("listeners")) {
    gateway.listeners.push_back(ReadListener(node, root.context()));
  }
  for (const YamlNode* node : spec.Items("addresses")) {
    MapReader address(node, "spec.addresses", root.context());
    gateway.spec_addresses.push_back(address.String("value"));
  }
  MapReader infrastructure = spec.Map("infrastructure");
  gateway.infrastructure_labels = infrastructure.StringMap("labels");
  gateway.infrastructure_annotations = infrastructure.StringMap("annotations");
  gateway.has_parameters = infrastructure.Take("parametersRef") != nullptr;
  spec.Ignore({"backendTLS", "allowedListeners", "tls", "defaultScope"});
  spec.Finish();
  MapReader status = root.Map("status");
  for (const YamlNode* node : status.Items("addresses")) {
    MapReader address(node, "status.addresses", root.context());
    if (std::string value = address.String("value"); !value.empty()) {
      gateway.status_addresses.push_back(std::move(value));
    }
  }
  return gateway;
}

AnyObject DecodeHttpRoute(ObjectMeta meta, MapReader& root) {
  HttpRoute route;
  const std::string ns = meta.ns;
  route.meta = std::move(meta);
  MapReader spec = root.Map("spec");
  for (const YamlNode* node : spec.Items("parentRefs")) {
    MapReader reader(node, "spec.parentRefs", root.context());
    ParentRef ref;
    ref.group = reader.String("group");
    if (std::string kind = reader.String("kind"); !kind.empty()) ref.kind = std::move(kind);
    ref.ns = reader.String("namespace");
    if (ref.ns.empty()) ref.ns = ns;
    ref.name = reader.String("name");
    ref.section = reader.String("sectionName");
    ref.port = reader.Port("port");
    reader.Finish();
    if (ref.name.empty()) reader.Bad(node->line, "name", "is missing");
    route.parents.push_back(std::move(ref));
  }
  route.hostnames = spec.Strings("hostnames");
  for (const YamlNode* node : spec.Items("rules")) {
    route.rules.push_back(ReadRule(node, ns, root.context()));
  }
  spec.Finish();
  return route;
}

}  // namespace qanat::controlplane
