// SPDX-License-Identifier: Apache-2.0
// envoy.config.listener.v3.Listener -> the table of chains. Only the inner listener of a waypoint
// (internal_listener with a filter chain matcher) says anything to us: the ones that end and begin
// tunnels are Envoy's plumbing, which we have in code.
#include <envoy/config/listener/v3/listener.pb.h>
#include <envoy/extensions/filters/http/fault/v3/fault.pb.h>
#include <envoy/extensions/filters/http/rbac/v3/rbac.pb.h>
#include <envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.pb.h>
#include <envoy/extensions/filters/network/rbac/v3/rbac.pb.h>
#include <envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.pb.h>
#include <envoy/extensions/matching/common_inputs/network/v3/network_inputs.pb.h>
#include <google/protobuf/wrappers.pb.h>
#include <xds/type/matcher/v3/matcher.pb.h>

#include <algorithm>

#include "waypoint/config/decode.h"
#include "waypoint/config/decode_common.h"

namespace qanat::waypoint {
namespace {

namespace listener = envoy::config::listener::v3;
namespace inputs = envoy::extensions::matching::common_inputs::network::v3;
using Hcm = envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
using HttpFault = envoy::extensions::filters::http::fault::v3::HTTPFault;
using HttpRbac = envoy::extensions::filters::http::rbac::v3::RBAC;
using NetworkRbac = envoy::extensions::filters::network::rbac::v3::RBAC;
using TcpProxy = envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
using Matcher = xds::type::matcher::v3::Matcher;

constexpr std::string_view kConnectAuthority = "io.istio.connect_authority";
constexpr int kMaxDepth = 16;

// HTTP filters that change nothing of what we do: metadata, statistics, ALPN inside the tunnel.
bool IgnorableHttpFilter(std::string_view name, std::string_view type) {
  for (std::string_view prefix : {"istio.", "io.istio.", "envoy.filters.http.grpc_stats",
                                  "envoy.filters.http.set_filter_state", "waypoint_"}) {
    if (name.starts_with(prefix)) return true;
  }
  return type.starts_with("io.istio.http.peer_metadata.") || type.starts_with("stats.");
}

Status DecodeHttpFilters(const Hcm& in, const std::string& where, HttpChain& out,
                         Restricted& restricted) {
  bool router = false;
  for (const auto& filter : in.http_filters()) {
    if (filter.disabled()) continue;
    const google::protobuf::Any& any = filter.typed_config();
    std::string_view type = TypeName(any);
    if (router) return Invalid(where + ": a filter after the router");
    if (Is<HttpRbac>(any)) {
      HttpRbac rbac;
      auto rules = std::make_shared<RbacRules>();
      if (rbac.ParseFromString(any.value())) {
        *rules = DecodeHttpRbac(rbac, where + " " + filter.name(), restricted);
      } else {
        return Invalid(fmt::format("{}: {} does not parse", where, filter.name()));
      }
      out.rbac.emplace_back(filter.name(), std::move(rules));
    } else if (Is<HttpFault>(any)) {
      QANAT_ASSIGN_OR_RETURN(HttpFault fault, Unpack<HttpFault>(any));
      QANAT_ASSIGN_OR_RETURN(out.fault, DecodeFault(fault));
      out.fault_filter = true;
    } else if (type == "envoy.extensions.filters.http.cors.v3.Cors") {
      out.cors_filter = true;
    } else if (type == "envoy.extensions.filters.http.router.v3.Router") {
      router = true;
    } else if (!IgnorableHttpFilter(filter.name(), type) && !filter.is_optional()) {
      return Unsupported(fmt::format("{}: HTTP filter {} of type {}", where, filter.name(), type));
    }
  }
  if (!router) return Invalid(where + ": no router filter");
  return {};
}

Result<std::shared_ptr<const HttpChain>> DecodeHttpChain(const Hcm& in, const std::string& where,
                                                         Restricted& restricted) {
  auto out = std::make_shared<HttpChain>();
  switch (in.route_specifier_case()) {
    case Hcm::kRds: out->rds_name = in.rds().route_config_name(); break;
    case Hcm::kRouteConfig: {
      QANAT_ASSIGN_OR_RETURN(out->inline_routes, DecodeRouteTable(in.route_config(), restricted));
      break;
    }
    case Hcm::kScopedRoutes:
    case Hcm::ROUTE_SPECIFIER_NOT_SET: return Unsupported(where + ": no rds and no route_config");
  }
  if (in.codec_type() == Hcm::HTTP3) return Unsupported(where + ": HTTP/3");
  QANAT_RETURN_IF_ERROR(DecodeHttpFilters(in, where, *out, restricted));
  out->path.dot_segments = in.normalize_path().value();
  out->path.merge_slashes = in.merge_slashes();
  switch (static_cast<int>(in.path_with_escaped_slashes_action())) {
    case Hcm::IMPLEMENTATION_SPECIFIC_DEFAULT:
    case Hcm::KEEP_UNCHANGED: break;
    case Hcm::REJECT_REQUEST:
      out->path.escaped_slashes = PathNormalization::EscapedSlashes::kReject;
      break;
    case Hcm::UNESCAPE_AND_FORWARD:
      out->path.escaped_slashes = PathNormalization::EscapedSlashes::kUnescapeAndForward;
      break;
    default:
      return Unsupported(fmt::format("{}: path_with_escaped_slashes_action {}", where,
                                     int(in.path_with_escaped_slashes_action())));
  }
  out->use_remote_address = in.use_remote_address().value();
  out->skip_xff_append = in.skip_xff_append();
  out->xff_trusted_hops = in.xff_num_trusted_hops();
  out->generate_request_id = !in.has_generate_request_id() || in.generate_request_id().value();
  if (!in.server_name().empty()) out->server_name = in.server_name();
  switch (static_cast<int>(in.server_header_transformation())) {
    case Hcm::APPEND_IF_ABSENT:
      out->server_header = HttpChain::ServerHeader::kAppendIfAbsent;
      break;
    case Hcm::PASS_THROUGH: out->server_header = HttpChain::ServerHeader::kPassThrough; break;
    default: out->server_header = HttpChain::ServerHeader::kOverwrite; break;
  }
  // Envoy's defaults where unset: 5 min, and no limit.
  out->stream_idle_timeout = in.has_stream_idle_timeout() ? ToMs(in.stream_idle_timeout())
                                                          : std::chrono::milliseconds(300000);
  out->request_timeout = ToMs(in.request_timeout());
  out->request_headers_timeout = in.has_request_headers_timeout()
                                     ? ToMs(in.request_headers_timeout())
                                     : std::chrono::milliseconds(60000);
  if (in.common_http_protocol_options().has_idle_timeout()) {
    out->idle_timeout = ToMs(in.common_http_protocol_options().idle_timeout());
  }
  if (in.has_max_request_headers_kb()) {
    out->max_header_kb = std::clamp<uint32_t>(in.max_request_headers_kb().value(), 1, 8192);
  }
  out->access_log = in.access_log_size() > 0;
  return out;
}

Result<Chain> DecodeChain(const listener::FilterChain& in, Restricted& restricted) {
  Chain out;
  out.name = in.name();
  const std::string where = "filter chain " + in.name();
  auto tcp = std::make_shared<TcpChain>();
  for (const auto& filter : in.filters()) {
    const google::protobuf::Any& any = filter.typed_config();
    if (out.http || out.tcp) return Invalid(where + ": a filter after the last one");
    if (Is<Hcm>(any)) {
      if (!tcp->rbac.rules.empty()) return Unsupported(where + ": network RBAC before HTTP");
      QANAT_ASSIGN_OR_RETURN(Hcm hcm, Unpack<Hcm>(any));
      QANAT_ASSIGN_OR_RETURN(out.http, DecodeHttpChain(hcm, where, restricted));
    } else if (Is<NetworkRbac>(any)) {
      QANAT_ASSIGN_OR_RETURN(NetworkRbac rbac, Unpack<NetworkRbac>(any));
      RbacRules rules =
          DecodeRbacRules(rbac.has_rules() ? &rbac.rules() : nullptr,
                          rbac.has_shadow_rules() ? &rbac.shadow_rules() : nullptr,
                          rbac.has_matcher(), where + " " + filter.name(), restricted);
      for (Rbac& r : rules.rules) tcp->rbac.rules.push_back(std::move(r));
    } else if (Is<TcpProxy>(any)) {
      QANAT_ASSIGN_OR_RETURN(TcpProxy proxy, Unpack<TcpProxy>(any));
      if (proxy.has_tunneling_config()) return Unsupported(where + ": tunneling_config");
      if (proxy.has_weighted_clusters()) {
        for (const auto& c : proxy.weighted_clusters().clusters()) {
          tcp->clusters.emplace_back(c.name(), c.weight());
        }
      } else {
        tcp->clusters.emplace_back(proxy.cluster(), 1);
      }
      if (proxy.has_idle_timeout()) tcp->idle_timeout = ToMs(proxy.idle_timeout());
      out.tcp = tcp;
    } else if (!filter.name().starts_with("istio.") &&
               filter.name() != "envoy.filters.network.set_filter_state") {
      return Unsupported(
          fmt::format("{}: network filter {} of type {}", where, filter.name(), TypeName(any)));
    }
  }
  if (!out.http && !out.tcp) return Invalid(where + ": neither HTTP nor TCP");
  return out;
}

// Walks the matcher tree and fills the table.
class TableBuilder {
 public:
  TableBuilder(const std::unordered_map<std::string, Chain>& chains, ChainTable& out)
      : chains_(chains), out_(out) {}

