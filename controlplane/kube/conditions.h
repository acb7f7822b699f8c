// SPDX-License-Identifier: Apache-2.0
// Conditions as the API server holds them: what is wanted against what is there, so that nothing is
// written that does not change anything, and times change only with the status. Pure.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/yaml/yaml.h"
#include "controlplane/translate/status.h"

namespace qanat::controlplane {

// "2026-11-22T05:22:27Z"
std::string Rfc3339Now();

nlohmann::json ToJson(const YamlNode& node);
// As text. Users' texts may hold bytes that are not UTF-8: never throws for that.
std::string ToText(const nlohmann::json& value);
// Of a map; "" and nullptr when it is not there.
std::string TextAt(const YamlNode* node, std::string_view key);
const YamlNode* At(const YamlNode* node, std::string_view key);

// One condition per type, as lists of the API are keyed: of several, the first bad one gives the
// reason and every message is kept.
std::vector<StatusCondition> OnePerType(const std::vector<StatusCondition>& conditions);

// `observed` is the list that is there (may be nullptr). `generation` 0 is left out.
nlohmann::json ConditionsJson(const std::vector<StatusCondition>& wanted, int64_t generation,
                              const YamlNode* observed, const std::string& now);
// Everything in `wanted` (from ConditionsJson) is there, and of the types of ours nothing else.
bool ConditionsThere(const nlohmann::json& wanted, const YamlNode* observed);

}  // namespace qanat::controlplane
