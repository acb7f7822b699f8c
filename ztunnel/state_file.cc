// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/state_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <random>
#include <utility>

namespace qanat::ztunnel {
namespace {

using state::kJournalHeaderSize;

constexpr std::string_view kUnfinished = "mesh.state.new-";
constexpr off_t kMostBytes = off_t{1} << 30;
constexpr size_t kMostBacklog = 16u << 20;
constexpr uint64_t kSlack = 1u << 20;  // so much may be superseded before it is worth cleaning up

Status WriteAll(int fd, std::string_view bytes, off_t at) {
  while (!bytes.empty()) {
    const ssize_t n = pwrite(fd, bytes.data(), bytes.size(), at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FailErrno("write the saved state");
    if (n == 0) return Fail(Code::kIo, "write the saved state: nothing was written");
    bytes.remove_prefix(static_cast<size_t>(n));
    at += n;
  }
  return {};
}

Result<std::string> ReadAll(int fd, off_t size) {
  std::string out(static_cast<size_t>(size), '\0');
  size_t have = 0;
  while (have < out.size()) {
    const ssize_t n = pread(fd, out.data() + have, out.size() - have, static_cast<off_t>(have));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FailErrno("read the saved state");
    if (n == 0) break;
    have += static_cast<size_t>(n);
  }
  out.resize(have);
  return out;
}

Status SyncDirectory(const std::string& directory) {
  const Fd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || fsync(fd.get()) != 0) return FailErrno("sync " + directory);
  return {};
}

}  // namespace

Result<std::string> StateFile::Read(const std::string& directory) {
  const std::string path = PathIn(directory);
  const Fd fd(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (!fd) {
    if (errno == ENOENT || errno == ENOTDIR) return Fail(Code::kNotFound, path + " is not there");
    return FailErrno("open " + path);
  }
  struct stat about{};
  if (fstat(fd.get(), &about) != 0) return FailErrno("stat " + path);
  if (!S_ISREG(about.st_mode) || about.st_uid != geteuid() || (about.st_mode & 022) != 0) {
    return Fail(Code::kPermissionDenied,
                path + " is not a file that only this user can write; it is not believed");
  }
  if (about.st_size > kMostBytes) return Fail(Code::kResourceExhausted, path + " is too large");
  return ReadAll(fd.get(), about.st_size);
}

StateFile::~StateFile() {
  if (fd_ && !path_.empty()) unlink(path_.c_str());
}

Status StateFile::Open() {
  if (mkdir(directory_.c_str(), 0700) != 0 && errno != EEXIST)
    return FailErrno("make " + directory_);
  std::random_device random;
  path_ = fmt::format("{}/{}{:08x}{:08x}", directory_, kUnfinished, random(), random());
  fd_.Reset(open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd_) return FailErrno("make " + path_);
  flock(fd_.get(), LOCK_EX | LOCK_NB);  // tells others that somebody is still at it
  return {};
}

// Of processes that were killed while their file was unfinished.
void StateFile::RemoveLeftovers() {
  DIR* folder = opendir(directory_.c_str());
  if (folder == nullptr) return;
  while (const dirent* entry = readdir(folder)) {
    if (!std::string_view(entry->d_name).starts_with(kUnfinished)) continue;
    const std::string path = directory_ + "/" + entry->d_name;
    const Fd fd(open(path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
    if (fd && flock(fd.get(), LOCK_EX | LOCK_NB) == 0) unlink(path.c_str());
  }
  closedir(folder);
}

Status StateFile::Begin(std::string_view records, int64_t current_at) {
  RemoveLeftovers();
  if (Status status = Open(); !status) {
    unlink(PathIn(directory_).c_str());  // it will lack what happens from now on
    return status;
  }
  header_ = {};
  header_.current_at = current_at;
  QANAT_RETURN_IF_ERROR(WriteHeader());
  if (records.empty()) return {};
  const std::string compact = state::CompactRecords(records);
  const Status status = Append(compact, true);
  base_ = written_;
  return status;
}

Status StateFile::WriteHeader() {
  return WriteAll(fd_.get(), state::EncodeJournalHeader(header_), 0);
}

Status StateFile::Append(std::string_view records, bool batch_end) {
  if (gave_up_ || !fd_) return {};  // said when it happened
  checksum_ = state::Crc32c(records, checksum_);
  backlog_.append(records);
  batch_open_ = !batch_end;
  QANAT_RETURN_IF_ERROR(Flush());
  if (batch_open_ || !header_.complete || written_ < 2 * base_ + kSlack) return {};
  return Replace();
}

Status StateFile::Flush() {
  if (backlog_.size() > kMostBacklog) {
    GiveUp();
    return Fail(Code::kResourceExhausted,
                fmt::format("{} MiB could not be written to {}: the state is not saved any more, "
                            "until a restart",
                            kMostBacklog >> 20, directory_));
  }
  // Said before it is done: whoever finds the file in between knows that something is missing.
  if (!std::exchange(header_.appending, true)) {
    if (Status status = WriteHeader(); !status) {
      header_.appending = false;
      return status;
    }
  }
  while (!backlog_.empty()) {
    const ssize_t n = pwrite(fd_.get(), backlog_.data(), backlog_.size(),
                             static_cast<off_t>(kJournalHeaderSize + written_));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FailErrno("write the saved state in " + directory_);
    written_ += static_cast<uint64_t>(n);
    backlog_.erase(0, static_cast<size_t>(n));
  }
  if (batch_open_) return {};
  header_.length = written_;
  header_.checksum = checksum_;
  header_.appending = false;
  if (Status status = WriteHeader(); !status) {
    header_.appending = true;
    return status;
  }
  return {};
}

Status StateFile::Complete(int64_t current_at) {
  if (gave_up_ || !fd_) return {};
  header_.complete = true;
  header_.current_at = current_at;
  QANAT_RETURN_IF_ERROR(WriteHeader());
  return TakePlace();
}

Status StateFile::TakePlace() {
  QANAT_RETURN_IF_ERROR(Sync());
  if (rename(path_.c_str(), PathIn(directory_).c_str()) != 0) return FailErrno("rename " + path_);
  path_.clear();
  return SyncDirectory(directory_);
}

Status StateFile::Confirm(int64_t current_at) {
  if (gave_up_ || !fd_) return {};
  if (!backlog_.empty()) QANAT_RETURN_IF_ERROR(Flush());
  if (!header_.complete || header_.appending) return {};
  header_.current_at = current_at;
  QANAT_RETURN_IF_ERROR(WriteHeader());
  struct stat mine{}, there{};
  if (fstat(fd_.get(), &mine) != 0) return FailErrno("stat the saved state");
  if (stat(PathIn(directory_).c_str(), &there) == 0 && there.st_ino == mine.st_ino &&
      there.st_dev == mine.st_dev) {
    return {};
  }
  return Replace();
}

Status StateFile::Replace() {
  QANAT_ASSIGN_OR_RETURN(const std::string file,
                         ReadAll(fd_.get(), static_cast<off_t>(kJournalHeaderSize + written_)));
  const std::string_view records = std::string_view(file).substr(kJournalHeaderSize);
  if (records.size() != written_ || state::Crc32c(records) != header_.checksum) {
    GiveUp();
    return Fail(Code::kIo, "the saved state reads otherwise than it was written: it is given up");
  }
  const std::string compact = state::CompactRecords(records);
  Fd old = std::move(fd_);
  const auto keep_old = [&](Status status) {
    if (!path_.empty()) unlink(std::exchange(path_, {}).c_str());
    fd_ = std::move(old);
    return status;
  };
  if (Status status = Open(); !status) return keep_old(status);
  state::JournalHeader next = header_;
  next.length = compact.size();
  next.checksum = state::Crc32c(compact);
  Status status = WriteAll(fd_.get(), state::EncodeJournalHeader(next) + compact, 0);
  if (status) status = TakePlace();
  if (!status) return keep_old(status);
  header_ = next;
  written_ = base_ = next.length;
  checksum_ = next.checksum;
  return {};
}

Status StateFile::Sync() {
  if (fd_ && fdatasync(fd_.get()) != 0) return FailErrno("sync the saved state");
  return {};
}

void StateFile::GiveUp() {
  if (std::exchange(gave_up_, true) || !fd_) return;
  backlog_.clear();
  backlog_.shrink_to_fit();
  header_.appending = true;
  (void)WriteHeader();
  struct stat mine{}, there{};
  const std::string path = path_.empty() ? PathIn(directory_) : path_;
  if (fstat(fd_.get(), &mine) == 0 && stat(path.c_str(), &there) == 0 &&
      there.st_ino == mine.st_ino && there.st_dev == mine.st_dev) {
    unlink(path.c_str());
  }
  path_.clear();
}

}  // namespace qanat::ztunnel
