// SPDX-License-Identifier: Apache-2.0
#include "agent/cni/install.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "agent/files/files.h"
#include "agent/files/notify.h"
#include "common/base/log.h"

namespace qanat::agent::cni {
namespace {

namespace fs = std::filesystem;

// A writer's file is seen when it is whole; several changes in a row are looked at once.
constexpr auto kSettle = std::chrono::milliseconds(50);
// inotify may miss what happens while a folder itself is replaced, and may not be there at all.
constexpr auto kLookAnyway = std::chrono::milliseconds(1000);
constexpr std::string_view kLookAnywayText = "second";
constexpr std::string_view kSaved = ".qanat-saved";
// A single configuration as a list of ours. Its owner may have a NAME.conflist too, which stays
// his.
constexpr std::string_view kWrapped = "-qanat.conflist";
constexpr size_t kMaxConf = 4 << 20;
constexpr size_t kMaxPlugin = 256 << 20;

std::vector<NamedText> ReadConfs(const std::string& dir) {
  std::vector<NamedText> files;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!IsConfName(name)) continue;
    if (auto text = ReadFile(it->path().string(), kMaxConf)) files.push_back({name, *text});
  }
  return files;
}

mode_t ModeOf(const std::string& path) {
  struct stat s{};
  return ::stat(path.c_str(), &s) == 0 ? s.st_mode & 07777 : 0644;
}

std::string PluginPath(const InstallOptions& options) {
  return options.bin_dir + "/" + std::string(kPluginType);
}

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() > end.size() && text.substr(text.size() - end.size()) == end;
}

std::string WrappedName(const std::string& conf) {
  return conf.substr(0, conf.rfind('.')) + std::string(kWrapped);
}

// Its original is back, so its owner has written a newer one: the list is made anew.
bool IsOutdated(const NamedText& file, const std::vector<NamedText>& files) {
  return EndsWith(file.name, kWrapped) &&
         std::any_of(files.begin(), files.end(), [&](const NamedText& other) {
           return !EndsWith(other.name, ".conflist") && WrappedName(other.name) == file.name;
         });
}

}  // namespace

Installer::Installer(event::EventLoop& loop, InstallOptions options,
                     std::function<void(const std::string&)> on_other_mesh)
    : loop_(loop),
      options_(std::move(options)),
      on_other_mesh_(std::move(on_other_mesh)),
      ensure_(loop, [this] { Ensure(); }) {}

Status Installer::Start() {
  inotify_ = OpenInotify("the node's CNI configuration", kLookAnywayText);
  if (inotify_)
    watch_ = std::make_unique<event::IoWatch>(loop_, inotify_.get(), EPOLLIN,
                                              [this](uint32_t) { OnInotify(); });
  Ensure();
  return {};
}

void Installer::Watch() {
  constexpr uint32_t kEvents = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE |
                               IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
  if (!inotify_) return;
  for (const std::string& dir : {options_.conf_dir, options_.bin_dir}) {  // idempotent
    const bool known = unwatched_.contains(dir);
    if (AddInotifyWatch(inotify_, dir, kEvents, kLookAnywayText, !known))
      unwatched_.erase(dir);
    else
      unwatched_.insert(dir);
  }
}

void Installer::OnInotify() {
  char buffer[8192];
  while (::read(inotify_.get(), buffer, sizeof buffer) > 0) {
  }
  ensure_.Start(kSettle);
}

void Installer::Ensure() {
  Watch();
  const uint64_t before = repairs_;
  Status done = EnsureBinary();
  if (done) done = EnsureEntry();
  const std::string problem = done ? "" : done.error().message;
  if (problem != problem_) {
    if (!problem.empty())
      LOG_WARN("cni", "the CNI plugin is not in place: {}", problem);
    else
      LOG_INFO("cni", "the CNI plugin is in place ({}, {})", options_.conf_dir,
               PluginPath(options_));
  } else if (repairs_ != before && was_complete_) {
    LOG_WARN("cni", "the CNI plugin's entry or binary was missing: repaired");
  }
  problem_ = problem;
  was_complete_ |= problem.empty();
  ensure_.Start(kLookAnyway);
}