  struct Where {
    net::IpAddress ip;
    std::string authority;
    uint32_t port = 0;  // 0: any
    bool anywhere() const { return !ip.is_set() && authority.empty(); }
  };

  Status Walk(const Matcher& in, const Where& where, int depth) {
    if (depth > kMaxDepth) return Invalid("filter_chain_matcher nested too deeply");
    if (in.has_matcher_list()) return Unsupported("filter_chain_matcher with a matcher_list");
    if (in.has_matcher_tree()) QANAT_RETURN_IF_ERROR(Tree(in, where, depth));
    if (in.has_on_no_match() && !sniffed_) {
      QANAT_RETURN_IF_ERROR(OnMatch(in.on_no_match(), where, depth));
    }
    sniffed_ = false;
    return {};
  }

 private:
  using Map = google::protobuf::Map<std::string, Matcher::OnMatch>;

  Status Tree(const Matcher& in, const Where& where, int depth) {
    const auto& tree = in.matcher_tree();
    const google::protobuf::Any& input = tree.input().typed_config();
    if (!tree.has_exact_match_map()) {
      return Unsupported("filter_chain_matcher other than exact_match_map on " +
                         std::string(TypeName(input)));
    }
    const Map& map = tree.exact_match_map().map();
    if (Is<inputs::DestinationIPInput>(input)) {
      for (const auto& [key, next] : map) {
        Where inner = where;
        QANAT_ASSIGN_OR_RETURN(inner.ip, net::IpAddress::Parse(key));
        QANAT_RETURN_IF_ERROR(OnMatch(next, inner, depth));
      }
      return {};
    }
    if (Is<inputs::DestinationPortInput>(input)) {
      for (const auto& [key, next] : map) {
        Where inner = where;
        auto as_address = net::SocketAddress::Parse("0.0.0.0:" + key);
        if (!as_address || as_address->port() == 0) return Invalid("port " + key);
        inner.port = as_address->port();
        QANAT_RETURN_IF_ERROR(OnMatch(next, inner, depth));
      }
      return {};
    }
    if (Is<inputs::FilterStateInput>(input)) {
      QANAT_ASSIGN_OR_RETURN(inputs::FilterStateInput state,
                             Unpack<inputs::FilterStateInput>(input));
      if (state.key() != kConnectAuthority) {
        return Unsupported("filter_chain_matcher on filter state " + state.key());
      }
      for (const auto& [key, next] : map) {
        Where inner = where;
        inner.authority = AsciiLower(key);
        QANAT_RETURN_IF_ERROR(OnMatch(next, inner, depth));
      }
      return {};
    }
    if (Is<inputs::ApplicationProtocolInput>(input)) {
      // Any of the HTTP entries (they name one chain), else on_no_match.
      const Chain* http = nullptr;
      for (const auto& [key, next] : map) {
        if (key.find("http/1") == std::string::npos && key.find("h2") == std::string::npos)
          continue;
        QANAT_ASSIGN_OR_RETURN(http, Named(next));
      }
      const Chain* other = nullptr;
      if (in.has_on_no_match()) {
        QANAT_ASSIGN_OR_RETURN(other, Named(in.on_no_match()));
      }
      if (http == nullptr && other == nullptr) return Invalid("protocol matcher without chains");
      sniffed_ = true;
      return Put(http, other, where);
    }
    return Unsupported("filter_chain_matcher input " + std::string(TypeName(input)));
  }

