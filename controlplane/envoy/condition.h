// SPDX-License-Identifier: Apache-2.0
// A boolean expression over one request: what a rule of an AuthorizationPolicy means, before it
// becomes RBAC. Kept apart from Envoy's messages so that its meaning can be tested by itself.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "common/net/address.h"

namespace qanat::controlplane {

struct TextMatch {
  enum class Kind { kExact, kPrefix, kSuffix, kRegex, kPresent };
  Kind kind = Kind::kExact;
  std::string text;  // kRegex: RE2, the whole value
  bool ignore_case = false;
  bool operator==(const TextMatch&) const = default;
};

// Copyable value. Built by the functions below, which keep it simplified: kAny and kNever appear
// only alone, kAnd and kOr have at least two members.
struct Condition {
  enum class Kind {
    kAny,
    kNever,
    kAnd,
    kOr,
    kNot,
    kPeer,           // the caller's SPIFFE URI
    kHeader,         // `name`, or :authority, :method
    kPath,           // without query
    kRemoteIp,       // the caller's address
    kDestinationIp,  // the address that was called
  };
  Kind kind = Kind::kAny;
  std::vector<Condition> parts;  // kAnd, kOr, kNot
  std::string name;              // kHeader
  TextMatch match;               // kPeer, kHeader, kPath
  net::Cidr block;               // kRemoteIp, kDestinationIp

  static Condition Any() { return {}; }
  static Condition Never() { return Leaf(Kind::kNever); }
  static Condition Constant(bool value) { return value ? Any() : Never(); }
  static Condition Peer(TextMatch match);
  static Condition Header(std::string name, TextMatch match);
  static Condition Path(TextMatch match);
  static Condition RemoteIp(net::Cidr block);
  static Condition DestinationIp(net::Cidr block);
  static Condition And(std::vector<Condition> parts);  // none: kAny
  static Condition Or(std::vector<Condition> parts);   // none: kNever
  static Condition Not(Condition part);

  bool operator==(const Condition&) const = default;

 private:
  static Condition Leaf(Kind kind) {
    Condition condition;
    condition.kind = kind;
    return condition;
  }
};

}  // namespace qanat::controlplane
