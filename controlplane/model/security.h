// SPDX-License-Identifier: Apache-2.0
// security.istio.io: who may talk to whom.
//
// Fail closed: what the reader did not understand is kept in `unknown` beside the part that held
// it. A translator must treat such a part as never matching in ALLOW and as always matching (for
// the not understood restriction) in DENY. It must never be skipped.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "controlplane/model/gateway_api.h"
#include "controlplane/model/meta.h"

namespace qanat::controlplane {

enum class MtlsMode { kUnset, kDisable, kPermissive, kStrict };

struct PeerAuthentication {
  ObjectMeta meta;
  std::optional<Labels> selector;    // absent and empty are the same: the whole namespace
  MtlsMode mode = MtlsMode::kUnset;  // not understood: read as kStrict
  std::map<uint16_t, MtlsMode> port_modes;

  bool has_selector() const { return selector && !selector->empty(); }
};

struct AuthorizationPolicy {
  enum class Action { kAllow, kDeny, kAudit, kCustom };
  struct Source {
    std::vector<std::string> principals, not_principals;
    std::vector<std::string> request_principals, not_request_principals;
    std::vector<std::string> namespaces, not_namespaces;
    std::vector<std::string> service_accounts, not_service_accounts;  // "ns/sa" or "sa"
    std::vector<std::string> ip_blocks, not_ip_blocks;
    std::vector<std::string> remote_ip_blocks, not_remote_ip_blocks;
    std::vector<std::string> unknown;  // field names
    int line = 0;
  };
  struct Operation {
    std::vector<std::string> hosts, not_hosts;
    std::vector<std::string> ports, not_ports;
    std::vector<std::string> methods, not_methods;
    std::vector<std::string> paths, not_paths;
    std::vector<std::string> unknown;
    int line = 0;
  };
  struct Condition {
    std::string key;
    std::vector<std::string> values, not_values;
    std::vector<std::string> unknown;
    int line = 0;
  };
  struct Rule {
    std::vector<Source> from;     // any; empty: everyone
    std::vector<Operation> to;    // any; empty: everything
    std::vector<Condition> when;  // all
    std::vector<std::string> unknown;
    int line = 0;
  };

  ObjectMeta meta;
  std::optional<Labels> selector;
  std::vector<TargetRef> targets;
  Action action = Action::kAllow;
  std::string provider;  // CUSTOM
  std::vector<Rule> rules;
  bool dry_run = false;  // annotation istio.io/dry-run: "true"
  // Not understood at the top of spec (unknown field, bad action): the policy denies everything
  // that it selects.
  std::vector<std::string> unknown;

  bool has_selector() const { return selector && !selector->empty(); }
};

struct RequestAuthentication {
  struct JwtHeader {
    std::string name;
    std::string prefix;
  };
  struct JwtRule {
    std::string issuer;
    std::vector<std::string> audiences;
    std::string jwks_uri;
    std::string jwks;  // inline
    std::vector<JwtHeader> from_headers;
    std::vector<std::string> from_params;
    std::vector<std::string> from_cookies;
    std::string output_payload_to_header;
    std::vector<std::pair<std::string, std::string>> output_claims;  // header, claim
    bool forward_original_token = false;
    std::optional<Millis> timeout;
    int line = 0;
  };
  ObjectMeta meta;
  std::optional<Labels> selector;
  std::vector<TargetRef> targets;
  std::vector<JwtRule> rules;
  std::vector<std::string> unknown;  // a token cannot be checked: requests with one are refused
};

}  // namespace qanat::controlplane
