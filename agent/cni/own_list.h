// SPDX-License-Identifier: Apache-2.0
// A list of our own that comes first by name: the primary plugin's list with our entry behind it.
// A network plugin that writes its own file anew (flannel, Calico, Cilium: whenever their pods
// start) does not take our entry out, also while no agent is there to put it back, as on a node
// that has just started. The agent keeps it as the primary's file is; the plugin looks too, since
// that file may change while the agent is away. Stateless; blocking for as long as the disk takes.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "agent/cni/conflist.h"
#include "common/base/result.h"

namespace qanat::agent::cni {

// Before every network plugin's that we know (05-cilium, 10-calico, 10-flannel); behind Multus's
// 00-multus, which calls what comes first after itself: us.
inline constexpr std::string_view kOwnList = "00-qanat-cni.conflist";

// Of a folder: every file that a runtime would look at.
std::vector<NamedText> ReadConfs(const std::string& dir);
mode_t ModeOf(const std::string& path);  // of a file that is not there: 0644

struct OwnList {
  std::string source;  // the file that it is made of
  std::string text;
};
// From the first of the files that come after it by name. kUnavailable: there is none;
// kAlreadyExists: that one leads to us itself, and would go round in circles in our list.
Result<OwnList> MakeOwnList(const std::vector<NamedText>& files, const std::string& entry);

// The plugin's look at the list at `path`, which it was called from: made anew, with the entry that
// is in it, when it is no longer what the folder's other files say. The name of the file that has
// changed; "" when nothing had to be done.
Result<std::string> FollowOwnList(const std::string& path);

}  // namespace qanat::agent::cni
