// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/folder_source.h"

#include <sys/inotify.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "agent/files/notify.h"
#include "common/base/log.h"

namespace qanat::agent {
namespace {

constexpr auto kRescanEvery = std::chrono::seconds(5);
constexpr auto kRescanUnwatched = std::chrono::milliseconds(500);
constexpr size_t kMaxFileBytes = 1 << 20;

}  // namespace

FolderSource::FolderSource(event::EventLoop& loop, std::string dir,
                           std::set<std::string> excluded_namespaces)
    : loop_(loop), dir_(std::move(dir)), excluded_(std::move(excluded_namespaces)) {}

Status FolderSource::Start(PodListener* listener) {
  listener_ = listener;
  std::error_code error;
  std::filesystem::create_directories(dir_, error);
  if (!std::filesystem::is_directory(dir_, error))
    return Fail(Code::kNotFound, "--pod-source folder:" + dir_ + ": " +
                                     (error ? error.message() : "it is not a folder"));
  inotify_ = OpenInotify(dir_, "half a second");
  const bool watched = AddInotifyWatch(
      inotify_, dir_, IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_ONLYDIR,
      "half a second", true);
  if (watched)
    watch_ = std::make_unique<event::IoWatch>(loop_, inotify_.get(), EPOLLIN,
                                              [this](uint32_t) { OnInotify(); });
  const event::Duration again = watched ? event::Duration(kRescanEvery) : kRescanUnwatched;
  rescan_ = std::make_unique<event::Timer>(loop_, [this, again] {
    Scan();
    rescan_->Start(again);
  });
  rescan_->Start(again);
  Scan();
  listener_->OnSynced();
  return {};
}

void FolderSource::OnInotify() {
  char buffer[8192];
  while (::read(inotify_.get(), buffer, sizeof buffer) > 0) {
  }
  Scan();
}

void FolderSource::Scan() {
  std::set<std::string> present;
  size_t broken = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator it(dir_, error), end; !error && it != end;
       it.increment(error)) {
    const std::filesystem::path path = it->path();
    if (path.extension() != ".json" || !IsSafeUid(path.stem().string())) continue;
    const std::string uid = path.stem().string();
    std::ifstream in(path, std::ios::binary);
    std::string content(std::istreambuf_iterator<char>(in), {});
    if (!in.good() && content.empty()) continue;  // gone between listing and reading
    present.insert(uid);
    Known& known = known_[uid];
    const bool changed = known.content != content;
    Result<Pod> pod =
        content.size() <= kMaxFileBytes
            ? ParsePod(content)
            : Result<Pod>(Fail(Code::kInvalidArgument, "pod: file larger than 1 MiB"));
    if (pod && pod->uid != uid)
      pod = Fail(Code::kInvalidArgument,
                 "pod: \"uid\" is " + pod->uid + ", the file is named " + uid);
    if (!pod) {
      ++broken;
      if (changed)
        LOG_WARN("pods", "{}: {}; the pod stays as it was", path.string(), pod.error().message);
      known.content = std::move(content);
      continue;
    }
    if (!changed) continue;
    known.content = std::move(content);
    known.delivered = true;
    pod->excluded = excluded_.count(pod->ns) > 0;
    listener_->OnPod(*pod);
  }
  broken_ = broken;
  if (error && error != std::errc::no_such_file_or_directory)
    return;  // never "all gone" by mistake
  for (auto it = known_.begin(); it != known_.end();) {
    if (present.count(it->first)) {
      ++it;
      continue;
    }
    const std::string uid = it->first;
    const bool delivered = it->second.delivered;
    it = known_.erase(it);
    if (delivered) listener_->OnPodGone(uid);
  }
}

}  // namespace qanat::agent
