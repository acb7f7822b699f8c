// SPDX-License-Identifier: Apache-2.0
#include "tests/differential/generator.h"

#include "tests/differential/wire.h"

namespace qanat::differential {
namespace {

const std::vector<std::string> kNamespaceNames = {"shop", "sho", "prod", "istio-system"};
const std::vector<std::string> kAccounts = {"front", "frontend", "end", "default"};
const std::vector<std::string> kTrustDomains = {"cluster.local", "td2"};
const std::vector<uint16_t> kPorts = {80, 8080, 443, 0, 65535};

std::string V4(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
  return {static_cast<char>(a), static_cast<char>(b), static_cast<char>(c), static_cast<char>(d)};
}
std::string Mapped(const std::string& v4) {
  return std::string("\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) + v4;
}

}  // namespace

const std::string& Generator::Namespace() { return random_.Of(kNamespaceNames); }

std::string Generator::Address() {
  if (random_.OneIn(4)) {
    std::string v6("\xfd\0\0\x91\0\0\0\0\0\0\0\0\0\0\0\0", 16);
    v6[7] = static_cast<char>(random_.Below(3));
    v6[15] = static_cast<char>(random_.Below(4));
    return v6;
  }
  const std::string v4 =
      V4(10, 91, static_cast<uint8_t>(random_.Below(3)), static_cast<uint8_t>(random_.Below(8)));
  return random_.OneIn(12) ? Mapped(v4) : v4;
}

Value Generator::MakeValue(int field) {
  Value value;
  switch (field) {
    case kNamespaces:
    case kNotNamespaces:
    case kPrincipals:
    case kNotPrincipals: {
      const bool principal = field == kPrincipals || field == kNotPrincipals;
      std::string full = Namespace();
      if (principal)
        full = random_.Of(kTrustDomains) + "/ns/" + full + "/sa/" + random_.Of(kAccounts);
      value.kind = 1 + static_cast<int>(random_.Below(4));
      const size_t cut = random_.Below(full.size() + 1);
      if (value.kind == kExact) value.a = full;
      if (value.kind == kPrefix) value.a = full.substr(0, cut);
      if (value.kind == kSuffix) value.a = full.substr(cut);
      if (random_.OneIn(25)) value.a = "";
      if (principal && random_.OneIn(25)) value.a = "spiffe://" + value.a;
      if (value.kind == kPresence) value.a = "";
      if (Odd()) {
        random_.OneIn(2) ? void(value.odd = true) : void(value.kind = kNoKind);
      }
      break;
    }
    case kSourceIps:
    case kNotSourceIps:
    case kDestinationIps:
    case kNotDestinationIps: {
      value.a = Address();
      const auto bits = static_cast<uint32_t>(value.a.size() * 8);
      value.number = random_.OneIn(12) ? 0 : bits - static_cast<uint32_t>(random_.Below(14));
      // A mapped block wider than IPv4 is one more that cannot be understood.
      if (value.a.size() == 16 && value.a[11] != 0 && value.number < 96) value.number = 120;
      if (Odd()) {
        switch (random_.Below(4)) {
          case 0: value.odd = true; break;
          case 1: value.a.resize(random_.Below(4)); break;
          case 2: value.number = bits + 1 + static_cast<uint32_t>(random_.Below(300)); break;
          default: value.a = Mapped(V4(10, 91, 0, 1)), value.number = 90; break;
        }
      }
      break;
    }
    case kDestinationPorts:
    case kNotDestinationPorts:
      value.number = random_.Of(kPorts);
      if (Odd()) value.number += 65536 * (1 + static_cast<uint32_t>(random_.Below(3)));
      break;
    default:
      value.a = Namespace();
      value.b = random_.Of(kAccounts);
      if (Odd()) {
        switch (random_.Below(3)) {
          case 0: value.odd = true; break;
          case 1: value.a.clear(); break;
          default: value.b.clear(); break;
        }
      }
  }
  return value;
}

Match Generator::MakeMatch() {
  Match match;
  const size_t fields = random_.OneIn(10) ? 0 : 1 + random_.Below(random_.OneIn(4) ? 5 : 2);
  for (size_t i = 0; i < fields; ++i) {
    const int field = 1 + static_cast<int>(random_.Below(12));
    if (match.fields.contains(field)) continue;
    auto& values = match.fields[field];
    for (size_t n = 1 + random_.Below(3); n > 0; --n) values.push_back(MakeValue(field));
  }
  if (Odd()) random_.OneIn(2) ? void(match.odd = true) : void(match.fields[kExtensions].resize(1));
  return match;
}

Policy Generator::MakePolicy() {
  guesses_left_ = 7;
  Policy policy;
  const std::string key = PolicyKey();
  policy.ns = key.substr(0, key.find('/'));
  policy.name = key.substr(key.find('/') + 1);
  policy.scope = static_cast<int>(random_.Below(3));
  policy.action = random_.OneIn(3) ? 1 : 0;
  policy.dry_run = random_.OneIn(12);
  for (size_t rules = random_.Below(4); rules > 0; --rules) {
    Rule rule;
    for (size_t clauses = random_.OneIn(12) ? 0 : 1 + random_.Below(2); clauses > 0; --clauses) {
      Clause clause;
      for (size_t n = random_.OneIn(15) ? 0 : 1 + random_.Below(3); n > 0; --n) {
        clause.matches.push_back(MakeMatch());
      }
      clause.odd = Odd();
      rule.clauses.push_back(std::move(clause));
    }
    rule.odd = Odd();
    policy.rules.push_back(std::move(rule));
  }
  if (Odd()) {
    switch (random_.Below(3)) {
      case 0: policy.odd = true; break;
      case 1: policy.scope = 3 + static_cast<int>(random_.Below(5)); break;
      default: policy.action = 2 + static_cast<int>(random_.Below(5)); break;
    }
  }
  return policy;
}

std::string Generator::PolicyKey() { return Namespace() + "/p" + std::to_string(random_.Below(3)); }

std::vector<std::string> Generator::NamedPolicies() {
  std::vector<std::string> names;
  while (random_.OneIn(3) && names.size() < 4) names.push_back(PolicyKey());
  return names;
}

Connection Generator::MakeConnection() {
  Connection connection;
  if (!random_.OneIn(5)) {
    connection.caller = {random_.Of(kTrustDomains), Namespace(), random_.Of(kAccounts)};
  }
  connection.source_ip = Address();
  connection.destination_ip = Address();
  connection.port = random_.Of(kPorts);
  return connection;
}

// ---- on the wire

namespace {

constexpr int kNobodyKnows = 77;

Wire Of(int field, const Value& value) {
  Wire out;
  if (field <= kNotPrincipals) {
    if (value.kind != kNoKind) out.Bytes(value.kind, value.a);
  } else if (field <= kNotDestinationIps) {
    if (!value.a.empty()) out.Bytes(1, value.a);
    if (value.number != 0) out.Number(2, value.number);
  } else if (field >= kServiceAccounts && field < kExtensions) {
    if (!value.a.empty()) out.Bytes(1, value.a);
    if (!value.b.empty()) out.Bytes(2, value.b);
  }
  if (value.odd) out.Number(kNobodyKnows, 1);
  return out;
}

Wire Of(const Match& match, Random& random) {
  Wire out;
  if (match.odd) out.Bytes(kNobodyKnows, "?");
  for (const auto& [field, values] : match.fields) {
    const bool ports = field == kDestinationPorts || field == kNotDestinationPorts;
    if (ports && random.OneIn(2)) {  // repeated numbers come packed or one by one
      Wire packed;
      for (const Value& value : values) packed.Varint(value.number);
      out.Message(field, packed);
      continue;
    }
    for (const Value& value : values) {
      ports ? out.Number(field, value.number) : out.Message(field, Of(field, value));
    }
  }
  return out;
}

}  // namespace

std::string Encode(const Policy& policy, Random& random) {
  Wire out;
  out.Bytes(1, policy.name).Bytes(2, policy.ns);
  if (policy.scope != 0) out.Number(3, static_cast<uint64_t>(policy.scope));
  if (policy.action != 0) out.Number(4, static_cast<uint64_t>(policy.action));
  for (const Rule& rule : policy.rules) {
    Wire rule_out;
    for (const Clause& clause : rule.clauses) {
      Wire clause_out;
      for (const Match& match : clause.matches) clause_out.Message(2, Of(match, random));
      if (clause.odd) clause_out.Number(kNobodyKnows, 0);
      rule_out.Message(1, clause_out);
    }
    if (rule.odd) rule_out.Number(kNobodyKnows, 0);
    out.Message(5, rule_out);
  }
  if (policy.dry_run) out.Number(6, 1);
  if (policy.odd) random.OneIn(2) ? out.Number(kNobodyKnows, 3) : out.Bytes(7, "");
  return out.bytes();
}

std::string EncodeWorkload(const std::string& uid, const std::string& ns,
                           const std::vector<std::string>& policies) {
  Wire workload;
  workload.Bytes(1, "pod").Bytes(2, ns).Bytes(3, V4(10, 91, 0, 1)).Bytes(20, uid);
  for (const std::string& name : policies) workload.Bytes(16, name);
  return Wire().Message(1, workload).bytes();
}

// ---- for people

namespace {

std::string Text(const std::string& bytes) {
  std::string out = "'";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out.push_back(c);
    } else {
      out += "\\x";
      out.push_back("0123456789abcdef"[byte >> 4]);
      out.push_back("0123456789abcdef"[byte & 15]);
    }
  }
  return out + "'";
}

}  // namespace

