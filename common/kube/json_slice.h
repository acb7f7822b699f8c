// SPDX-License-Identifier: Apache-2.0
// Finds parts of a JSON text without building a tree: a list of 500 pods is cut into its items, and
// of each item only the metadata is looked at. What is cut out is balanced and its strings end;
// whether it is JSON in every detail is seen by who parses it. Pure. Thread: any.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace qanat::kube {

// Calls `each` with key (as written, without quotes) and value of every member until it returns
// false. False: `text` is no object, or broken before the end or the stop.
bool ForEachMember(std::string_view text,
                   const std::function<bool(std::string_view key, std::string_view value)>& each);
// The same for an array. `null` counts as an empty one, as Go encodes an empty list.
bool ForEachItem(std::string_view text, const std::function<bool(std::string_view item)>& each);

// "" when there is no such member or the text is broken before it.
std::string_view FindMember(std::string_view object, std::string_view key);
// The value of a JSON string, escapes resolved; nothing when it is not a well-formed string.
std::optional<std::string> DecodeString(std::string_view value);
// Both together, "" when absent.
std::string StringMember(std::string_view object, std::string_view key);

struct ObjectMeta {
  std::string name, ns, uid, resource_version, continue_token;
  bool has_kind = false;
  std::string Key() const { return ns.empty() ? name : ns + "/" + name; }
};
// Of an object or of a list; false: broken.
bool ReadMeta(std::string_view object, ObjectMeta& meta);

}  // namespace qanat::kube
