// SPDX-License-Identifier: Apache-2.0
// Reading JSON that others wrote: whatever is missing or of another type reads as empty. For .cc
// files that include the JSON library anyway.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace qanat::ctl {

using Json = nlohmann::json;

inline const nlohmann::json& Get(const nlohmann::json& object, const char* key) {
  static const nlohmann::json none;
  if (!object.is_object()) return none;
  auto it = object.find(key);
  return it == object.end() ? none : *it;
}
inline std::string Str(const nlohmann::json& object, const char* key) {
  const nlohmann::json& value = Get(object, key);
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number() || value.is_boolean()) return value.dump();
  return {};
}
inline bool Bool(const nlohmann::json& object, const char* key) {
  const nlohmann::json& value = Get(object, key);
  return value.is_boolean() && value.get<bool>();
}
// A fraction is no whole number: what is beyond int64_t could not be taken for one.
inline int64_t Int(const nlohmann::json& object, const char* key) {
  const nlohmann::json& value = Get(object, key);
  return value.is_number_integer() ? value.get<int64_t>() : 0;
}
// An array's elements; an empty array when there is none.
inline const nlohmann::json& Items(const nlohmann::json& object, const char* key) {
  static const nlohmann::json none = nlohmann::json::array();
  const nlohmann::json& value = Get(object, key);
  return value.is_array() ? value : none;
}
inline std::vector<std::string> Strings(const nlohmann::json& object, const char* key) {
  std::vector<std::string> out;
  for (const nlohmann::json& item : Items(object, key)) {
    out.push_back(item.is_string() ? item.get<std::string>() : item.dump());
  }
  return out;
}

}  // namespace qanat::ctl
