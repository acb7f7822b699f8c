// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/migration.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <set>

#include "bpf/user/map.h"
#include "bpf/user/mounts.h"
#include "bpf/user/node_maps.h"
#include "common/base/log.h"

namespace qanat::agent {
namespace {

namespace fs = std::filesystem;

// Is in DIR/next from the first link that is replaced to the last.
constexpr const char* kSwapping = "swapping";
constexpr const char* kAbi = "abi";

// Not carried over: what only its own agent can go on with.
constexpr std::array<std::string_view, 3> kDropped = {"probes", "verdicts", "asked"};
// Written by sockops alone: copied after its replacement, where the new one has put nothing.
constexpr std::array<std::string_view, 2> kLast = {"grants", "flows"};
// Written by the agent and by programs: copied again just before those are replaced. What old
// programs write after that is lost: counts, and slots of DNS servers (the question is asked
// again).
constexpr std::array<std::string_view, 2> kAgain = {"counters", "dns_tables"};

template <size_t N>
bool In(const std::array<std::string_view, N>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Fd OpenPin(const std::string& path) { return Fd(bpf_obj_get(path.c_str())); }

uint32_t MapId(int fd) {
  bpf_map_info info{};
  uint32_t length = sizeof info;
  return bpf_obj_get_info_by_fd(fd, &info, &length) == 0 ? info.id : 0;
}

constexpr const char* kRemedy =
    "what is captured stays captured; run the agent that was here before, or drain the node and "
    "run "
    "qanat-agent --cleanup";

}  // namespace

Result<std::unique_ptr<Migration>> Migration::Plan(const std::string& dir,
                                                   const std::vector<const bpf_object*>& objects) {
  std::unique_ptr<Migration> out(new Migration(dir));
  QANAT_RETURN_IF_ERROR(out->Look(objects));
  QANAT_RETURN_IF_ERROR(out->CheckVersion());
  if (out->changed_.empty()) {
    std::error_code ignored;  // of one that came to its end
    fs::remove_all(out->next_dir(), ignored);
    return nullptr;
  }
  for (const Item& item : out->items_) {
    if (!item.map || item.same || item.name == kAbi || In(kDropped, item.name)) continue;
    if (item.wanted.type == BPF_MAP_TYPE_RINGBUF) continue;
    if (Status fits = bpf::CheckConvertible(item.found, item.wanted); !fits)
      return Fail(fits.error().Annotate("the pinned map " + item.name + " (layout " +
                                        std::to_string(out->version_) +
                                        ") cannot be taken over by this agent (layout " +
                                        std::to_string(QANAT_ABI_VERSION) + "): " + kRemedy));
  }
  for (Item& item : out->items_) {
    if (item.name != "grants" || !item.map || item.same) continue;
    const bpf::Leaf* pod = item.found.ValueLeaf("pod_id");
    const bpf::Leaf* generation = item.found.ValueLeaf("generation");
    const bpf::Leaf* time = item.found.ValueLeaf("time_ns");
    const bpf::Leaf* kind = item.found.ValueLeaf("kind");
    if (!pod || !generation || !time || item.found.key != item.wanted.key)
      return Fail(Code::kFailedPrecondition,
                  std::string("grants of the pinned layout cannot be read: ") + kRemedy);
    out->before_ = {
        1, pod->offset, generation->offset, time->offset, kind ? kind->offset : 0, kind != nullptr};
    out->grants_before_.Reset(::fcntl(item.map.get(), F_DUPFD_CLOEXEC, 0));
  }
  return out;
}

Status Migration::Look(const std::vector<const bpf_object*>& objects) {
  std::set<std::string> seen;
  for (const bpf_object* object : objects) {
    const bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object) {
      const std::string name = bpf_map__name(map);
      if (bpf_map__is_internal(map) || !bpf_map__pin_path(map) || !seen.insert(name).second)
        continue;
      Item item;
      item.name = name;
      QANAT_ASSIGN_OR_RETURN(item.wanted, bpf::LayoutOf(object, map));
      item.map = OpenPin(dir_ + "/maps/" + name);
      if (!item.map && errno != ENOENT) return FailErrno("open pinned map " + name);
      if (item.map) {
        QANAT_ASSIGN_OR_RETURN(item.found, bpf::LayoutOf(item.map.get()));
        item.same = bpf::SameLayout(item.found, item.wanted);
        if (!item.same) changed_.push_back(name);
        if (name == kAbi) item.same = false;  // each layout has its own
      }
      items_.push_back(std::move(item));
    }
  }
  return {};
}

Status Migration::CheckVersion() {
  const Fd abi = OpenPin(dir_ + "/maps/" + kAbi);
  if (!abi) {
    version_ = 1;
    return {};
  }
  bpf_map_info info{};
  uint32_t length = sizeof info;
  if (bpf_obj_get_info_by_fd(abi.get(), &info, &length) != 0) return FailErrno("map info of abi");
  std::vector<char> value(std::max<size_t>(info.value_size, sizeof(qanat_abi)));
  const uint32_t zero = 0;
  QANAT_ASSIGN_OR_RETURN(const bool found, bpf::LookupRaw(abi.get(), &zero, value.data()));
  qanat_abi made{};
  if (found) std::memcpy(&made, value.data(), sizeof made);
  version_ = made.version;  // 0: whoever made it did not come far
  if (made.version > QANAT_ABI_VERSION && made.oldest > QANAT_ABI_VERSION)
    return Fail(Code::kFailedPrecondition,
                "the maps pinned in " + dir_ + " are of layout " + std::to_string(made.version) +
                    ", which agents older than layout " + std::to_string(made.oldest) +
                    " cannot take over, and this one is of layout " +
                    std::to_string(QANAT_ABI_VERSION) + ": " + kRemedy);
  return {};
}

// Is DIR/next what an agent like us was replacing programs with?
bool Migration::MayGoOn() const {
  if (::access(NextPath(kSwapping).c_str(), F_OK) != 0) return false;
  for (const Item& item : items_) {
    const Fd pin = OpenPin(NextPath(item.name));
    if (!pin) return false;
    if (item.map && item.same) {
      if (MapId(pin.get()) != MapId(item.map.get())) return false;
      continue;
    }
    auto layout = bpf::LayoutOf(pin.get());
    if (!layout || !bpf::SameLayout(*layout, item.wanted)) return false;
  }
  return true;
}

Status Migration::Stage() {
  QANAT_RETURN_IF_ERROR(EndLease());
  goes_on_ = MayGoOn();
  if (goes_on_) {
    LOG_WARN("hooks", "goes on with a change of layout that an earlier agent did not finish");
    return {};
  }
  std::error_code error;
  fs::remove_all(next_dir(), error);
  if (error) return Fail(Code::kIo, "remove " + next_dir() + ": " + error.message());
  QANAT_RETURN_IF_ERROR(bpf::EnsureBpfDir(next_dir()));
  for (const Item& item : items_)
    if (item.map && item.same && bpf_obj_pin(item.map.get(), NextPath(item.name).c_str()) != 0)
      return FailErrno("pin map " + NextPath(item.name));
  return {};
}

// Old programs may still let connections past the proxy by verdicts that nobody keeps.
Status Migration::EndLease() {
  for (const Item& item : items_) {
    if (item.name != "direct" || !item.map || item.same) continue;
    const bpf::Leaf* until = item.found.ValueLeaf("lease_until");
    const bpf::Leaf* on = item.found.ValueLeaf("on");
    std::vector<char> value(item.found.value_size);
    const uint32_t zero = 0;
    QANAT_RETURN_IF_ERROR(bpf::LookupRaw(item.map.get(), &zero, value.data()));
    for (const bpf::Leaf* leaf : {until, on})
      if (leaf) std::memset(value.data() + leaf->offset, 0, leaf->size);
    QANAT_RETURN_IF_ERROR(bpf::UpdateRaw(item.map.get(), &zero, value.data(), 0));
  }
  return {};
}

Status Migration::Copy(const Item& item, bool only_absent) const {
  const Fd to = OpenPin(NextPath(item.name));
  if (!to) return FailErrno("open pinned map " + NextPath(item.name));
  Status done = bpf::CopyEntries(item.map.get(), item.found, to.get(), item.wanted, only_absent);
  if (!done) return Fail(done.error().Annotate("carry over map " + item.name));
  return {};
}

Status Migration::Fill() {
  if (goes_on_) return {};  // programs have written there since
  for (const Item& item : items_) {
    if (!item.map || item.same || item.name == kAbi || In(kDropped, item.name) ||
        In(kLast, item.name) || item.wanted.type == BPF_MAP_TYPE_RINGBUF)
      continue;
    QANAT_RETURN_IF_ERROR(Copy(item, false));
  }
  return {};
}

Status Migration::BeginSwap() {
  if (goes_on_) return {};
  for (const Item& item : items_)
    if (item.map && !item.same && In(kAgain, item.name)) QANAT_RETURN_IF_ERROR(Copy(item, false));
  const Fd mark = OpenPin(NextPath(kAbi));
  if (!mark || bpf_obj_pin(mark.get(), NextPath(kSwapping).c_str()) != 0)
    return FailErrno("pin " + NextPath(kSwapping));
  return {};
}

Status Migration::Commit() {
  QANAT_ASSIGN_OR_RETURN(bpf::Fence fence, bpf::Fence::Make());
  QANAT_RETURN_IF_ERROR(fence.Wait());  // no old program runs any more
  for (const Item& item : items_)
    if (item.map && !item.same && In(kLast, item.name))
      if (Status done = Copy(item, true); !done) LOG_WARN("hooks", "{}", done.error().message);
  ::unlink(NextPath(kSwapping).c_str());
  const std::string maps = dir_ + "/maps";
  if (::renameat2(AT_FDCWD, next_dir().c_str(), AT_FDCWD, maps.c_str(), RENAME_EXCHANGE) != 0)
    return FailErrno("exchange " + next_dir() + " and " + maps);
  std::error_code error;
  fs::remove_all(next_dir(), error);
  if (error) LOG_WARN("hooks", "remove {}: {}", next_dir(), error.message());
  return {};
}

}  // namespace qanat::agent
