// SPDX-License-Identifier: Apache-2.0
#include "controlplane/source/folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "common/base/log.h"
#include "common/tls/crypto.h"

namespace qanat::controlplane {
namespace {

constexpr std::chrono::milliseconds kSettle{5};     // several files written by one command
constexpr std::chrono::seconds kRecheck{2};         // what inotify cannot see: network file systems
constexpr std::chrono::milliseconds kWriting{100};  // not closed, last written to within this
constexpr int64_t kLargestFile = 64 << 20;
constexpr int kDeepest = 16;
constexpr uint32_t kEvents = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE |
                             IN_DELETE_SELF | IN_MOVE_SELF | IN_ATTRIB | IN_ONLYDIR;

bool IsObjectFile(std::string_view name) {
  return !name.starts_with('.') &&
         (name.ends_with(".yaml") || name.ends_with(".yml") || name.ends_with(".json"));
}

int64_t Nanoseconds(const timespec& t) { return t.tv_sec * 1'000'000'000LL + t.tv_nsec; }

Issue FileIssue(const std::string& file, std::string message, std::string remedy) {
  return {Issue::Severity::kError, file, 0, "", std::move(message), std::move(remedy)};
}

}  // namespace

bool FolderScanner::Scan(ObjectStore& store, const std::set<std::string>* closed) {
  closed_ = closed;
  changed_ = false;
  pending_ = false;
  directories_.clear();
  Found found;
  Walk(root_, 0, found, store);
  std::set<std::string> unreadable(found.unreadable.begin(), found.unreadable.end());
  for (auto it = seen_.begin(); it != seen_.end();) {
    const std::string& path = it->first;
    bool keep = found.files.contains(path);
    for (const std::string& directory : unreadable) {
      keep = keep || path.starts_with(directory + "/");
    }
    if (keep) {
      ++it;
      continue;
    }
    store.Remove(layer_, path);
    if (!keep_.empty()) ::unlink(CopyOf(path).c_str());
    changed_ = true;
    it = seen_.erase(it);
  }
  for (const std::string& directory : unreadable_) {
    if (unreadable.contains(directory)) continue;
    store.Remove(layer_, directory);  // only its issue was kept under this name
    changed_ = true;
  }
  changed_ = changed_ || unreadable != unreadable_;
  unreadable_ = std::move(unreadable);
  return changed_;
}

void FolderScanner::Walk(const std::string& directory, int depth, Found& found,
                         ObjectStore& store) {
  DIR* dir = ::opendir(directory.c_str());
  if (dir == nullptr) {
    const int err = errno;
    // A subdirectory that vanished took its files along; anything else hides them for now.
    if (depth > 0 && (err == ENOENT || err == ENOTDIR)) return;
    found.unreadable.push_back(directory);
    if (layer_ == ObjectStore::Layer::kUser) {
      store.Unreadable(
          layer_, directory,
          FileIssue(directory, fmt::format("the folder cannot be read: {}", std::strerror(err)),
                    "restore it or its permissions; its objects stay in force"));
    }
    return;
  }
  directories_.push_back(directory);
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(dir)) names.emplace_back(entry->d_name);
  ::closedir(dir);
  for (const std::string& name : names) {
    if (name.starts_with('.')) continue;
    const std::string path = directory + "/" + name;
    struct stat st{};
    if (::stat(path.c_str(), &st) != 0) continue;
    if (S_ISDIR(st.st_mode)) {
      // Depth ends symbolic links that lead in circles.
      if (depth < kDeepest) Walk(path, depth + 1, found, store);
    } else if (S_ISREG(st.st_mode) && IsObjectFile(name)) {
      found.files.insert(path);
      if (ReadIfChanged(path, store)) changed_ = true;
    }
  }
}

bool FolderScanner::ReadIfChanged(const std::string& path, ObjectStore& store) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat st{};
  if (!fd || ::fstat(fd.get(), &st) != 0) {
    const bool fresh = seen_[path] != Stamp{};
    seen_[path] = {};
    store.Unreadable(layer_, path,
                     FileIssue(path, fmt::format("cannot be read: {}", std::strerror(errno)),
                               "correct its permissions; its objects stay in force"));
    return fresh;
  }
  if (!S_ISREG(st.st_mode)) return false;
  const Stamp stamp{st.st_ino, st.st_size, Nanoseconds(st.st_mtim), Nanoseconds(st.st_ctim)};
  if (const auto it = seen_.find(path); it != seen_.end() && it->second == stamp) return false;
  if (closed_ != nullptr && !closed_->contains(path)) {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    const int64_t age = Nanoseconds(now) - stamp.modified_ns;
    if (age >= 0 && age < std::chrono::nanoseconds(kWriting).count()) {
      pending_ = true;
      return false;
    }
  }
  const bool first = !seen_.contains(path);
  seen_[path] = stamp;
  if (st.st_size > kLargestFile) {
    store.Unreadable(layer_, path,
                     FileIssue(path, "larger than 64 MiB: not read", "split the file"));
    return true;
  }
  std::string text;
  std::array<char, 65536> buffer;
  ssize_t n = 0;
  while ((n = ::read(fd.get(), buffer.data(), buffer.size())) > 0) {
    text.append(buffer.data(), static_cast<size_t>(n));
  }
  if (n < 0) {
    store.Unreadable(layer_, path,
                     FileIssue(path, fmt::format("cannot be read: {}", std::strerror(errno)),
                               "its objects stay in force"));
    return true;
  }
  Take(path, text, first, store);
  return true;
}

