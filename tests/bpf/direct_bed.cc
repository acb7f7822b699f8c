// SPDX-License-Identifier: Apache-2.0
#include "tests/bpf/direct_bed.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <ctime>
#include <stdexcept>

namespace qanat::test {
namespace {

uint64_t BootNs() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
}

template <typename T>
T Must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(*result);
}

void Must(const Status& status) {
  if (!status) throw std::runtime_error(status.error().message);
}

qanat_ip KernelIp(const std::string& text) {
  return bpf::ToKernel(Must(net::IpAddress::Parse(text)));
}

}  // namespace

DirectBed::DirectBed(const std::string& name) : DirectBed(name, [](DirectBed&) {}) {
  bed.agent().Signal(SIGSTOP);
}

DirectBed::DirectBed(const std::string& name, const std::function<void(DirectBed&)>& before_agent)
    : bed(name) {
  a = bed.MakePod("a", 10);
  b = bed.MakePod("b", 11);
  n = bed.MakePod("n", 12);
  bed.ShowPod(a);
  bed.ShowPod(b);
  bed.ShowPod(n, false);
  before_agent(*this);
  bed.StartAgent();
  bed.StartPeer(2, false, true);
  for (const auto& pod : {a, b})
    if (!bed.WaitEnabled(pod)) throw std::runtime_error(bed.StatusText(pod) + bed.Log());
  for (const auto& pod : {a, b, n})
    servers_.push_back(bed.Spawn({pod.netns, "pods/" + pod.name}, [] { ServeApp(8080); }));
  for (const auto& pod : {a, b, n})
    for (const std::string& to : {pod.ip4 + ":8080", "[" + pod.ip6 + "]:8080"})
      if (!bed.WaitFor([&] { return From(pod, {.to = to}).rfind("app", 0) == 0; }))
        throw std::runtime_error("no server at " + to);
  maps = Must(bpf::NodeMaps::Open(bed.bpf_dir() + "/maps"));
}

void DirectBed::Reset() {
  for (const auto& key : maps.verdicts.Keys()) Must(maps.verdicts.Erase(key));
  for (const auto& key : maps.vips.Keys()) Must(maps.vips.Erase(key));
  for (const auto& key : maps.suspended.Keys()) Must(maps.suspended.Erase(key));
  SetLease(60);
  for (const auto& pod : {a, b}) {
    SetFlags(pod, QANAT_DIRECT_FROM | QANAT_DIRECT_TO);
    SetMode(pod, QANAT_MODE_ENFORCED);
    Must(maps.asked.Update(KernelPod(pod).id, 0));
  }
}

void DirectBed::SetLease(double seconds, uint32_t generation, bool on) {
  qanat_direct lease = *Must(maps.direct.Lookup(0));
  lease.lease_until = BootNs() + static_cast<uint64_t>(seconds * 1e9);
  lease.generation = generation;
  lease.on = on ? 1 : 0;
  Must(maps.direct.Update(0, lease));
}

void DirectBed::SetFlags(const Bed::PodInfo& pod, uint32_t flags, uint32_t floor) {
  const uint32_t id = KernelPod(pod).id;
  qanat_pod_state state = *Must(maps.pod_state.Lookup(id));
  state.flags = flags;
  state.floor = floor;
  Must(maps.pod_state.Update(id, state));
}

void DirectBed::SetMode(const Bed::PodInfo& pod, qanat_mode mode) {
  const uint32_t id = KernelPod(pod).id;
  qanat_pod_state state = *Must(maps.pod_state.Lookup(id));
  state.mode = mode;
  Must(maps.pod_state.Update(id, state));
}

uint64_t DirectBed::Cookie(const Bed::PodInfo& pod) {
  return Must(maps.pod_ips.Lookup(KernelIp(pod.ip4))).value();
}

qanat_pod DirectBed::KernelPod(const Bed::PodInfo& pod) {
  return Must(maps.pods.Lookup(Cookie(pod))).value();
}

qanat_verdict_key DirectBed::Key(uint16_t port, uint8_t family) {
  return {KernelPod(a).serial, KernelPod(b).serial, port, family, 0};
}

void DirectBed::SetVerdict(uint16_t port, uint32_t what, uint32_t generation) {
  for (uint8_t family : {uint8_t{4}, uint8_t{6}})
    Must(maps.verdicts.Update(Key(port, family), {generation, 7, what}));
}

void DirectBed::SetVip(const std::string& ip, uint16_t port,
                       const std::vector<VipEndpoint>& endpoints) {
  qanat_vip vip{};
  vip.count = static_cast<uint32_t>(endpoints.size());
  for (size_t i = 0; i < QANAT_VIP_ENDPOINTS; ++i) {
    qanat_vip_endpoint& to = vip.endpoints[i];
    if (i < endpoints.size()) {
      vip.total += endpoints[i].weight;
      to.code = endpoints[i].code;
      if (!endpoints[i].ip.empty()) {
        to.dst_serial = KernelPod(b).serial + (endpoints[i].stale ? 1000 : 0);
        to.ip = KernelIp(endpoints[i].ip);
        to.port = endpoints[i].port;
      }
    }
    to.until = vip.total;
  }
  Must(maps.vips.Update({KernelIp(ip), KernelPod(a).serial, port, 0}, vip));
}

uint64_t DirectBed::Counter(const Bed::PodInfo& pod, qanat_counter which) {
  return Must(maps.CountersOf(KernelPod(pod).id)).value[which];
}

std::string DirectBed::Leftovers() {
  std::string text;
  const auto look = [&] {
    text.clear();
    if (size_t left = maps.grants.Keys().size()) text += std::to_string(left) + " grants ";
    if (size_t left = maps.flows.Keys().size()) text += std::to_string(left) + " flows ";
    for (uint64_t source : maps.budgets.Keys())
      if (auto budget = Must(maps.budgets.Lookup(source)); budget && budget->in_flight != 0)
        text += std::to_string(budget->in_flight) + " in flight ";
    return text.empty();
  };
  bed.WaitFor(look, 2000);
  return text;
}

std::string DirectBed::From(const Bed::PodInfo& pod, const Dial& dial) {
  return bed.Run({pod.netns, "pods/" + pod.name}, [&] { return Call(dial); });
}

std::string DirectBed::Python(const Bed::PodInfo& pod, const std::string& program,
                              const std::function<void()>& between) {
  int in[2], out[2];
  if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
  Process child = bed.Spawn({pod.netns, "pods/" + pod.name}, [&] {
    ::dup2(in[0], 0);
    ::dup2(out[1], 1);
    ::execlp("python3", "python3", "-uc", program.c_str(), b.ip4.c_str(), b.ip6.c_str(), nullptr);
  });
  ::close(in[0]);
  ::close(out[1]);
  if (between) {
    // What input() prints first says that it waits.
    for (char c; ::read(out[0], &c, 1) == 1 && c != '?';) {
    }
    between();
  }
  (void)!::write(in[1], "\n", 1);
  ::close(in[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t got; (got = ::read(out[0], buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<size_t>(got));
  ::close(out[0]);
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

}  // namespace qanat::test