  Status OnMatch(const Matcher::OnMatch& in, const Where& where, int depth) {
    if (in.has_matcher()) return Walk(in.matcher(), where, depth + 1);
    QANAT_ASSIGN_OR_RETURN(const Chain* chain, Named(in));
    return Put(chain, nullptr, where);
  }

  Result<const Chain*> Named(const Matcher::OnMatch& in) {
    using google::protobuf::StringValue;
    QANAT_ASSIGN_OR_RETURN(StringValue name, Unpack<StringValue>(in.action().typed_config()));
    auto it = chains_.find(name.value());
    if (it == chains_.end()) return Invalid("no filter chain named " + name.value());
    return &it->second;
  }

  Status Put(const Chain* first, const Chain* second, const Where& where) {
    if (where.anywhere()) return Unsupported("filter_chain_matcher without a destination");
    auto chain = std::make_shared<Chain>();
    for (const Chain* c : {first, second}) {
      if (c == nullptr) continue;
      if (chain->name.empty()) chain->name = c->name;
      if (c->http && !chain->http) chain->http = c->http;
      if (c->tcp && !chain->tcp) chain->tcp = c->tcp;
    }
    if (!where.authority.empty()) {
      out_.by_authority[where.authority] = std::move(chain);
    } else if (where.port == 0) {
      out_.by_ip[where.ip] = std::move(chain);
    } else {
      out_.by_address[net::SocketAddress(where.ip, static_cast<uint16_t>(where.port))] =
          std::move(chain);
    }
    return {};
  }

