// SPDX-License-Identifier: Apache-2.0
// Our entry in a node's CNI configuration, as changes of its text: nothing but our entry is added,
// and taking it out gives back the bytes that were there before. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace qanat::agent::cni {

inline constexpr std::string_view kPluginType = "qanat-cni";

// What the plugin is told in its entry.
struct PluginSettings {
  std::string agent_socket = "/var/run/qanat/cni.sock";
  std::string kubeconfig = "/var/lib/qanat/cni-kubeconfig";
  std::string cache = "/var/lib/qanat/pods-cache";
  std::string log_file = "/var/run/qanat/cni.log";
  std::vector<std::string> exclude_namespaces = {"kube-system", "qanat-system"};
  std::string own_list;  // path of the list that the entry is in, when that is ours; "" else
};
std::string FormatEntry(const PluginSettings& settings);  // one line of JSON

// Is this a *.conflist (an object with "plugins") or a *.conf (an object with "type")?
enum class ConfKind { kList, kSingle };
Result<ConfKind> KindOf(std::string_view text);

// Appends the entry as the last plugin; one that is there already with other settings is replaced
// where it stands. The result equals `text` when there is nothing to do. An error, too, for a
// cniVersion that the plugin does not speak.
Result<std::string> InsertEntry(std::string_view conflist, const std::string& entry);
// Takes every entry of ours out. Equals `text` when there is none.
Result<std::string> RemoveEntry(std::string_view conflist);
bool HasEntry(std::string_view conflist);
std::string EntryOf(std::string_view conflist);  // as it stands there; "" when there is none
// Is our plugin below one of its plugins (as Multus carries what it delegates to), or is a file of
// this name mentioned? Our own entry does not count.
bool LeadsToUs(std::string_view conf, std::string_view file);

// A list around a single configuration, without our entry yet: the plugin's own text stays as it
// is.
Result<std::string> WrapSingle(std::string_view conf);

// The file that a runtime takes from the folder: the first by name that is readable JSON of either
// kind; "" when there is none. Names end in .conf, .conflist or .json.
struct NamedText {
  std::string name, text;
};
std::string PrimaryOf(const std::vector<NamedText>& files);
bool IsConfName(std::string_view name);

// A single configuration is set aside and wrapped in a list of this name. Its owner may have a
// NAME.conflist too, which stays his.
std::string WrappedName(const std::string& conf);
// Without those wrapped lists whose original is back: its owner has written a newer one.
std::vector<NamedText> WithoutOutdated(const std::vector<NamedText>& files);

}  // namespace qanat::agent::cni
