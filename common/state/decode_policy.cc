// SPDX-License-Identifier: Apache-2.0
// Policies. Nothing is dropped: what is not understood is marked, for common/policy to fail closed.
#include <fmt/format.h>

#include "common/proto/authorization.pb.h"
#include "common/state/decode.h"

namespace qanat::state {
namespace {

namespace wire = istio::security;

class PolicyDecoder {
 public:
  explicit PolicyDecoder(model::Policy& out) : out_(out) {}

  void Decode(const wire::Authorization& in) {
    out_.name = in.name();
    out_.ns = in.namespace_();
    out_.dry_run = in.dry_run();
    if (Unknown(in, "the policy") || in.extensions_size() > 0) {
      if (in.extensions_size() > 0) Problem("the policy has extensions");
      out_.not_understood = true;
    }
    switch (in.scope()) {
      case wire::Scope::GLOBAL: out_.scope = model::PolicyScope::kGlobal; break;
      case wire::Scope::NAMESPACE: out_.scope = model::PolicyScope::kNamespace; break;
      case wire::Scope::WORKLOAD_SELECTOR: out_.scope = model::PolicyScope::kSelector; break;
      default:  // an open proto3 enum
        Problem(fmt::format("unknown scope {}", static_cast<int>(in.scope())));
        out_.scope = model::PolicyScope::kNamespace;
        out_.not_understood = true;
    }
    switch (in.action()) {
      case wire::Action::ALLOW: out_.action = model::PolicyAction::kAllow; break;
      case wire::Action::DENY: out_.action = model::PolicyAction::kDeny; break;
      default:  // an open proto3 enum: it may refuse, so it does
        Problem(fmt::format("unknown action {}", static_cast<int>(in.action())));
        out_.action = model::PolicyAction::kDeny;
        out_.not_understood = true;
    }
    for (int i = 0; i < in.rules_size(); ++i) {
      where_ = fmt::format("rule {}", i);
      out_.rules.push_back(ToRule(in.rules(i)));
    }
  }

 private:
  void Problem(std::string what) {
    constexpr size_t kMax = 20;  // enough to repair it by; the text goes to the server
    if (out_.problems.size() < kMax) out_.problems.push_back(std::move(what));
  }
  void ProblemHere(std::string_view what) { Problem(fmt::format("{}: {}", where_, what)); }

  template <typename Message>
  bool Unknown(const Message& message, std::string_view what) {
    const auto& fields = message.GetReflection()->GetUnknownFields(message);
    if (fields.empty()) return false;
    Problem(fmt::format("{} has unknown field number {}", what, fields.field(0).number()));
    return true;
  }

  model::Rule ToRule(const wire::Rule& in) {
    model::Rule out;
    out.not_understood = Unknown(in, where_);
    for (const auto& clause : in.clauses()) out.clauses.push_back(ToClause(clause));
    return out;
  }

  model::Clause ToClause(const wire::Clause& in) {
    model::Clause out;
    out.not_understood = Unknown(in, where_ + ": a clause");
    for (const auto& match : in.matches()) out.matches.push_back(ToMatch(match));
    return out;
  }

  template <typename Out, typename List, typename Convert>
  void Each(std::vector<Out>& out, const List& in, std::string_view field, Convert convert) {
    out.reserve(static_cast<size_t>(in.size()));
    for (const auto& value : in) out.push_back(convert(value, field));
  }

