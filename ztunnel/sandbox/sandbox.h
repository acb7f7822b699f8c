// SPDX-License-Identifier: Apache-2.0
// What the proxy gives up for good before it meets anybody: its user, all capabilities but three,
// new privileges, core dumps and debuggers, and every system call that it does not need. Called
// once in main(), before there are threads; what it leaves is what all threads have.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/environment.h"
#include "common/base/log.h"
#include "common/base/result.h"

namespace qanat::ztunnel::sandbox {

struct User {
  uid_t uid = 0;
  gid_t gid = 0;
  bool operator==(const User&) const = default;
};
Result<User> ParseUser(std::string_view text);  // "1337" or "1337:1337"

struct Options {
  bool on = true;              // QANAT_SANDBOX=off leaves all of it out
  std::optional<User> run_as;  // QANAT_RUN_AS=UID[:GID]; else the user that it was started as
  // Folders on the node that the new user needs to write in; those that are not there are not made.
  std::vector<std::string> folders;
};
Result<Options> ReadOptions(const GetEnvironment& get);

// Enter(), or not, and a line in the log that says which.
Status Start(const Options& options, log::Format format);

// In this order, since each step takes away what the next ones do not need:
// the user (groups stay, but for root's), capabilities, new privileges and dumps, then the calls
// that are neither in common/sandbox/calls.h nor in syscalls.h.
// An error names what could not be done; then nothing of the program is to start.
Status Enter(const std::optional<User>& run_as, log::Format format);

// The parts, each on its own.
// Before the user changes: gives a folder of root's (a hostPath is one) to the user's group, closed
// to all others. Needs no capability where the group is one of ours.
Status LendFolder(const std::string& path, const User& to);
// Becomes that user and keeps at most NET_ADMIN, NET_RAW and SYS_ADMIN, of these what it has.
Status DropPrivileges(const std::optional<User>& run_as);

std::string Describe();  // "user 1337:1337, capabilities NET_ADMIN ...", for the log

}  // namespace qanat::ztunnel::sandbox
