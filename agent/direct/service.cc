// SPDX-License-Identifier: Apache-2.0
#include "agent/direct/service.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "agent/redirect/sock_diag.h"

namespace qanat::agent::direct {
namespace {

constexpr auto kTick = std::chrono::seconds(1);

}  // namespace

Result<std::unique_ptr<Service>> Service::Open(event::EventLoop& loop, bpf::NodeMaps& maps,
                                               const std::string& maps_dir, route::Mesh mesh,
                                               World world) {
  QANAT_ASSIGN_OR_RETURN(auto kernel, KernelTable::Open(maps));
  std::unique_ptr<Service> service(
      new Service(loop, maps, std::move(kernel), std::move(mesh), std::move(world)));
  Service* self = service.get();
  QANAT_ASSIGN_OR_RETURN(
      auto ring, bpf::Ring::OpenPinned(maps_dir + "/misses", [self](const void* data, size_t size) {
        qanat_miss miss{};
        if (size != sizeof miss) return;
        std::memcpy(&miss, data, sizeof miss);
        self->misses_.push_back(miss);
      }));
  self->ring_ = std::make_unique<bpf::Ring>(std::move(ring));
  self->watch_ = std::make_unique<event::IoWatch>(loop, self->ring_->fd(), EPOLLIN,
                                                  [self](uint32_t) { self->Read(); });
  return service;
}

Service::Service(event::EventLoop& loop, bpf::NodeMaps& maps, KernelTable kernel, route::Mesh mesh,
                 World world)
    : maps_(maps),
      world_(std::move(world)),
      enforcer_(std::move(kernel), std::move(mesh),
                {world_.set_pod, [this](uint32_t serial, const Flow& flow,
                                        End end) { return Destroy(serial, flow, end); }}),
      tick_(loop, [this] { Tick(); }) {}

void Service::Tick() {
  const bool behind = enforcer_.behind();
  enforcer_.Tick(world_.stale());
  if (behind && !enforcer_.behind() && on_enforced_) on_enforced_();
  tick_.Start(kTick);
}

void Service::Read() {
  ring_->Consume();
  if (misses_.empty()) return;
  enforcer_.Answer(misses_);
  misses_.clear();
}

Status Service::Destroy(uint32_t serial, const Flow& flow, End end) const {
  const bool client = end == End::kClient;
  const uint64_t cookie = client ? flow.value.client : flow.value.server;
  if (cookie == 0) return Fail(Code::kNotFound, "not accepted yet");
  auto ns = world_.namespace_of(serial);
  if (!ns) {
    // Nothing can be entered at a path that is gone.
    if (ns.error().sys_errno == ENOENT) return Fail(Code::kNotFound, ns.error().message);
    return tl::unexpected(std::move(ns).error());
  }
  const net::SocketAddress from(bpf::FromKernel(flow.tuple.src), flow.tuple.sport);
  const net::SocketAddress to(bpf::FromKernel(flow.tuple.dst), flow.tuple.dport);
  return ns->Run([&]() -> Status {
    Status done = DestroyTcpSocket(client ? from : to, client ? to : from, cookie);
    if (done || done.error().code != Code::kNotFound) return done;
    // It has ended by itself; or an application has bound it to a device.
    QANAT_ASSIGN_OR_RETURN(const auto present, maps_.flows.Lookup(flow.tuple));
    if (!present || present->client != flow.value.client) return done;
    return DestroyTcpSocketByCookie(cookie);
  });
}

}  // namespace qanat::agent::direct
