// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/saved_state.h"

#include <fmt/format.h>

#include <future>

#include "common/base/log.h"

namespace qanat::ztunnel {
namespace {

using state::JournalRecord;
using Op = JournalRecord::Op;

constexpr size_t kPiece = 256u << 10;
constexpr size_t kMostQueued = 256u << 20;  // a disk that hangs must not take all memory
constexpr auto kSyncAfter = std::chrono::seconds(1);

int64_t Now() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

SavedState::SavedState(std::string directory)
    : directory_(std::move(directory)), file_(directory_) {
  thread_.loop().Post([this] {
    sync_ = std::make_unique<event::Timer>(thread_.loop(), [this] {
      dirty_ = false;
      if (const Status status = file_.Sync(); !status) {
        LOG_WARN("state", "{}", status.error().message);
      }
    });
  });
}

SavedState::~SavedState() {
  std::promise<void> done;
  thread_.loop().Post([this, &done] {
    sync_.reset();
    done.set_value();
  });
  done.get_future().wait();
  thread_.Stop();
}

Result<SavedState::Loaded> SavedState::Load(state::MeshState& mesh) {
  auto file = StateFile::Read(directory_);
  if (!file) {
    if (file.error().code != Code::kNotFound) ++errors_;
    return Fail(file.error());
  }
  Loaded loaded;
  state::MeshState fresh;
  std::string problem;
  const auto header = state::ReadJournal(*file, [&](const JournalRecord& record) {
    const bool address = record.type == Type::kAddress;
    auto& versions = address ? loaded.addresses : loaded.policies;
    const std::string name(record.name);
    if (record.op == Op::kRemove) {
      versions.erase(name);
      return address ? fresh.RemoveAddress(name) : fresh.RemoveAuthorization(name);
    }
    bool applied = false;
    Status status;
    if (address) {
      status = fresh.UpsertAddress(name, record.bytes);
      applied = status.has_value();
    } else {
      status = fresh.UpsertAuthorization(name, record.bytes, &applied);
    }
    // A part that cannot be had may be what protected something.
    if (!applied && problem.empty()) {
      problem = fmt::format("{} in it cannot be read: {}", name, status.error().message);
    }
    if (record.op == Op::kPutRefused || !status) {
      versions.erase(name);
    } else {
      versions.insert_or_assign(name, std::string(record.version));
    }
  });
  if (!header || !problem.empty()) {
    ++errors_;
    return Fail(
        Code::kInvalidArgument,
        fmt::format("{} is not used, as a part of it would be a mesh without the policies "
                    "that are missing: {}",
                    StateFile::PathIn(directory_), header ? problem : header.error().message));
  }
  fresh.Publish()->ForEachWorkload(
      [&](const model::WorkloadPtr& workload) { loaded.names.push_back(workload->uid); });
  loaded.current_at = std::chrono::system_clock::from_time_t(header->current_at);
  loaded_at_ = header->current_at;
  loaded_ = std::move(*file);
  mesh = std::move(fresh);
  Begin();
  return loaded;
}

void SavedState::Begin() {
  if (std::exchange(begun_, true)) return;
  auto file = std::make_shared<std::string>(std::exchange(loaded_, {}));
  Run([file, at = loaded_at_](StateFile& out) {
    std::string_view records = *file;
    records.remove_prefix(std::min(records.size(), state::kJournalHeaderSize));
    return out.Begin(records, at);
  });
}

void SavedState::Put(Type type, std::string_view name, std::string_view version,
                     std::string_view bytes, bool refused) {
  Record({refused ? Op::kPutRefused : Op::kPut, type, name, version, bytes});
}

void SavedState::Remove(Type type, std::string_view name) {
  Record({Op::kRemove, type, name, {}, {}});
}

void SavedState::Record(const JournalRecord& record) {
  if (stopped_) return;
  Begin();
  state::AppendJournalRecord(record, piece_);
  open_ = true;
  if (piece_.size() >= kPiece) Hand(false);
}

void SavedState::BatchEnd() {
  if (!std::exchange(open_, false)) return;
  state::AppendBatchEnd(piece_);
  Hand(true);
}

void SavedState::Hand(bool batch_end) {
  auto piece = std::make_shared<std::string>(std::exchange(piece_, {}));
  if ((queued_ += piece->size()) > kMostQueued) overflow_ = true;
  if (overflow_) piece->clear();
  Run([this, piece, batch_end](StateFile& file) -> Status {
    queued_ -= piece->size();
    if (overflow_) {
      file.GiveUp();
      return Fail(Code::kResourceExhausted,
                  "the disk does not follow: the state is not saved any more, until a restart");
    }
    return file.Append(*piece, batch_end);
  });
}

void SavedState::Complete() {
  if (stopped_) return;
  Begin();
  Run([now = Now()](StateFile& file) { return file.Complete(now); });
}

void SavedState::Confirm() {
  if (stopped_ || !begun_) return;
  Run([now = Now()](StateFile& file) { return file.Confirm(now); });
}

void SavedState::Stop() { stopped_ = true; }

void SavedState::Run(std::function<Status(StateFile&)> task) {
  thread_.loop().Post([this, task = std::move(task)] {
    const Status status = task(file_);
    if (!status) {
      ++errors_;
      if (!std::exchange(failing_, true)) {
        LOG_ERROR("state", "the mesh state cannot be saved: {}", status.error().message);
      }
    } else if (file_.usable() && std::exchange(failing_, false)) {
      LOG_INFO("state", "the mesh state is saved again");
    }
    if (!std::exchange(dirty_, true)) sync_->Start(kSyncAfter);
  });
}

}  // namespace qanat::ztunnel