Status Installer::EnsureBinary() {
  if (options_.plugin.empty()) return {};
  const std::string path = PluginPath(options_);
  struct stat have{}, want{};
  if (::stat(options_.plugin.c_str(), &want) != 0)
    return FailErrno("the plugin " + options_.plugin + " of this image");
  const bool present = ::stat(path.c_str(), &have) == 0 && have.st_size == want.st_size &&
                       (have.st_mode & 0111) == 0111;
  // The copy carries the original's time: then nothing needs to be read every second. Not the first
  // time: all files of our images have the same time, and two versions may have the same size.
  if (compared_ && present && have.st_mtim.tv_sec == want.st_mtim.tv_sec &&
      have.st_mtim.tv_nsec == want.st_mtim.tv_nsec)
    return {};
  QANAT_ASSIGN_OR_RETURN(const std::string binary, ReadFile(options_.plugin, kMaxPlugin));
  bool same = false;
  if (present)
    if (auto old = ReadFile(path, kMaxPlugin)) same = *old == binary;
  if (!same) {
    ++repairs_;
    QANAT_RETURN_IF_ERROR(
        WriteFileAtomically(path, binary, WriteOptions{.mode = 0755, .durable = true}));
  }
  const timespec times[2] = {want.st_mtim, want.st_mtim};
  (void)::utimensat(AT_FDCWD, path.c_str(), times, 0);
  compared_ = true;
  return {};
}

Status Installer::EnsureEntry() {
  std::vector<NamedText> files = ReadConfs(options_.conf_dir);
  std::vector<ConfigFile> texts;
  bool ours = false;
  for (const auto& file : files) {
    texts.push_back({options_.conf_dir + "/" + file.name, file.text});
    ours |= HasEntry(file.text);
  }
  const std::string other = JudgeCniChain(texts);
  if (on_other_mesh_) on_other_mesh_(other);
  const std::vector<NamedText> all = files;
  std::erase_if(files, [&](const NamedText& file) { return IsOutdated(file, all); });
  const std::string primary = PrimaryOf(files);
  if (primary.empty())
    return Fail(Code::kUnavailable,
                "no CNI configuration in " + options_.conf_dir +
                    " yet: waiting for the cluster's network plugin to write it (another folder? "
                    "--cni-conf-dir)");
  if (!other.empty() && !ours) return Fail(Code::kFailedPrecondition, other);
  const std::string path = options_.conf_dir + "/" + primary;
  auto file = std::find_if(files.begin(), files.end(),
                           [&](const NamedText& f) { return f.name == primary; });
  const std::string entry = FormatEntry(options_.settings);
  const mode_t mode = ModeOf(path);
  QANAT_ASSIGN_OR_RETURN(const ConfKind kind, KindOf(file->text));
  if (kind == ConfKind::kList) {
    auto with = InsertEntry(file->text, entry);
    if (!with) return Fail(with.error().Annotate(path));
    if (*with == file->text) return {};
    ++repairs_;
    return WriteFileAtomically(path, *with, WriteOptions{.mode = mode, .durable = true});
  }
  // A list beside it, which comes first by name, then the single one out of the way.
  auto list = WrapSingle(file->text);
  if (!list) return Fail(list.error().Annotate(path));
  auto with = InsertEntry(*list, entry);
  if (!with) return Fail(with.error().Annotate(path));
  ++repairs_;
  QANAT_RETURN_IF_ERROR(
      WriteFileAtomically(WrappedName(path), *with, WriteOptions{.mode = mode, .durable = true}));
  if (::rename(path.c_str(), (path + std::string(kSaved)).c_str()) != 0)
    return FailErrno("move " + path + " aside");
  return {};
}

Status Installer::Remove(const InstallOptions& options) {
  Status first;
  auto keep = [&](Status status) {
    if (!status && first) first = std::move(status);
  };
  std::error_code error;
  std::vector<std::string> saved;
  for (fs::directory_iterator it(options.conf_dir, error), end; !error && it != end;
       it.increment(error))
    if (EndsWith(it->path().string(), kSaved)) saved.push_back(it->path().string());
  for (const std::string& path : saved) {
    const std::string original = path.substr(0, path.size() - kSaved.size());
    // A newer original of its owner's wins over what we kept.
    if (::access(original.c_str(), F_OK) == 0)
      keep(RemoveFile(path));
    else if (::rename(path.c_str(), original.c_str()) != 0)
      keep(FailErrno("restore " + original));
    keep(RemoveFile(WrappedName(original)));
  }
  for (const NamedText& file : ReadConfs(options.conf_dir)) {
    if (!HasEntry(file.text)) continue;
    const std::string path = options.conf_dir + "/" + file.name;
    auto without = RemoveEntry(file.text);
    if (!without)
      keep(Fail(without.error().Annotate(path)));
    else
      keep(
          WriteFileAtomically(path, *without, WriteOptions{.mode = ModeOf(path), .durable = true}));
  }
  if (!options.plugin.empty()) keep(RemoveFile(PluginPath(options)));
  return first;
}

}  // namespace qanat::agent::cni
