// SPDX-License-Identifier: Apache-2.0
#include "agent/files/notify.h"

#include <sys/inotify.h>

#include <cerrno>
#include <system_error>

#include "common/base/log.h"

namespace qanat::agent {
namespace {

constexpr std::string_view kInstances =
    "raise it on the node: sysctl -w fs.inotify.max_user_instances=8192 "
    "(now in /proc/sys/fs/inotify/max_user_instances)";
constexpr std::string_view kWatches =
    "raise it on the node: sysctl -w fs.inotify.max_user_watches=524288 "
    "(now in /proc/sys/fs/inotify/max_user_watches)";

std::string Text(int error) { return std::generic_category().message(error); }

}  // namespace

Fd OpenInotify(std::string_view what, std::string_view interval) {
  Fd inotify(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!inotify) {
    const int error = errno;
    LOG_WARN("files", "no inotify instance for {}: {}; it is looked at every {} instead{}{}", what,
             Text(error), interval, error == EMFILE ? "; the limit of instances is reached: " : "",
             error == EMFILE ? kInstances : "");
  }
  return inotify;
}

bool AddInotifyWatch(const Fd& inotify, const std::string& path, uint32_t events,
                     std::string_view interval, bool warn) {
  if (!inotify) return false;
  if (::inotify_add_watch(inotify.get(), path.c_str(), events) >= 0) return true;
  const int error = errno;
  if (warn) {
    LOG_WARN("files", "{} cannot be watched: {}; it is looked at every {} instead{}{}", path,
             Text(error), interval, error == ENOSPC ? "; the limit of watches is reached: " : "",
             error == ENOSPC ? kWatches : "");
  }
  return false;
}

}  // namespace qanat::agent
