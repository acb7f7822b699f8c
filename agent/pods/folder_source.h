// SPDX-License-Identifier: Apache-2.0
// Pods from a folder of UID.json files, written atomically by rename (qanatctl local does). A file
// that cannot be read keeps the pod's last good state and is reported.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "agent/pods/source.h"
#include "common/base/fd.h"
#include "common/event/event_loop.h"

namespace qanat::agent {

class FolderSource : public PodSource {
 public:
  // Pods of the excluded namespaces are never in the mesh, whatever their labels say.
  FolderSource(event::EventLoop& loop, std::string dir,
               std::set<std::string> excluded_namespaces = {});
  Status Start(PodListener* listener) override;
  size_t broken() const override { return broken_; }

 private:
  struct Known {
    std::string content;  // as last read, good or not
    bool delivered = false;
  };
  void Scan();
  void OnInotify();

  event::EventLoop& loop_;
  std::string dir_;
  std::set<std::string> excluded_;
  PodListener* listener_ = nullptr;
  Fd inotify_;
  std::unique_ptr<event::IoWatch> watch_;
  // inotify may miss what happens while the folder itself is replaced: look again now and then.
  std::unique_ptr<event::Timer> rescan_;
  std::map<std::string, Known> known_;  // by uid
  size_t broken_ = 0;
};

}  // namespace qanat::agent