std::string Describe(const Policy& policy) {
  std::string out = policy.Key() + " scope " + std::to_string(policy.scope) + " action " +
                    std::to_string(policy.action) + (policy.dry_run ? " dry-run" : "") +
                    (policy.odd ? " odd" : "") + "\n";
  for (const Rule& rule : policy.rules) {
    out += std::string("  rule") + (rule.odd ? " odd" : "") + "\n";
    for (const Clause& clause : rule.clauses) {
      out += std::string("    clause") + (clause.odd ? " odd" : "") + "\n";
      for (const Match& match : clause.matches) {
        out += std::string("      match") + (match.odd ? " odd" : "");
        for (const auto& [field, values] : match.fields) {
          out += " field " + std::to_string(field) + " [";
          for (const Value& value : values) {
            out += " " + std::to_string(value.kind) + ":" + Text(value.a) + "," + Text(value.b) +
                   "," + std::to_string(value.number) + (value.odd ? ",odd" : "");
          }
          out += " ]";
        }
        out += "\n";
      }
    }
  }
  return out;
}

std::string Describe(const Connection& connection) {
  const auto& caller = connection.caller;
  return (caller ? caller->trust_domain + "/ns/" + caller->ns + "/sa/" + caller->sa : "plaintext") +
         " from " + Text(connection.source_ip) + " to " + Text(connection.destination_ip) +
         " port " + std::to_string(connection.port);
}

}  // namespace qanat::differential
