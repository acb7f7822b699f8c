// SPDX-License-Identifier: Apache-2.0
// Who may be the proxy: whoever talks at its sockets gets the pods' namespaces. And the folder of
// these sockets.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <optional>
#include <string>

#include "common/base/result.h"

namespace qanat::agent::zds {

// Root may, and of the others who fits all that is set here; nobody does when nothing is.
struct ProxyUser {
  std::optional<gid_t> group = std::nullopt;  // whose the sockets are, too
  std::optional<uid_t> user = std::nullopt;
  std::string cgroup = "";  // its path, as in /proc/PID/cgroup; it and those below

  Status Admit(const ucred& who) const;
};

// Makes the folder, if there is none, and closes it to all but root and the group: 0750. A folder
// that holds something else than sockets (and our dns/) is used by others too, stays as it is, and
// is an error that names the remedy.
Status CloseSocketFolder(const std::string& path, std::optional<gid_t> group);

}  // namespace qanat::agent::zds
