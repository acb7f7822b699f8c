// SPDX-License-Identifier: Apache-2.0
// Keeps the last good version of every object of every file, finds duplicates, and lays the status
// overlay (what kubelet, scheduler and API server would fill in) over what the user wrote. Pure; on
// the thread of its owner.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "controlplane/source/decode.h"
#include "controlplane/source/source.h"

namespace qanat::controlplane {

class ObjectStore {
 public:
  enum class Layer { kUser, kOverlay };

  // A file that did not parse leaves its objects as they were; an object that failed keeps its
  // last good version.
  void Update(Layer layer, const std::string& file, DecodedFile decoded);
  // The file cannot be read just now: its objects stay, the issue is shown.
  void Unreadable(Layer layer, const std::string& file, Issue issue);
  void Remove(Layer layer, const std::string& file);

  SourceSnapshot Assemble() const;

 private:
  struct File {
    std::vector<AnyObject> objects;
    std::vector<Issue> issues;
  };
  using Files = std::map<std::string, File>;
  const Files& FilesOf(Layer layer) const { return layer == Layer::kUser ? user_ : overlay_; }
  Files& FilesOf(Layer layer) { return layer == Layer::kUser ? user_ : overlay_; }

  Files user_;
  Files overlay_;
};

// Both layers from text, as if from the files "user.yaml" and "overlay.yaml".
SourceSnapshot LoadText(std::string_view user, std::string_view overlay = {});

}  // namespace qanat::controlplane
