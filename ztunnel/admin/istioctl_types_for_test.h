// SPDX-License-Identifier: Apache-2.0
// What istioctl's ztunnel-config can read of a /config_dump, as a schema for tests: names and types
// of the Go structs in istio's istioctl/pkg/writer/ztunnel/configdump/api.go, and the ways of Go's
// encoding/json (a value of another type fails the whole dump; keys match without regard to case;
// null leaves a field alone; keys that no field has are passed over).
#pragma once

#include <strings.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace qanat::ztunnel::test {

using Json = nlohmann::json;

class GoType {
 public:
  using Ptr = std::shared_ptr<const GoType>;
  struct Field {
    std::string name;
    Ptr type;
    bool needed = true;  // not "omitempty": istioctl shows it, so it is to be there
  };
  enum class Kind { kAny, kString, kInt, kUint16, kList, kMap, kPortMap, kStruct };

  explicit GoType(Kind kind, Ptr element = nullptr) : kind_(kind), element_(std::move(element)) {}
  explicit GoType(std::vector<Field> fields) : kind_(Kind::kStruct), fields_(std::move(fields)) {}

  // What json.Unmarshal would refuse, and what would silently be missing, with the way to it.
  void Check(const Json& value, const std::string& at, std::vector<std::string>& problems) const {
    const auto wrong = [&](const char* wanted) {
      problems.push_back(at + ": cannot unmarshal " + value.dump().substr(0, 60) + " into " +
                         wanted);
    };
    if (value.is_null() || kind_ == Kind::kAny) return;
    switch (kind_) {
      case Kind::kAny: return;
      case Kind::kString:
        if (!value.is_string()) wrong("string");
        return;
      case Kind::kInt:
        if (!value.is_number_integer()) wrong("int");
        return;
      case Kind::kUint16:
        if (!value.is_number_unsigned() || value.get<uint64_t>() > 65535) wrong("uint16");
        return;
      case Kind::kList:
        if (!value.is_array()) return wrong("a list");
        for (size_t i = 0; i < value.size(); ++i) {
          element_->Check(value[i], at + "[" + std::to_string(i) + "]", problems);
        }
        return;
      case Kind::kMap:
      case Kind::kPortMap:
        if (!value.is_object()) return wrong("a map");
        for (const auto& [key, item] : value.items()) {
          if (kind_ == Kind::kPortMap &&
              (key.empty() || key.size() > 5 || key.find_first_not_of("0123456789") != key.npos ||
               std::stoul(key) > 65535)) {
            problems.push_back(at + ": key \"" + key + "\" is no uint16");
          }
          element_->Check(item, at + "." + key, problems);
        }
        return;
      case Kind::kStruct:
        if (!value.is_object()) return wrong("a struct");
        return CheckFields(value, at, problems);
    }
  }

 private:
  void CheckFields(const Json& value, const std::string& at,
                   std::vector<std::string>& problems) const {
    for (const auto& [key, item] : value.items()) {
      for (const Field& field : fields_) {
        if (strcasecmp(key.c_str(), field.name.c_str()) != 0) continue;
        if (key != field.name) problems.push_back(at + "." + key + ": another case than Go's tag");
        field.type->Check(item, at + "." + key, problems);
      }
    }
    for (const Field& field : fields_) {
      if (field.needed && !value.contains(field.name))
        problems.push_back(at + ": no " + field.name);
    }
  }

  Kind kind_;
  Ptr element_;
  std::vector<Field> fields_;
};

