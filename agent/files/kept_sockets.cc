// SPDX-License-Identifier: Apache-2.0
#include "agent/files/kept_sockets.h"

#include <unistd.h>

#include <filesystem>
#include <utility>

#include "common/base/log.h"

namespace qanat::agent {

KeptSockets::KeptSockets(event::EventLoop& loop, event::Duration look_every)
    : look_every_(look_every), look_(loop, [this] { Look(); }) {
  look_.Start(look_every_);
}

Status KeptSockets::Listen(Kept& kept) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(kept.path).parent_path(), error);
  return kept.listen();
}

Status KeptSockets::Keep(const std::string& path, std::function<Status()> listen) {
  Kept kept{path, std::move(listen)};
  QANAT_RETURN_IF_ERROR(Listen(kept));
  kept_.push_back(std::move(kept));
  return {};
}

void KeptSockets::Look() {
  look_.Start(look_every_);
  for (Kept& kept : kept_) {
    if (::access(kept.path.c_str(), F_OK) == 0) continue;
    if (Status done = Listen(kept); !done) {
      if (!std::exchange(kept.complained, true))
        LOG_ERROR("files", "{} is gone and cannot be made again: {}", kept.path,
                  done.error().message);
      continue;
    }
    kept.complained = false;
    ++restored_;
    LOG_WARN("files", "{} was gone and is there again", kept.path);
  }
  if (on_look_) on_look_();
}

}  // namespace qanat::agent
