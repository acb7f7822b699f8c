// SPDX-License-Identifier: Apache-2.0
#include "controlplane/envoy/rule_compiler.h"

#include <re2/re2.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "controlplane/envoy/text.h"

namespace qanat::controlplane {
namespace {

using Values = std::vector<std::string>;

// One rule at a time, with all that decides how its values are read.
class RuleCompiler {
 public:
  RuleCompiler(Scope* scope, const AuthorizationPolicy& policy, const PolicyContext& context)
      : scope_(scope), policy_(policy), context_(context) {
    // Of a denial, what is unknown makes it wider; of everything else, narrower.
    wide_ = policy.action == AuthorizationPolicy::Action::kDeny ||
            policy.action == AuthorizationPolicy::Action::kCustom;
  }

  CompiledRule Compile(const AuthorizationPolicy::Rule& rule, std::string name) {
    CompiledRule compiled;
    compiled.name = std::move(name);
    std::vector<Condition> who, what;
    line_ = rule.line;
    if (!rule.unknown.empty()) who.push_back(Unknown("rule field " + rule.unknown.front()));
    for (const auto& condition : rule.when) When(condition, who, what);
    for (const auto& source : rule.from) {
      std::vector<Condition> parts = who;
      parts.push_back(Source(source));
      compiled.principals.push_back(Condition::And(std::move(parts)));
    }
    if (rule.from.empty()) compiled.principals.push_back(Condition::And(who));
    for (const auto& operation : rule.to) {
      std::vector<Condition> parts = what;
      parts.push_back(Operation(operation));
      compiled.permissions.push_back(Condition::And(std::move(parts)));
    }
    if (rule.to.empty()) compiled.permissions.push_back(Condition::And(what));
    return compiled;
  }

 private:
  // A condition that cannot be understood or not be checked here. `negated`: inside a not_ field,
  // where the answer that is safe is the opposite one.
  Condition Unknown(const std::string& what, bool negated = false) {
    if (scope_) {
      scope_->Tell(policy_.meta, line_, "UnsupportedValue",
                   what + (wide_ ? " is not understood: the denial holds without this restriction"
                                 : " is not understood: what depends on it is never allowed"));
    }
    return Condition::Constant(wide_ != negated);
  }

  Condition HttpOnly(const std::string& field, bool negated) {
    if (scope_) {
      scope_->Tell(
          policy_.meta, line_, "UnsupportedValue",
          field + " is only known of HTTP requests, port " + std::to_string(context_.port) +
              " is TCP: " +
              (wide_ ? "the denial holds without it" : "what depends on it is never allowed") +
              "; name the port http-... or set appProtocol if it speaks HTTP");
    }
    return Condition::Constant(wide_ != negated);
  }

  // Values are ORed; the negative list must match none.
  template <typename F>
  Condition Field(const std::string& field, const Values& values, const Values& not_values,
                  const F& one) {
    std::vector<Condition> parts;
    for (const bool negated : {false, true}) {
      const Values& list = negated ? not_values : values;
      if (list.empty()) continue;
      std::vector<Condition> any;
      for (const std::string& value : list) any.push_back(one(field, value, negated));
      Condition condition = Condition::Or(std::move(any));
      parts.push_back(negated ? Condition::Not(std::move(condition)) : std::move(condition));
    }
    return Condition::And(std::move(parts));
  }

  // "a", "a*", "*a", "*"; a star elsewhere has no meaning.
  std::optional<TextMatch> Wildcard(std::string_view value) {
    if (value.empty()) return std::nullopt;
    if (value == "*") return TextMatch{TextMatch::Kind::kPresent, ""};
    const size_t stars = static_cast<size_t>(std::count(value.begin(), value.end(), '*'));
    if (stars == 0) return TextMatch{TextMatch::Kind::kExact, std::string(value)};
    if (stars > 1) return std::nullopt;
    if (value.back() == '*') {
      return TextMatch{TextMatch::Kind::kPrefix, std::string(value.substr(0, value.size() - 1))};
    }
    if (value.front() == '*') {
      return TextMatch{TextMatch::Kind::kSuffix, std::string(value.substr(1))};
    }
    return std::nullopt;
  }

