// SPDX-License-Identifier: Apache-2.0
#include "agent/cni/own_list.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "agent/files/files.h"

namespace qanat::agent::cni {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConf = 4 << 20;

}  // namespace

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

Result<OwnList> MakeOwnList(const std::vector<NamedText>& files, const std::string& entry) {
  std::vector<NamedText> behind = WithoutOutdated(files);
  std::erase_if(behind, [](const NamedText& file) { return file.name <= kOwnList; });
  OwnList out;
  out.source = PrimaryOf(behind);
  if (out.source.empty())
    return Fail(Code::kUnavailable, "no configuration to put our plugin into");
  const std::string& text = std::find_if(behind.begin(), behind.end(), [&](const NamedText& file) {
                              return file.name == out.source;
                            })->text;
  if (LeadsToUs(text, kOwnList))
    return Fail(Code::kAlreadyExists, out.source + " calls our plugin itself");
  QANAT_ASSIGN_OR_RETURN(const ConfKind kind, KindOf(text));
  std::string list = text;
  if (kind == ConfKind::kSingle) {
    QANAT_ASSIGN_OR_RETURN(list, WrapSingle(text));
  }
  QANAT_ASSIGN_OR_RETURN(list, RemoveEntry(list));
  auto with = InsertEntry(list, entry);
  if (!with) return Fail(with.error().Annotate(out.source));
  out.text = std::move(*with);
  return out;
}

Result<std::string> FollowOwnList(const std::string& path) {
  auto have = ReadFile(path, kMaxConf);
  if (!have) {
    // Taken away meanwhile, as at the end of an agent: not for us to bring back.
    if (have.error().code == Code::kNotFound) return std::string();
    return Fail(have.error());
  }
  const std::string entry = EntryOf(*have);
  if (entry.empty()) return std::string();
  auto want = MakeOwnList(ReadConfs(fs::path(path).parent_path().string()), entry);
  if (!want || want->text == *have) return std::string();
  QANAT_RETURN_IF_ERROR(
      WriteFileAtomically(path, want->text, WriteOptions{.mode = ModeOf(path), .durable = true}));
  return want->source;
}

}  // namespace qanat::agent::cni
