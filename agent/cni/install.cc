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
#include <iterator>

#include "agent/cni/own_list.h"
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
// Cilium, unless it is told that others may be there (cni.exclusive=false), sets aside what is not
// its own.
constexpr std::string_view kSetAsideByCilium = ".cilium_bak";
// Who takes our list away this often within kLossesWithin will do so again.
constexpr size_t kLosses = 3;
constexpr auto kLossesWithin = std::chrono::seconds(60);
constexpr size_t kMaxPlugin = 256 << 20;

std::string PluginPath(const InstallOptions& options) {
  return options.bin_dir + "/" + std::string(kPluginType);
}

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() > end.size() && text.ends_with(end);
}

std::string OwnListPath(const InstallOptions& options) {
  return options.conf_dir + "/" + std::string(kOwnList);
}

Status RemoveOwnList(const InstallOptions& options) {
  const std::string path = OwnListPath(options);
  QANAT_RETURN_IF_ERROR(RemoveFile(path));
  return RemoveFile(path + std::string(kSetAsideByCilium));
}

// Others' files as they were before us: those after `after` by name.
Status RestoreOthers(const std::string& dir, std::string_view after) {
  Status first;
  auto keep = [&](Status status) {
    if (!status && first) first = std::move(status);
  };
  std::error_code error;
  std::vector<std::string> saved;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error))
    if (EndsWith(it->path().string(), kSaved) && it->path().filename().string() > after)
      saved.push_back(it->path().string());
  for (const std::string& path : saved) {
    const std::string original = path.substr(0, path.size() - kSaved.size());
    // A newer original of its owner's wins over what we kept.
    if (::access(original.c_str(), F_OK) == 0)
      keep(RemoveFile(path));
    else if (::rename(path.c_str(), original.c_str()) != 0)
      keep(FailErrno("restore " + original));
    keep(RemoveFile(WrappedName(original)));
  }
  for (const NamedText& file : ReadConfs(dir)) {
    if (file.name <= after || !HasEntry(file.text)) continue;
    const std::string path = dir + "/" + file.name;
    auto without = RemoveEntry(file.text);
    if (!without)
      keep(Fail(without.error().Annotate(path)));
    else
      keep(
          WriteFileAtomically(path, *without, WriteOptions{.mode = ModeOf(path), .durable = true}));
  }
  return first;
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
  std::string own;
  std::erase_if(files, [&](NamedText& file) {
    if (file.name != kOwnList) return false;
    own = std::move(file.text);
    return true;
  });
  std::vector<ConfigFile> texts;
  bool ours = HasEntry(own);
  for (const auto& file : files) {
    texts.push_back({options_.conf_dir + "/" + file.name, file.text});
    ours |= HasEntry(file.text);
  }
  const std::string other = JudgeCniChain(texts);
  if (on_other_mesh_) on_other_mesh_(other);
  files = WithoutOutdated(files);
  if (!other.empty() && !ours) return Fail(Code::kFailedPrecondition, other);
  if (options_.own_list && own_list_refused_.empty()) {
    NoteWhoTakesTheListAway(own);
    if (own_list_refused_.empty()) {
      Status done = EnsureOwnList(files, own);
      if (done || done.error().code != Code::kAlreadyExists) return done;
      own_list_refused_ = done.error().message;
    }
    LOG_WARN("cni",
             "no list of our own ({}): {}. Our entry is kept in the primary configuration instead; "
             "a network plugin that writes it anew when the node starts opens new pods until this "
             "agent is there",
             OwnListPath(options_), own_list_refused_);
  }
  QANAT_RETURN_IF_ERROR(EnsureIn(files, FormatEntry(options_.settings)));
  return RemoveOwnList(options_);
}