  Condition Bad(const std::string& field, const std::string& value, bool negated) {
    return Unknown(field + ": \"" + value + "\"", negated);
  }

  Condition Principal(const std::string& field, const std::string& value, bool negated) {
    std::optional<TextMatch> match = Wildcard(value);
    if (!match || value.starts_with("spiffe://")) return Bad(field, value, negated);
    switch (match->kind) {
      case TextMatch::Kind::kExact:
      case TextMatch::Kind::kPrefix: match->text.insert(0, "spiffe://"); break;
      case TextMatch::Kind::kPresent: *match = {TextMatch::Kind::kPrefix, "spiffe://"}; break;
      case TextMatch::Kind::kSuffix:
      case TextMatch::Kind::kRegex: break;
    }
    return Condition::Peer(std::move(*match));
  }

  Condition InNamespace(const std::string& field, const std::string& value, bool negated) {
    const std::optional<TextMatch> match = Wildcard(value);
    if (!match || value.find('/') != std::string::npos) return Bad(field, value, negated);
    // Callers of other trust domains do not get through TLS, so that a prefix says it all.
    const std::string root = "spiffe://" + context_.trust_domain + "/ns/";
    switch (match->kind) {
      case TextMatch::Kind::kExact:
        return Condition::Peer({TextMatch::Kind::kPrefix, root + match->text + "/sa/"});
      case TextMatch::Kind::kPrefix:
      case TextMatch::Kind::kPresent:
        return Condition::Peer({TextMatch::Kind::kPrefix, root + match->text});
      case TextMatch::Kind::kSuffix:
      case TextMatch::Kind::kRegex: break;
    }
    return Condition::Peer(
        {TextMatch::Kind::kRegex,
         re2::RE2::QuoteMeta(root) + "[^/]*" + re2::RE2::QuoteMeta(match->text) + "/sa/[^/]+"});
  }

  Condition ServiceAccount(const std::string& field, const std::string& value, bool negated) {
    const size_t slash = value.find('/');
    const std::string ns = slash == std::string::npos ? policy_.meta.ns : value.substr(0, slash);
    const std::string account = slash == std::string::npos ? value : value.substr(slash + 1);
    if (ns.empty() || account.empty() || account.find('/') != std::string::npos ||
        value.find('*') != std::string::npos) {
      return Bad(field, value, negated);
    }
    return Condition::Peer({TextMatch::Kind::kExact,
                            "spiffe://" + context_.trust_domain + "/ns/" + ns + "/sa/" + account});
  }

  Condition RemoteIp(const std::string& field, const std::string& value, bool negated) {
    const Result<net::Cidr> block = net::Cidr::Parse(value);
    return block ? Condition::RemoteIp(*block) : Bad(field, value, negated);
  }

  // A service's addresses are known here. Where they disagree (dual stack), the request decides,
  // and one that called the service by name counts for what is safe.
  Condition DestinationIp(const std::string& field, const std::string& value, bool negated) {
    const Result<net::Cidr> block = net::Cidr::Parse(value);
    if (!block) return Bad(field, value, negated);
    if (context_.addresses.empty()) return Unknown(field + " of a headless service", negated);
    const auto inside = std::count_if(context_.addresses.begin(), context_.addresses.end(),
                                      [&](const auto& ip) { return block->Contains(ip); });
    if (inside == 0) return Condition::Never();
    if (inside == std::ssize(context_.addresses)) return Condition::Any();
    if (wide_ == negated) return Condition::DestinationIp(*block);
    std::vector<Condition> any_address;
    for (const auto& all : {net::Cidr::Parse("0.0.0.0/0"), net::Cidr::Parse("::/0")}) {
      any_address.push_back(Condition::DestinationIp(*all));
    }
    return Condition::Or(
        {Condition::DestinationIp(*block), Condition::Not(Condition::Or(std::move(any_address)))});
  }