inline GoType::Ptr ZtunnelDumpType() {
  using Kind = GoType::Kind;
  const auto of = [](Kind kind) { return std::make_shared<const GoType>(kind); };
  const auto list = [](GoType::Ptr e) { return std::make_shared<const GoType>(Kind::kList, e); };
  const auto map = [](GoType::Ptr e) { return std::make_shared<const GoType>(Kind::kMap, e); };
  const auto structure = [](std::vector<GoType::Field> fields) {
    return std::make_shared<const GoType>(std::move(fields));
  };
  const auto text = of(Kind::kString), port = of(Kind::kUint16), any = of(Kind::kAny);
  const auto texts = list(text), ports = list(port);
  const auto gateway = structure({{"destination", text}});
  const auto workload = structure(
      {{"uid", text},
       {"workloadIps", texts},
       {"waypoint", gateway, false},
       {"networkGateway", gateway, false},
       {"protocol", text},
       {"name", text},
       {"namespace", text},
       {"serviceAccount", text},
       {"workloadName", text},
       {"workloadType", text},
       {"canonicalName", text},
       {"canonicalRevision", text},
       {"clusterId", text},
       {"trustDomain", text, false},
       {"locality",
        structure({{"region", text, false}, {"zone", text, false}, {"subzone", text, false}}),
        false},
       {"node", text},
       {"network", text, false},
       {"status", text},
       {"hostname", text},
       {"applicationTunnel", structure({{"protocol", text}, {"port", port, false}}), false},
       {"authorizationPolicies", texts, false}});
  const auto endpoint = structure({{"workloadUid", text},
                                   {"service", text},
                                   {"address", text, false},
                                   {"port", std::make_shared<const GoType>(Kind::kPortMap, port)}});
  const auto service = structure(
      {{"name", text},
       {"namespace", text},
       {"hostname", text},
       {"vips", texts},
       {"ports", map(of(Kind::kInt))},
       {"loadBalancer",
        structure({{"mode", text}, {"routingPreferences", texts}, {"healthPolicy", text}}), false},
       {"waypoint", gateway, false},
       {"endpoints", map(endpoint)},
       {"subjectAltNames", texts, false},
       {"ipFamilies", text}});
  const auto matches = list(structure({{"Exact", text, false},
                                       {"Suffix", text, false},
                                       {"Prefix", text, false},
                                       {"Presence", any, false}}));
  const auto accounts = list(structure({{"namespace", text}, {"serviceAccount", text}}));
  const auto match = structure({{"namespaces", matches, false},
                                {"notNamespaces", matches, false},
                                {"principals", matches, false},
                                {"notPrincipals", matches, false},
                                {"sourceIps", texts, false},
                                {"notSourceIps", texts, false},
                                {"destinationIps", texts, false},
                                {"notDestinationIps", texts, false},
                                {"destinationPorts", ports, false},
                                {"notDestinationPorts", ports, false},
                                {"serviceAccounts", accounts, false},
                                {"notServiceAccounts", accounts, false}});
  const auto policy = structure({{"name", text},
                                 {"namespace", text},
                                 {"scope", text},
                                 {"action", text},
                                 {"rules", list(list(list(match)))}});
  const auto certificate = structure(
      {{"pem", text}, {"serialNumber", text}, {"validFrom", text}, {"expirationTime", text}});
  const auto secret =
      structure({{"identity", text}, {"state", text}, {"certChain", list(certificate)}});
  const auto connections =
      list(structure({{"src", text}, {"originalDst", text}, {"actualDst", text}}));
  const auto state =
      structure({{"state", text},
                 {"connections", structure({{"inbound", connections}, {"outbound", connections}})},
                 {"info", structure({{"name", text},
                                     {"namespace", text},
                                     {"trustDomain", text},
                                     {"serviceAccount", text}})}});
  return structure({{"workloads", list(workload)},
                    {"services", list(service)},
                    {"policies", list(policy)},
                    {"certificates", list(secret)},
                    {"workloadState", map(state)}});
}

// Empty when istioctl can read all of it.
inline std::vector<std::string> WhatIstioctlCannotRead(const Json& dump) {
  std::vector<std::string> problems;
  ZtunnelDumpType()->Check(dump, "dump", problems);
  return problems;
}

}  // namespace qanat::ztunnel::test
