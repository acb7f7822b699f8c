// SPDX-License-Identifier: Apache-2.0
// The folder source: every *.yaml, *.yml and *.json below a directory, watched by inotify, and a
// second directory with the status overlay. A change is read as soon as its file is closed; nothing
// is ever forgotten because a file or the directory cannot be read. Lives on one loop.
//
// With `keep`, a copy of each file as it was last good is kept in that directory: a control plane
// that starts while a file is broken takes the copy, instead of telling the mesh that the file's
// policies are gone.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/base/fd.h"
#include "common/event/event_loop.h"
#include "controlplane/source/source.h"
#include "controlplane/source/store.h"

namespace qanat::controlplane {

// One directory tree: which files there are and whether they changed since last seen.
class FolderScanner {
 public:
  FolderScanner(std::string root, ObjectStore::Layer layer, std::string keep)
      : root_(std::move(root)), layer_(layer), keep_(std::move(keep)) {}
  // Reads what changed into the store. True when anything did. A file written to a moment ago is
  // left for later (pending()) unless it is in `closed`: half a file may be valid YAML, too.
  // nullptr: read everything.
  bool Scan(ObjectStore& store, const std::set<std::string>* closed);
  bool pending() const { return pending_; }
  // Directories of the last scan, for the watch.
  const std::vector<std::string>& directories() const { return directories_; }
  const std::string& root() const { return root_; }

 private:
  struct Stamp {
    uint64_t inode = 0;
    int64_t size = 0;
    int64_t modified_ns = 0;
    int64_t changed_ns = 0;
    auto operator<=>(const Stamp&) const = default;
  };
  struct Found {
    std::set<std::string> files;
    std::vector<std::string> unreadable;  // directories whose content is not known just now
  };
  void Walk(const std::string& directory, int depth, Found& found, ObjectStore& store);
  bool ReadIfChanged(const std::string& path, ObjectStore& store);
  void Take(const std::string& path, const std::string& text, bool first, ObjectStore& store);
  std::string CopyOf(const std::string& path) const;

  const std::string root_;
  const ObjectStore::Layer layer_;
  const std::string keep_;
  std::map<std::string, Stamp> seen_;
  std::set<std::string> unreadable_;
  std::vector<std::string> directories_;
  const std::set<std::string>* closed_ = nullptr;
  bool changed_ = false;
  bool pending_ = false;
};

class FolderSource : public Source {
 public:
  // `overlay` may be "": none. An overlay directory that is not there yet is waited for.
  FolderSource(event::EventLoop& loop, std::string folder, std::string overlay,
               std::string keep = {});
  ~FolderSource() override;
  Status Start(std::function<void()> on_change) override;
  SourceSnapshot Snapshot() const override { return store_.Assemble(); }
  void CatchUp() override;
  void ScanNow();  // what a file event leads to; for tests

 private:
  void Watch();
  void OnInotify();

  event::EventLoop& loop_;
  ObjectStore store_;
  std::vector<FolderScanner> scanners_;
  Fd inotify_;
  std::unique_ptr<event::IoWatch> watch_;
  event::Timer settle_;
  event::Timer recheck_;
  std::map<int, std::string> watched_;  // inotify's number -> directory
  std::set<std::string> closed_;        // files whose writer has closed them since the last scan
  bool watches_ran_out_ = false;
  std::function<void()> on_change_;
};

}  // namespace qanat::controlplane