  Condition Port(const std::string& field, const std::string& value, bool negated) {
    unsigned port = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), port);
    if (error != std::errc() || end != value.data() + value.size() || port < 1 || port > 65535) {
      return Bad(field, value, negated);
    }
    return Condition::Constant(port == context_.port);
  }

  Condition Header(const std::string& field, const std::string& name, const std::string& value,
                   bool negated) {
    if (!context_.http) return HttpOnly(field, negated);
    std::optional<TextMatch> match = Wildcard(value);
    if (!match || (name != ":method" && !IsHeaderName(name))) return Bad(field, value, negated);
    return Condition::Header(name, std::move(*match));
  }

  // Host names are compared without case; a port in the request's authority does not matter.
  Condition Host(const std::string& field, const std::string& value, bool negated) {
    if (!context_.http) return HttpOnly(field, negated);
    std::optional<TextMatch> match = Wildcard(value);
    if (!match) return Bad(field, value, negated);
    std::vector<Condition> any;
    if (match->kind == TextMatch::Kind::kExact) {
      any.push_back(
          Condition::Header(":authority", {TextMatch::Kind::kPrefix, match->text + ":", true}));
    } else if (match->kind == TextMatch::Kind::kSuffix) {
      any.push_back(Condition::Header(
          ":authority",
          {TextMatch::Kind::kRegex, "(?i).*" + re2::RE2::QuoteMeta(match->text) + ":[0-9]+"}));
    }
    match->ignore_case = match->kind != TextMatch::Kind::kPresent;
    any.insert(any.begin(), Condition::Header(":authority", std::move(*match)));
    return Condition::Or(std::move(any));
  }

  // "/a", "/a/*", "*/a", "*", or a template with {*} (one segment) and {**} (the rest).
  Condition Path(const std::string& field, const std::string& value, bool negated) {
    if (!context_.http) return HttpOnly(field, negated);
    if (value.find_first_of("{}") != std::string::npos) {
      std::string regex;
      for (size_t at = 0; at < value.size();) {
        const std::string_view rest = std::string_view(value).substr(at);
        if (rest.starts_with("{**}")) {
          regex += ".*";
          at += 4;
        } else if (rest.starts_with("{*}")) {
          regex += "[^/]+";
          at += 3;
        } else if (rest.front() == '{' || rest.front() == '}' || rest.front() == '*') {
          return Bad(field, value, negated);
        } else {
          regex += re2::RE2::QuoteMeta(std::string(1, rest.front()));
          ++at;
        }
      }
      return Condition::Path({TextMatch::Kind::kRegex, std::move(regex)});
    }
    std::optional<TextMatch> match = Wildcard(value);
    if (!match) return Bad(field, value, negated);
    if (match->kind == TextMatch::Kind::kPresent) return Condition::Any();
    return Condition::Path(std::move(*match));
  }

  // No waypoint verifies tokens in this version, so that no request has a verified principal or
  // claim; requests that carry a token where one is to be verified are refused as a whole.
  Condition Token(const std::string& field, const std::string&, bool) {
    if (scope_) {
      scope_->Tell(policy_.meta, line_, "UnsupportedValue",
                   field + ": waypoints do not verify tokens in this version: no request has one");
    }
    return Condition::Never();
  }

  Condition Source(const AuthorizationPolicy::Source& source) {
    line_ = source.line;
    const auto bind = [this](auto member) {
      return [this, member](const std::string& field, const std::string& value, bool negated) {
        return (this->*member)(field, value, negated);
      };
    };
    std::vector<Condition> parts = {
        Field("principals", source.principals, source.not_principals,
              bind(&RuleCompiler::Principal)),
        Field("requestPrincipals", source.request_principals, source.not_request_principals,
              bind(&RuleCompiler::Token)),
        Field("namespaces", source.namespaces, source.not_namespaces,
              bind(&RuleCompiler::InNamespace)),
        Field("serviceAccounts", source.service_accounts, source.not_service_accounts,
              bind(&RuleCompiler::ServiceAccount)),
        Field("ipBlocks", source.ip_blocks, source.not_ip_blocks, bind(&RuleCompiler::RemoteIp)),
        Field("remoteIpBlocks", source.remote_ip_blocks, source.not_remote_ip_blocks,
              bind(&RuleCompiler::RemoteIp)),
    };
    for (const std::string& unknown : source.unknown) parts.push_back(Unknown("source." + unknown));
    return Condition::And(std::move(parts));
  }

