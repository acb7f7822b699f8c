// SPDX-License-Identifier: Apache-2.0
// The saved mesh state on disk: one file of common/state/journal's format, readable by its owner
// only. A new process writes a file of its own beside the present one and puts it in the other's
// place when it is complete, so two processes (an upgrade) never write to one file. Blocking calls;
// lives on the thread of SavedState.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/state/crc32c.h"
#include "common/state/journal.h"

namespace qanat::ztunnel {

class StateFile {
 public:
  explicit StateFile(std::string directory) : directory_(std::move(directory)) {}
  ~StateFile();  // an unfinished file goes
  StateFile(const StateFile&) = delete;
  StateFile& operator=(const StateFile&) = delete;

  static std::string PathIn(const std::string& directory) { return directory + "/mesh.state"; }
  // What is there, as it is. kNotFound where there is nothing; an error where others than we could
  // have written it.
  static Result<std::string> Read(const std::string& directory);

  // A new file, beginning with these whole records (of Read(), behind the header).
  Status Begin(std::string_view records, int64_t current_at);
  // Records of a batch; the last of its pieces ends with AppendBatchEnd(). What cannot be written
  // (a full disk) is kept up to a limit and written later; meanwhile the file counts as damaged.
  Status Append(std::string_view records, bool batch_end);
  // All has been received: from now on this file is the one that Read() finds.
  Status Complete(int64_t current_at);
  // The state is still the present one. Puts the file back where another one has taken its place.
  Status Confirm(int64_t current_at);
  Status Sync();  // to the disk
  // Never again: a file that lacks a change must not be found.
  void GiveUp();

  uint64_t size() const { return written_; }
  bool usable() const { return fd_.valid() && !gave_up_; }

 private:
  Status Open();  // a new file under a name of its own
  Status WriteHeader();
  Status Flush();
  Status Replace();  // by a new file with only what still counts
  Status TakePlace();
  void RemoveLeftovers();

  const std::string directory_;
  std::string path_;  // of the file while it is unfinished
  Fd fd_;
  state::JournalHeader header_;  // as it is on disk
  uint64_t written_ = 0;         // bytes of records in the file
  uint32_t checksum_ = 0;        // of those and the backlog
  uint64_t base_ = 0;            // how many of them there were after the last cleaning up
  std::string backlog_;          // to be written
  bool batch_open_ = false;
  bool gave_up_ = false;
};

}  // namespace qanat::ztunnel
