// SPDX-License-Identifier: Apache-2.0
// Keeps our CNI plugin on the node: its binary, its entry in the primary configuration, its
// kubeconfig. What others write into the folder is repaired from within a second; at the end
// exactly what is ours is taken away. Lives on the agent's loop.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "agent/cni/conflist.h"
#include "agent/detect/other_meshes.h"
#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/event/event_loop.h"

namespace qanat::agent::cni {

struct InstallOptions {
  std::string conf_dir;  // empty: nothing is installed
  std::string bin_dir = "/opt/cni/bin";
  std::string plugin;  // the binary that is copied; empty: bin_dir is left alone
  PluginSettings settings;
};

class Installer {
 public:
  // `on_other_mesh` is told which other mesh's plugin is in the chain, "" when there is none: our
  // entry is then not added (one that is there stays).
  Installer(event::EventLoop& loop, InstallOptions options,
            std::function<void(const std::string&)> on_other_mesh);

  // Puts everything in place now and from now on. What cannot be done yet (no configuration of the
  // primary plugin) is no error: see problem().
  Status Start();
  // "" while the entry and the binary are in place, else what is missing and what to do.
  const std::string& problem() const { return problem_; }
  uint64_t repairs() const { return repairs_; }

  // What a node without us looks like. Also without Start(), as after a crash.
  static Status Remove(const InstallOptions& options);

 private:
  void OnInotify();
  void Ensure();
  Status EnsureBinary();
  Status EnsureEntry();
  void Watch();

  event::EventLoop& loop_;
  InstallOptions options_;
  std::function<void(const std::string&)> on_other_mesh_;
  std::string problem_ = "not started";
  bool was_complete_ = false;
  bool compared_ = false;  // the binary on the node with ours, byte by byte
  uint64_t repairs_ = 0;
  Fd inotify_;
  std::set<std::string> unwatched_;  // folders of which inotify tells nothing
  std::unique_ptr<event::IoWatch> watch_;
  event::Timer ensure_;
};

}  // namespace qanat::agent::cni