  Condition Operation(const AuthorizationPolicy::Operation& operation) {
    line_ = operation.line;
    const auto bind = [this](auto member) {
      return [this, member](const std::string& field, const std::string& value, bool negated) {
        return (this->*member)(field, value, negated);
      };
    };
    const auto method = [this](const std::string& field, const std::string& value, bool negated) {
      return Header(field, ":method", value, negated);
    };
    std::vector<Condition> parts = {
        Field("hosts", operation.hosts, operation.not_hosts, bind(&RuleCompiler::Host)),
        Field("ports", operation.ports, operation.not_ports, bind(&RuleCompiler::Port)),
        Field("methods", operation.methods, operation.not_methods, method),
        Field("paths", operation.paths, operation.not_paths, bind(&RuleCompiler::Path)),
    };
    for (const std::string& unknown : operation.unknown) {
      parts.push_back(Unknown("operation." + unknown));
    }
    return Condition::And(std::move(parts));
  }

  void When(const AuthorizationPolicy::Condition& when, std::vector<Condition>& who,
            std::vector<Condition>& what) {
    line_ = when.line;
    const std::string& key = when.key;
    for (const std::string& unknown : when.unknown) who.push_back(Unknown("when." + unknown));
    const auto add = [&](std::vector<Condition>& to, auto member) {
      to.push_back(Field(key, when.values, when.not_values,
                         [&](const std::string& field, const std::string& value, bool negated) {
                           return (this->*member)(field, value, negated);
                         }));
    };
    constexpr std::string_view kHeaderKey = "request.headers[";
    if (when.values.empty() && when.not_values.empty()) {
      who.push_back(Unknown("when " + key + " without values"));
    } else if (key == "source.ip" || key == "remote.ip") {
      add(who, &RuleCompiler::RemoteIp);
    } else if (key == "source.namespace") {
      add(who, &RuleCompiler::InNamespace);
    } else if (key == "source.principal") {
      add(who, &RuleCompiler::Principal);
    } else if (key == "source.serviceAccount") {
      add(who, &RuleCompiler::ServiceAccount);
    } else if (key == "request.auth.principal" || key == "request.auth.audiences" ||
               key == "request.auth.presenter" || key.starts_with("request.auth.claims[")) {
      add(who, &RuleCompiler::Token);
    } else if (key == "destination.ip") {
      add(what, &RuleCompiler::DestinationIp);
    } else if (key == "destination.port") {
      add(what, &RuleCompiler::Port);
    } else if (key.starts_with(kHeaderKey) && key.ends_with("]") &&
               key.size() > kHeaderKey.size() + 1) {
      const std::string name = Lower(
          std::string_view(key).substr(kHeaderKey.size(), key.size() - kHeaderKey.size() - 1));
      who.push_back(Field(key, when.values, when.not_values,
                          [&](const std::string& field, const std::string& value, bool negated) {
                            return Header(field, name, value, negated);
                          }));
    } else {
      who.push_back(Unknown("when key \"" + key + "\""));
    }
  }

  Scope* scope_;
  const AuthorizationPolicy& policy_;
  const PolicyContext& context_;
  bool wide_ = false;
  int line_ = 0;
};

}  // namespace

CompiledRule CompileRule(Scope* notices, const AuthorizationPolicy& policy,
                         const PolicyContext& context, const AuthorizationPolicy::Rule& rule,
                         std::string name) {
  return RuleCompiler(notices, policy, context).Compile(rule, std::move(name));
}

}  // namespace qanat::controlplane
