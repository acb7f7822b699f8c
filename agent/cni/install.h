// SPDX-License-Identifier: Apache-2.0
// Keeps our CNI plugin on the node: its binary and its entry, in a list of our own (own_list.h) or
// in the primary configuration. What others write into the folder is repaired from within a second;
// at the end exactly what is ours is taken away. Lives on the agent's loop.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
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
  // A list of our own; others' files stay as they are. Else, and where somebody takes it away or
  // calls it himself, the entry is in the primary's file.
  bool own_list = true;
  // Entries in others' files go when our list has stood for this long.
  std::chrono::milliseconds own_settles{10000};
  // For how long our list stays without the file that it was made of.
  std::chrono::milliseconds source_away{60000};
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
  // The entry in the first of the files.
  Status EnsureIn(const std::vector<NamedText>& files, const std::string& entry);
  // kAlreadyExists: it would go round in circles.
  Status EnsureOwnList(const std::vector<NamedText>& files, const std::string& own);
  void NoteWhoTakesTheListAway(const std::string& own);
  void Watch();

  event::EventLoop& loop_;
  InstallOptions options_;
  std::function<void(const std::string&)> on_other_mesh_;
  std::string problem_ = "not started";
  bool was_complete_ = false;
  bool compared_ = false;  // the binary on the node with ours, byte by byte
  uint64_t repairs_ = 0;
  std::optional<event::TimePoint> own_since_;  // our list is where we put it
  std::string own_list_refused_;               // why there is none; "" while there may be one
  std::string front_;  // the file before our list; "" when that is the first
  std::vector<event::TimePoint> losses_;
  std::optional<event::TimePoint> source_gone_;
  Fd inotify_;
  std::set<std::string> unwatched_;  // folders of which inotify tells nothing
  std::unique_ptr<event::IoWatch> watch_;
  event::Timer ensure_;
};

}  // namespace qanat::agent::cni
