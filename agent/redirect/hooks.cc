// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/hooks.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>

#include "agent/redirect/hooks_device.h"
#include "agent/redirect/migration.h"
#include "bpf/user/mounts.h"
#include "bpf/user/skeleton.h"
#include "common/base/log.h"
#include "node_hooks.skel.h"
#include "pod_hooks.skel.h"

namespace qanat::agent {
namespace {

using bpf::AttachType;
using bpf::Link;

int LibbpfLog(libbpf_print_level level, const char* format, va_list args) {
  if (level == LIBBPF_DEBUG) return 0;
  char line[1024];
  std::vsnprintf(line, sizeof line, format, args);
  std::string_view text(line);
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  LOG_WARN("bpf", "{}", text);
  return 0;
}

template <typename T>
void SetIp(T& out, const net::IpAddress& ip) {
  const qanat_ip value = bpf::ToKernel(ip);
  std::memcpy(&out, &value, sizeof value);
}

bool IsAttached(const Link& link) {
  auto info = link.Info();
  return info && info->attached;
}

void LeaveOutDevices(pod_hooks* pod) {
  bpf_program__set_autoload(pod->progs.qanat_guard, false);
  bpf_program__set_autoload(pod->progs.qanat_ingress, false);
}

// On a bpffs that has become read-only pins stay, but none can be opened.
bool IsPinned(const std::string& path) {
  auto link = Link::OpenPinned(path);
  return link || (link.error().sys_errno == EROFS && ::access(path.c_str(), F_OK) == 0);
}

uint32_t ProgramId(int fd) {
  bpf_prog_info info{};
  uint32_t length = sizeof info;
  return bpf_obj_get_info_by_fd(fd, &info, &length) == 0 ? info.id : 0;
}

Result<bpf::Skeleton<pod_hooks>> OpenPodPrograms(const std::string& maps_dir, Guard guard,
                                                 const Migration* migration) {
  auto skeleton = bpf::Skeleton<pod_hooks>::Open(maps_dir);
  if (!skeleton) return tl::unexpected(skeleton.error());
  pod_hooks* s = skeleton->get();
  if (guard == Guard::kNone) LeaveOutDevices(s);
  bpf_map* before = s->maps.grants_before;
  bpf_map__set_pin_path(before, nullptr);
  if (migration && migration->grants_before() >= 0) {
    const qanat_before fields = migration->before();
    std::memcpy(&s->rodata->lookup_before, &fields, sizeof fields);
    if (bpf_map__reuse_fd(before, migration->grants_before()) != 0)
      return FailErrno("use the grants of the layout before");
  } else {
    bpf_map__set_autocreate(before, false);  // no instruction that uses it is ever reached
  }
  return skeleton;
}

}  // namespace

struct Hooks::NodePrograms {
  explicit NodePrograms(bpf::Skeleton<node_hooks> s) : skeleton(std::move(s)) {}
  bpf::Skeleton<node_hooks> skeleton;
  struct Entry {
    const char* name;
    bpf_program* program;
    AttachType type;
  };
  std::vector<Entry> Entries() const {
    auto& p = skeleton->progs;
    return {{"connect4", p.qanat_connect4, AttachType::kConnect4},
            {"connect6", p.qanat_connect6, AttachType::kConnect6},
            {"bind4", p.qanat_bind4, AttachType::kBind4},
            {"bind6", p.qanat_bind6, AttachType::kBind6},
            {"sockops", p.qanat_sockops, AttachType::kSockOps},
            {"sendmsg4", p.qanat_sendmsg4, AttachType::kSendMsg4},
            {"sendmsg6", p.qanat_sendmsg6, AttachType::kSendMsg6},
            {"recvmsg4", p.qanat_recvmsg4, AttachType::kRecvMsg4},
            {"recvmsg6", p.qanat_recvmsg6, AttachType::kRecvMsg6},
            {"getpeername4", p.qanat_getpeername4, AttachType::kGetPeerName4},
            {"getpeername6", p.qanat_getpeername6, AttachType::kGetPeerName6}};
  }
};

Hooks::Hooks(std::string dir, int cgroup, Guard guard)
    : dir_(std::move(dir)), maps_dir_(dir_ + "/maps"), cgroup_(cgroup), guard_(guard) {}
Hooks::~Hooks() = default;

Result<std::unique_ptr<Hooks>> Hooks::Open(const std::string& dir, const std::string& cgroup_root,
                                           Guard guard, bool records) {
  libbpf_set_print(LibbpfLog);
  QANAT_RETURN_IF_ERROR(bpf::EnsureBpfDir(dir + "/maps"));
  QANAT_RETURN_IF_ERROR(bpf::EnsureBpfDir(dir + "/links"));
  const int cgroup = ::open(cgroup_root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (cgroup < 0) return FailErrno("open the root cgroup " + cgroup_root);
  std::unique_ptr<Hooks> hooks(new Hooks(dir, cgroup, guard));
  QANAT_RETURN_IF_ERROR(hooks->LoadNode(records));
  return hooks;
}

Status Hooks::LoadNode(bool records) {
  {
    // The others have maps of their own (the listeners, the node's ends).
    auto node = bpf::Skeleton<node_hooks>::Open(maps_dir_);
    if (!node) return tl::unexpected(node.error());
    auto pod = OpenPodPrograms(maps_dir_, guard_, nullptr);
    if (!pod) return tl::unexpected(pod.error());
    auto host = bpf::Skeleton<host_hooks>::Open(maps_dir_);
    if (!host) return tl::unexpected(host.error());
    QANAT_ASSIGN_OR_RETURN(migration_,
                           Migration::Plan(dir_, {(*node)->obj, (*pod)->obj, (*host)->obj}));
  }
  if (migration_) {
    LOG_INFO("hooks", "maps of layout {} are pinned in {}; ours is {}: taking over {} that differ",
             migration_->version(), dir_, QANAT_ABI_VERSION, migration_->changed().size());
    maps_dir_ = migration_->next_dir();
    QANAT_RETURN_IF_ERROR(migration_->Stage());
  }
  auto skeleton = bpf::Skeleton<node_hooks>::Open(maps_dir_);
  if (!skeleton) return tl::unexpected(skeleton.error());
  (*skeleton)->rodata->kernel_has_mptcp = ::access("/proc/sys/net/mptcp", F_OK) == 0 ? 1 : 0;
  (*skeleton)->rodata->record_connections = records ? 1 : 0;
  if (Status loaded = skeleton->Load(); !loaded)
    return Fail(loaded.error().Annotate("the capture programs"));
  node_ = std::make_unique<NodePrograms>(std::move(*skeleton));
  {  // All maps are pinned before any pod.
    auto pod = OpenPodPrograms(maps_dir_, guard_, migration_.get());
    if (!pod) return tl::unexpected(pod.error());
    QANAT_RETURN_IF_ERROR(pod->Load());
  }
  QANAT_RETURN_IF_ERROR(LoadHost());
  if (migration_) QANAT_RETURN_IF_ERROR(migration_->Fill());
  QANAT_ASSIGN_OR_RETURN(maps_, bpf::NodeMaps::Open(maps_dir_));
  QANAT_RETURN_IF_ERROR(maps_.abi.Update(0, {QANAT_ABI_VERSION, QANAT_ABI_OLDEST}));
  // An earlier agent's lease is not ours: verdicts that nobody keeps must not let anything through.
  QANAT_RETURN_IF_ERROR(maps_.EndLease());
  return migration_ ? Status() : EnsureNodeLinks();
}

Status Hooks::FinishMigration() {
  const std::unique_ptr<Migration> migration = std::move(migration_);
  if (!migration) return {};
  QANAT_RETURN_IF_ERROR(migration->BeginSwap());
  for (const auto& attach : std::exchange(held_back_, {}))
    if (Status done = attach(); !done) LOG_ERROR("hooks", "{}", done.error().message);
  QANAT_RETURN_IF_ERROR(EnsureNodeLinks());
  QANAT_RETURN_IF_ERROR(migration->Commit());
  maps_dir_ = dir_ + "/maps";
  LOG_INFO("hooks", "layout {} is in force", QANAT_ABI_VERSION);
  return {};
}

// One attached and pinned link of that name with this program: ours, the one that an earlier agent
// pinned, or a new one.
Status Hooks::EnsureLink(const std::string& name, int program,
                         const std::function<Result<Link>()>& attach) {
  const std::string path = LinkPath(name);
  auto held = links_.find(name);
  if (held == links_.end()) {
    if (auto pinned = Link::OpenPinned(path)) held = links_.emplace(name, std::move(*pinned)).first;
  }
  if (held != links_.end() && !IsAttached(held->second)) {  // what it was attached to is gone
    links_.erase(held);
    held = links_.end();
    ++reattached_;
    ::unlink(path.c_str());
  }
  if (held == links_.end()) {
    QANAT_ASSIGN_OR_RETURN(Link link, attach());
    held = links_.emplace(name, std::move(link)).first;
  } else if (auto info = held->second.Info(); !info || info->program_id != ProgramId(program)) {
    QANAT_RETURN_IF_ERROR(held->second.Replace(program));
  }
  programs_[name] = ProgramId(program);
  if (IsPinned(path)) return {};
  std::error_code ignored;
  std::filesystem::create_directories(dir_ + "/links", ignored);
  return held->second.Pin(path);
}

Status Hooks::EnsureNodeLinks() {
  for (const auto& entry : node_->Entries()) {
    const int program = bpf_program__fd(entry.program);
    Status done = EnsureLink(entry.name, program,
                             [&] { return Link::Attach(program, entry.type, cgroup_.get()); });
    if (!done) return Fail(done.error().Annotate(entry.name));
  }
  return {};
}

std::vector<Hooks::LinkState> Hooks::NodeLinks() const {
  std::vector<LinkState> out;
  for (const auto& entry : node_->Entries()) {
    LinkState state{entry.name};
    if (auto link = links_.find(entry.name); link != links_.end()) Describe(link->second, &state);
    out.push_back(std::move(state));
  }
  return out;
}

std::vector<Hooks::LinkState> Hooks::PodLinks(uint32_t id) const {
  const std::string prefix = PodLink(id, "");
  std::vector<LinkState> out;
  for (auto link = links_.lower_bound(prefix);
       link != links_.end() && link->first.starts_with(prefix); ++link)
    Describe(link->second, &out.emplace_back(LinkState{link->first.substr(prefix.size())}));
  return out;
}

void Hooks::Describe(const Link& link, LinkState* state) {
  auto info = link.Info();
  if (!info) return;
  state->attached = info->attached;
  state->program_id = info->program_id;
}

Status Hooks::AttachPod(const PodTarget& pod) {
  auto skeleton = OpenPodPrograms(maps_dir_, guard_, migration_.get());
  if (!skeleton) return tl::unexpected(skeleton.error());
  pod_hooks* s = skeleton->get();
  s->rodata->lookup_pod_id = pod.id;
  SetIp(s->rodata->lookup_ip4, pod.ip4);
  SetIp(s->rodata->lookup_ip6, pod.ip6);
  s->rodata->lookup_plain_inbound = pod.plain_inbound;
  s->rodata->guard_pod_id = pod.id;
  s->rodata->ingress_pod_id = pod.id;
  QANAT_RETURN_IF_ERROR(skeleton->Load());
  const int lookup = bpf_program__fd(s->progs.qanat_sk_lookup);
  const int guard = bpf_program__fd(s->progs.qanat_guard);  // < 0: not loaded
  const int ingress = bpf_program__fd(s->progs.qanat_ingress);
  if (!migration_) return AttachPrograms(pod, lookup, guard, ingress);

  struct Held {
    PodTarget pod;
    netns::NetNs ns;
    Fd lookup, guard, ingress;
  };
  QANAT_ASSIGN_OR_RETURN(netns::NetNs ns, pod.ns->Duplicate());
  const auto copy = [](int fd) { return Fd(fd < 0 ? -1 : ::fcntl(fd, F_DUPFD_CLOEXEC, 0)); };
  const auto held =
      std::make_shared<Held>(Held{pod, std::move(ns), copy(lookup), copy(guard), copy(ingress)});
  held->pod.ns = &held->ns;
  held_back_.push_back([this, held] {
    return AttachPrograms(held->pod, held->lookup.get(), held->guard.get(), held->ingress.get());
  });
  return {};
}

Status Hooks::AttachPrograms(const PodTarget& pod, int lookup, int guard, int ingress) {
  Status done = EnsureLink(PodLink(pod.id, "lookup"), lookup, [&] {
    return Link::Attach(lookup, AttachType::kSkLookup, pod.ns->fd());
  });
  if (!done) return Fail(done.error().Annotate("sk_lookup"));
  if (guard_ == Guard::kNone) return {};
  return AttachDevices(pod, guard, ingress);
}

Status Hooks::CheckPinned(const std::string& name) const {
  auto link = Link::OpenPinned(LinkPath(name));
  if (auto held = links_.find(name);
      !link && IsPinned(LinkPath(name)) && held != links_.end() && IsAttached(held->second))
    return {};
  if (!link) return Fail(Code::kFailedPrecondition, "link " + name + " is gone");
  auto info = link->Info();
  if (!info || !info->attached)
    return Fail(Code::kFailedPrecondition, "link " + name + " is detached");
  if (auto ours = programs_.find(name); ours != programs_.end() && ours->second != info->program_id)
    return Fail(Code::kFailedPrecondition, "link " + name + " has somebody else's program");
  return {};
}

Status Hooks::CheckPod(const PodTarget& pod) const {
  QANAT_RETURN_IF_ERROR(CheckPinned(PodLink(pod.id, "lookup")));
  return guard_ == Guard::kNone ? Status{} : CheckDevices(pod);
}

Result<std::vector<uint32_t>> Hooks::ProgramsAt(const PodTarget& pod) const {
  std::vector<uint32_t> out;
  auto query = [&](int target, AttachType type) {
    uint32_t ids[64], count = std::size(ids), flags = 0;
    if (bpf_prog_query(target, static_cast<bpf_attach_type>(bpf::KernelAttachType(type)), 0, &flags,
                       ids, &count) == 0)
      out.insert(out.end(), ids, ids + std::min<size_t>(count, std::size(ids)));
  };
  query(pod.ns->fd(), AttachType::kSkLookup);
  if (guard_ == Guard::kTcx)
    QANAT_RETURN_IF_ERROR(pod.ns->Run([&]() -> Status {
      for (uint32_t device : pod.devices)
        for (const AttachType type : {AttachType::kTcxEgress, AttachType::kTcxIngress})
          query(static_cast<int>(device), type);
      return {};
    }));
  return out;
}

void Hooks::DetachPod(uint32_t id) {
  const std::string prefix = PodLink(id, "");
  ForgetHostEnds(id);
  for (auto it = links_.lower_bound(prefix); it != links_.end() && it->first.rfind(prefix, 0) == 0;)
    it = links_.erase(it);
  std::erase_if(programs_, [&](const auto& p) { return p.first.rfind(prefix, 0) == 0; });
  std::vector<std::filesystem::path> doomed;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir_ + "/links", error))
    if (entry.path().filename().string().rfind(prefix, 0) == 0) doomed.push_back(entry.path());
  for (const auto& path : doomed) std::filesystem::remove(path, error);
}

std::vector<uint32_t> Hooks::PinnedPods() const {
  std::set<uint32_t> ids;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir_ + "/links", error)) {
    unsigned id = 0;
    if (std::sscanf(entry.path().filename().c_str(), "pod-%u-", &id) == 1) ids.insert(id);
  }
  return {ids.begin(), ids.end()};
}

Status Hooks::RemovePins(const std::string& dir) {
  std::error_code error;
  std::filesystem::remove_all(dir, error);
  if (error) return Fail(Code::kIo, "remove pins below " + dir + ": " + error.message());
  return {};
}

}  // namespace qanat::agent