Status Installer::EnsureIn(const std::vector<NamedText>& files, const std::string& entry) {
  const std::string primary = PrimaryOf(files);
  if (primary.empty())
    return Fail(Code::kUnavailable,
                "no CNI configuration in " + options_.conf_dir +
                    " yet: waiting for the cluster's network plugin to write it (another folder? "
                    "--cni-conf-dir)");
  const std::string path = options_.conf_dir + "/" + primary;
  auto file = std::find_if(files.begin(), files.end(),
                           [&](const NamedText& f) { return f.name == primary; });
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

Status Installer::EnsureOwnList(const std::vector<NamedText>& files, const std::string& own) {
  // What comes before our list is what the runtime takes.
  std::vector<NamedText> before;
  std::copy_if(files.begin(), files.end(), std::back_inserter(before),
               [](const NamedText& file) { return file.name < kOwnList; });
  const std::string front = PrimaryOf(before);
  if (front != front_) {
    if (!front.empty())
      LOG_WARN(
          "cni",
          "{}/{} comes before our own list by name: unless it calls that, our entry is kept in "
          "it, and its owner may write it without when the node starts",
          options_.conf_dir, front);
    front_ = front;
  }
  for (const NamedText& file : before)
    if (file.name == front && !LeadsToUs(file.text, kOwnList))
      QANAT_RETURN_IF_ERROR(EnsureIn(before, FormatEntry(options_.settings)));

  const std::string path = OwnListPath(options_);
  PluginSettings settings = options_.settings;
  settings.own_list = path;
  auto want = MakeOwnList(files, FormatEntry(settings));
  if (!want && want.error().code == Code::kAlreadyExists) return Fail(want.error());
  const auto now = loop_.now();
  const bool gone = !want && want.error().code == Code::kUnavailable;
  if (!gone) source_gone_.reset();
  if (!want) {
    // A plugin that takes its file away while it is not ready is soon back, and then a pod would be
    // faster than we are.
    if (gone && !own.empty()) {
      if (!source_gone_) source_gone_ = now;
      if (now - *source_gone_ < options_.source_away) return {};
    }
    QANAT_RETURN_IF_ERROR(RemoveOwnList(options_));
    own_since_.reset();
    if (!gone) return Fail(want.error());
    return front.empty() ? EnsureIn({}, "") : Status();
  }
  if (want->text != own) {
    if (!own.empty() && was_complete_)
      LOG_INFO("cni", "{} has changed: {} follows", want->source, path);
    else if (!own.empty())
      LOG_INFO("cni", "{} is not what {} was made of: made anew", want->source, path);
    if (own.empty()) ++repairs_;
    QANAT_RETURN_IF_ERROR(WriteFileAtomically(
        path, want->text,
        WriteOptions{.mode = ModeOf(options_.conf_dir + "/" + want->source), .durable = true}));
  }
  if (!own_since_) own_since_ = now;
  // Not before it is known that nobody takes the list away.
  if (now - *own_since_ < options_.own_settles) return {};
  return RestoreOthers(options_.conf_dir, kOwnList);
}

void Installer::NoteWhoTakesTheListAway(const std::string& own) {
  if (!own_since_ || !own.empty()) return;
  own_since_.reset();
  const auto now = loop_.now();
  losses_.push_back(now);
  while (now - losses_.front() > kLossesWithin) losses_.erase(losses_.begin());
  if (losses_.size() < kLosses) return;
  const bool cilium =
      ::access((OwnListPath(options_) + std::string(kSetAsideByCilium)).c_str(), F_OK) == 0;
  own_list_refused_ =
      cilium
          ? "Cilium takes it away (set cni.exclusive=false in its values, and restart this agent)"
          : "somebody on this node takes it away again and again";
}

Status Installer::Remove(const InstallOptions& options) {
  Status first = RemoveOwnList(options);
  auto keep = [&](Status status) {
    if (!status && first) first = std::move(status);
  };
  keep(RestoreOthers(options.conf_dir, ""));
  if (!options.plugin.empty()) keep(RemoveFile(PluginPath(options)));
  return first;
}

}  // namespace qanat::agent::cni
