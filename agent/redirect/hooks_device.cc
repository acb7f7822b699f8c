// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/hooks_device.h"

#include <bpf/bpf.h>

#include <algorithm>
#include <cstring>

#include "agent/redirect/tc_filter.h"

namespace qanat::agent {
namespace {

using bpf::AttachType;
using bpf::Link;

// Of the program with that id; "" when there is none.
std::string ProgramName(uint32_t id) {
  Fd fd(id != 0 ? bpf_prog_get_fd_by_id(id) : -1);
  bpf_prog_info info{};
  uint32_t length = sizeof info;
  return fd && bpf_obj_get_info_by_fd(fd.get(), &info, &length) == 0 ? info.name : "";
}

bool Contains(const std::vector<uint32_t>& list, uint32_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

qanat_host_end EndOf(const Hooks::PodTarget& pod) {
  return {pod.cookie, pod.id, pod.any_source ? static_cast<uint32_t>(QANAT_END_ANY_SOURCE) : 0,
          bpf::ToKernel(pod.ip4), bpf::ToKernel(pod.ip6)};
}

bool IsSame(qanat_host_end a, const qanat_host_end& b) {
  a.flags = (a.flags & QANAT_END_ANY_SOURCE) | (b.flags & QANAT_END_SIGNED);
  return std::memcmp(&a, &b, sizeof a) == 0;
}

}  // namespace

const Hooks::Place Hooks::kPlaces[] = {
    {"guard", "qanat_guard", rtnl::Direction::kEgress, true},
    {"ingress", "qanat_ingress", rtnl::Direction::kIngress, true},
    {"host_in", "qanat_host_in", rtnl::Direction::kIngress, false},
    {"host_out", "qanat_host_out", rtnl::Direction::kEgress, false},
};

Status Hooks::LoadHost() {
  auto skeleton = bpf::Skeleton<host_hooks>::Open(maps_dir_);
  if (!skeleton) return tl::unexpected(skeleton.error());
  if (guard_ == Guard::kNone) {  // its maps all the same
    bpf_program__set_autoload((*skeleton)->progs.qanat_host_in, false);
    bpf_program__set_autoload((*skeleton)->progs.qanat_host_out, false);
  }
  QANAT_RETURN_IF_ERROR(skeleton->Load());
  host_ = std::make_unique<HostPrograms>(std::move(*skeleton));
  return {};
}

Status Hooks::AttachDevices(const PodTarget& pod, int guard, int ingress) {
  QANAT_RETURN_IF_ERROR(PutHostEnds(pod));
  const int programs[] = {guard, ingress, host_->in(), host_->out()};
  static_assert(std::size(programs) == std::size(kPlaces));
  for (size_t i = 0; i < std::size(kPlaces); ++i)
    if (Status done = AttachAt(pod, kPlaces[i], programs[i]); !done)
      return Fail(done.error().Annotate(kPlaces[i].what));
  return {};
}

Status Hooks::CheckDevices(const PodTarget& pod) const {
  for (const Place& place : kPlaces) QANAT_RETURN_IF_ERROR(CheckAt(pod, place));
  return CheckHostEnds(pod);
}

Status Hooks::AttachAt(const PodTarget& pod, const Place& place, int program) {
  const auto there = [&](const std::function<Status()>& action) {
    return place.in_pod ? pod.ns->Run(action) : action();
  };
  const AttachType type = place.direction == rtnl::Direction::kIngress ? AttachType::kTcxIngress
                                                                       : AttachType::kTcxEgress;
  for (uint32_t device : place.in_pod ? pod.devices : pod.host_ends) {
    if (guard_ == Guard::kClsact) {
      QANAT_RETURN_IF_ERROR(there([&] { return tc::Attach(program, device, place.direction); }));
      continue;
    }
    const std::string name =
        PodLink(pod.id, std::string(place.what) + "-" + std::to_string(device));
    QANAT_RETURN_IF_ERROR(EnsureLink(name, program, [&]() -> Result<Link> {
      Result<Link> link = Fail(Code::kInternal, "not attached");
      QANAT_RETURN_IF_ERROR(there([&]() -> Status {
        link = Link::Attach(program, type, static_cast<int>(device));
        return {};
      }));
      return link;
    }));
  }
  return {};
}

Status Hooks::CheckAt(const PodTarget& pod, const Place& place) const {
  for (uint32_t device : place.in_pod ? pod.devices : pod.host_ends) {
    const std::string on = std::string(place.what) + "-" + std::to_string(device);
    if (guard_ == Guard::kTcx) {
      QANAT_RETURN_IF_ERROR(CheckPinned(PodLink(pod.id, on)));
      continue;
    }
    const auto look = [&]() -> Status {
      QANAT_ASSIGN_OR_RETURN(const uint32_t program, tc::ProgramAt(device, place.direction));
      if (ProgramName(program) == place.program) return {};
      return Fail(Code::kFailedPrecondition, "the filter " + on + " is gone");
    };
    QANAT_RETURN_IF_ERROR(place.in_pod ? pod.ns->Run(look) : look());
  }
  return {};
}

// Before the programs that read it: without an entry they let nothing out.
Status Hooks::PutHostEnds(const PodTarget& pod) {
  ForgetHostEnds(pod.id, pod.host_ends);
  for (uint32_t device : pod.host_ends) {
    qanat_host_end end = EndOf(pod);
    QANAT_ASSIGN_OR_RETURN(const auto before, maps_.host_ends.Lookup(device));
    if (before && before->netns == pod.cookie) end.flags |= before->flags & QANAT_END_SIGNED;
    QANAT_RETURN_IF_ERROR(maps_.host_ends.Update(device, end));
  }
  return {};
}

Status Hooks::CheckHostEnds(const PodTarget& pod) const {
  const qanat_host_end wanted = EndOf(pod);
  for (uint32_t device : pod.host_ends) {
    auto end = maps_.host_ends.Lookup(device);
    if (!end || !*end || !IsSame(wanted, **end))
      return Fail(Code::kFailedPrecondition,
                  "its entry of interface " + std::to_string(device) + " in host_ends is gone");
  }
  return {};
}

Status Hooks::RequireSign(const PodTarget& pod) {
  for (uint32_t device : pod.host_ends) {
    qanat_host_end end = EndOf(pod);
    end.flags |= QANAT_END_SIGNED;
    QANAT_RETURN_IF_ERROR(maps_.host_ends.Update(device, end));
  }
  return {};
}

// What runs at an interface meanwhile must find an entry, and one of a pod that is not captured.
void Hooks::ForgetHostEnds(uint32_t id, const std::vector<uint32_t>& but) {
  for (const uint32_t device : maps_.host_ends.Keys()) {
    auto end = maps_.host_ends.Lookup(device);
    if (!end || !*end || (*end)->pod_id != id || Contains(but, device)) continue;
    (void)maps_.host_ends.Update(device, qanat_host_end{});
    for (const Place& place : kPlaces) {
      if (place.in_pod) continue;
      const std::string name = PodLink(id, std::string(place.what) + "-" + std::to_string(device));
      if (auto link = links_.find(name); link != links_.end())
        (void)link->second.Detach();
      else if (auto pinned = Link::OpenPinned(LinkPath(name)))
        (void)pinned->Detach();
    }
    if (guard_ == Guard::kClsact) (void)tc::Detach(device);
    (void)maps_.host_ends.Erase(device);
  }
}

void Hooks::RemoveFilters() {
  if (auto interfaces = rtnl::Interfaces())
    for (const auto& i : *interfaces) (void)tc::Detach(i.ifindex);
}

}  // namespace qanat::agent