std::string FolderScanner::CopyOf(const std::string& path) const {
  return keep_ + "/" + tls::Sha256Hex(path) + ".yaml";
}

void FolderScanner::Take(const std::string& path, const std::string& text, bool first,
                         ObjectStore& store) {
  DecodedFile decoded = DecodeFile(path, text);
  const bool good = decoded.parsed && decoded.unplaced.empty() &&
                    std::none_of(decoded.objects.begin(), decoded.objects.end(),
                                 [](const DecodedObject& object) { return object.failed; });
  if (!keep_.empty() && good) {
    const std::string copy = CopyOf(path);
    std::ofstream(copy + ".new") << text;
    ::rename((copy + ".new").c_str(), copy.c_str());
  } else if (!keep_.empty() && first) {
    std::ifstream in(CopyOf(path));
    std::stringstream kept;
    kept << in.rdbuf();
    if (in.is_open()) store.Update(layer_, path, DecodeFile(path, kept.str()));
  }
  store.Update(layer_, path, std::move(decoded));
}

FolderSource::FolderSource(event::EventLoop& loop, std::string folder, std::string overlay,
                           std::string keep)
    : loop_(loop), settle_(loop, [this] { ScanNow(); }), recheck_(loop, [this] {
        recheck_.Start(kRecheck);
        ScanNow();
      }) {
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  while (overlay.size() > 1 && overlay.back() == '/') overlay.pop_back();
  if (!keep.empty() && ::mkdir(keep.c_str(), 0700) != 0 && errno != EEXIST) {
    LOG_WARN("source", "{} cannot be made ({}): last good files are not kept for the next start",
             keep, std::strerror(errno));
    keep.clear();
  }
  scanners_.emplace_back(std::move(folder), ObjectStore::Layer::kUser, std::move(keep));
  if (!overlay.empty()) {
    scanners_.emplace_back(std::move(overlay), ObjectStore::Layer::kOverlay, std::string());
  }
}

FolderSource::~FolderSource() = default;

Status FolderSource::Start(std::function<void()> on_change) {
  struct stat st{};
  if (::stat(scanners_[0].root().c_str(), &st) != 0 || !S_ISDIR(st.st_mode)) {
    return Fail(Code::kNotFound,
                fmt::format("--source folder:{}: no such directory; give the folder that holds the "
                            "YAML files",
                            scanners_[0].root()));
  }
  inotify_.Reset(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!inotify_) {
    LOG_WARN("source", "inotify is not to be had ({}): changes are seen within {} s",
             std::strerror(errno), kRecheck.count());
  } else {
    watch_ = std::make_unique<event::IoWatch>(loop_, inotify_.get(), EPOLLIN,
                                              [this](uint32_t) { OnInotify(); });
  }
  // The watch stands before the first scan: a file written in between is seen twice, not never.
  Watch();
  for (FolderScanner& scanner : scanners_) scanner.Scan(store_, nullptr);
  Watch();
  on_change_ = std::move(on_change);
  settle_.Start(kSettle);
  recheck_.Start(kRecheck);
  return {};
}

void FolderSource::Watch() {
  if (!inotify_) return;
  std::set<std::string> wanted;
  for (const FolderScanner& scanner : scanners_) {
    wanted.insert(scanner.root());
    wanted.insert(scanner.directories().begin(), scanner.directories().end());
  }
  // Adding a watch again is cheap, and renews it when the directory was replaced by another.
  for (const std::string& directory : wanted) {
    const int number = ::inotify_add_watch(inotify_.get(), directory.c_str(), kEvents);
    if (number >= 0) {
      watched_[number] = directory;
    } else if (errno == ENOSPC && !std::exchange(watches_ran_out_, true)) {
      LOG_WARN("source",
               "no more inotify watches: raise fs.inotify.max_user_watches; changes in "
               "some folders are seen within {} s",
               kRecheck.count());
    }
  }
}

void FolderSource::OnInotify() {
  alignas(inotify_event) std::array<char, 16384> buffer;
  ssize_t n = 0;
  while ((n = ::read(inotify_.get(), buffer.data(), buffer.size())) > 0) {
    for (ssize_t at = 0; at < n;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
      const auto directory = watched_.find(event->wd);
      if ((event->mask & (IN_CLOSE_WRITE | IN_MOVED_TO)) != 0 && event->len > 0 &&
          directory != watched_.end()) {
        closed_.insert(directory->second + "/" + event->name);
      }
    }
  }
  // What else the events say does not matter: the scan compares every file's stamp.
  if (!settle_.armed()) settle_.Start(kSettle);
}

void FolderSource::CatchUp() {
  if (inotify_) OnInotify();
  if (!settle_.armed()) return;
  settle_.Stop();
  ScanNow();
}

void FolderSource::ScanNow() {
  bool changed = false;
  bool pending = false;
  const std::set<std::string> closed = std::exchange(closed_, {});
  for (FolderScanner& scanner : scanners_) {
    changed = scanner.Scan(store_, &closed) || changed;
    pending = pending || scanner.pending();
  }
  Watch();
  if (pending) settle_.Start(kWriting);
  if (changed && on_change_) on_change_();
}

}  // namespace qanat::controlplane