  model::Match ToMatch(const wire::Match& in) {
    model::Match out;
    out.not_understood = Unknown(in, where_ + ": a match");
    if (in.extensions_size() > 0) {
      ProblemHere("a match has extensions");
      out.not_understood = true;
    }
    const auto text = [this](const wire::StringMatch& m, std::string_view f) {
      return ToString(m, f);
    };
    const auto ip = [this](const wire::Address& a, std::string_view f) { return ToIp(a, f); };
    const auto port = [this](uint32_t p, std::string_view f) { return ToPort(p, f); };
    const auto account = [this](const wire::ServiceAccountMatch& m, std::string_view f) {
      return ToAccount(m, f);
    };
    Each(out.namespaces, in.namespaces(), "namespaces", text);
    Each(out.not_namespaces, in.not_namespaces(), "not_namespaces", text);
    Each(out.principals, in.principals(), "principals", text);
    Each(out.not_principals, in.not_principals(), "not_principals", text);
    Each(out.source_ips, in.source_ips(), "source_ips", ip);
    Each(out.not_source_ips, in.not_source_ips(), "not_source_ips", ip);
    Each(out.destination_ips, in.destination_ips(), "destination_ips", ip);
    Each(out.not_destination_ips, in.not_destination_ips(), "not_destination_ips", ip);
    Each(out.destination_ports, in.destination_ports(), "destination_ports", port);
    Each(out.not_destination_ports, in.not_destination_ports(), "not_destination_ports", port);
    Each(out.service_accounts, in.service_accounts(), "service_accounts", account);
    Each(out.not_service_accounts, in.not_service_accounts(), "not_service_accounts", account);
    return out;
  }

  model::StringMatch ToString(const wire::StringMatch& in, std::string_view field) {
    using Kind = model::StringMatch::Kind;
    if (Unknown(in, fmt::format("{}: {}", where_, field))) return {};
    switch (in.match_type_case()) {
      case wire::StringMatch::kExact: return {Kind::kExact, in.exact()};
      case wire::StringMatch::kPrefix: return {Kind::kPrefix, in.prefix()};
      case wire::StringMatch::kSuffix: return {Kind::kSuffix, in.suffix()};
      case wire::StringMatch::kPresence: return {Kind::kPresence, ""};
      case wire::StringMatch::MATCH_TYPE_NOT_SET: break;
    }
    ProblemHere(fmt::format("a value of {} has no kind of match", field));
    return {};
  }

  model::IpMatch ToIp(const wire::Address& in, std::string_view field) {
    const std::string& bytes = in.address();
    const auto ip =
        net::IpAddress::FromBytes({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    if (Unknown(in, fmt::format("{}: {}", where_, field))) return {};
    if (ip.is_set()) {
      // A mapped IPv4 block comes out as IPv4; its length counts from the mapped prefix.
      const bool mapped = bytes.size() == 16 && ip.is_v4();
      if (!mapped || in.length() >= 96) {
        if (auto block = net::Cidr::Make(ip, mapped ? in.length() - 96 : in.length())) {
          return {*block, true};
        }
      }
    }
    ProblemHere(fmt::format("a value of {} is not an address block ({} bytes, length {})", field,
                            bytes.size(), in.length()));
    return {};
  }

  model::PortMatch ToPort(uint32_t port, std::string_view field) {
    if (port <= 65535) return {static_cast<uint16_t>(port), true};
    ProblemHere(fmt::format("{} in {} is not a port", port, field));
    return {};
  }

  model::ServiceAccountMatch ToAccount(const wire::ServiceAccountMatch& in,
                                       std::string_view field) {
    if (Unknown(in, fmt::format("{}: {}", where_, field))) return {};
    if (in.namespace_().empty() || in.serviceaccount().empty()) {
      ProblemHere(fmt::format("a value of {} lacks namespace or name", field));
      return {};
    }
    return {in.namespace_(), in.serviceaccount(), true};
  }

  model::Policy& out_;
  std::string where_;
};

}  // namespace

Result<model::Policy> DecodeAuthorization(std::string_view bytes) {
  wire::Authorization authorization;
  if (bytes.size() > INT32_MAX ||
      !authorization.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Fail(Code::kInvalidArgument, "not an istio.security.Authorization");
  }
  if (authorization.name().empty()) return Fail(Code::kInvalidArgument, "a policy without a name");
  model::Policy policy;
  PolicyDecoder(policy).Decode(authorization);
  return policy;
}

}  // namespace qanat::state