  const std::unordered_map<std::string, Chain>& chains_;
  ChainTable& out_;
  bool sniffed_ = false;
};

// Envoy's ends of tunnels, which this program has in code.
bool IsPlumbing(const listener::Listener& in) {
  for (std::string_view name : {"connect_terminate", "connect_originate", "inner_connect_originate",
                                "outer_connect_originate", "forward_inner_connect"}) {
    if (in.name() == name) return true;
  }
  return false;
}

}  // namespace

Result<Decoded<ListenerConfig>> DecodeListener(std::string_view bytes) {
  listener::Listener in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Invalid("Listener does not parse");
  }
  Decoded<ListenerConfig> out;
  auto config = std::make_shared<ListenerConfig>();
  config->name = in.name();
  out.value = config;
  if (IsPlumbing(in)) return out;
  if (!in.has_internal_listener() || !in.has_filter_chain_matcher()) {
    return Unsupported(
        fmt::format("listener {}: only a waypoint's inner listener (internal_listener with a "
                    "filter_chain_matcher) is served",
                    in.name()));
  }
  std::unordered_map<std::string, Chain> chains;
  for (const auto& fc : in.filter_chains()) {
    QANAT_ASSIGN_OR_RETURN(Chain chain, DecodeChain(fc, out.restricted));
    if (chain.http && !chain.http->rds_name.empty()) {
      config->route_names.insert(chain.http->rds_name);
    }
    std::string name = chain.name;
    if (!chains.emplace(name, std::move(chain)).second) {
      return Invalid("two filter chains are named " + name);
    }
  }
  TableBuilder builder(chains, config->chains);
  QANAT_RETURN_IF_ERROR(builder.Walk(in.filter_chain_matcher(), {}, 0));
  return out;
}

}  // namespace qanat::waypoint
