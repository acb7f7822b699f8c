// SPDX-License-Identifier: Apache-2.0
#include "controlplane/envoy/condition.h"

namespace qanat::controlplane {

Condition Condition::Peer(TextMatch match) {
  Condition condition = Leaf(Kind::kPeer);
  condition.match = std::move(match);
  return condition;
}

Condition Condition::Header(std::string name, TextMatch match) {
  Condition condition = Leaf(Kind::kHeader);
  condition.name = std::move(name);
  condition.match = std::move(match);
  return condition;
}

Condition Condition::Path(TextMatch match) {
  Condition condition = Leaf(Kind::kPath);
  condition.match = std::move(match);
  return condition;
}

Condition Condition::RemoteIp(net::Cidr block) {
  Condition condition = Leaf(Kind::kRemoteIp);
  condition.block = block;
  return condition;
}

Condition Condition::DestinationIp(net::Cidr block) {
  Condition condition = Leaf(Kind::kDestinationIp);
  condition.block = block;
  return condition;
}

Condition Condition::And(std::vector<Condition> parts) {
  Condition all = Leaf(Kind::kAnd);
  for (Condition& part : parts) {
    if (part.kind == Kind::kNever) return Never();
    if (part.kind == Kind::kAny) continue;
    if (part.kind == Kind::kAnd) {
      for (Condition& inner : part.parts) all.parts.push_back(std::move(inner));
    } else {
      all.parts.push_back(std::move(part));
    }
  }
  if (all.parts.empty()) return Any();
  if (all.parts.size() == 1) return Condition(all.parts.front());
  return all;
}

Condition Condition::Or(std::vector<Condition> parts) {
  Condition any = Leaf(Kind::kOr);
  for (Condition& part : parts) {
    if (part.kind == Kind::kAny) return Any();
    if (part.kind == Kind::kNever) continue;
    if (part.kind == Kind::kOr) {
      for (Condition& inner : part.parts) any.parts.push_back(std::move(inner));
    } else {
      any.parts.push_back(std::move(part));
    }
  }
  if (any.parts.empty()) return Never();
  if (any.parts.size() == 1) return Condition(any.parts.front());
  return any;
}

Condition Condition::Not(Condition part) {
  if (part.kind == Kind::kAny) return Never();
  if (part.kind == Kind::kNever) return Any();
  if (part.kind == Kind::kNot) return Condition(part.parts.front());
  Condition negation = Leaf(Kind::kNot);
  negation.parts.push_back(std::move(part));
  return negation;
}

}  // namespace qanat::controlplane
