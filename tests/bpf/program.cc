// SPDX-License-Identifier: Apache-2.0
#include "tests/bpf/program.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "bpf/user/map.h"
#include "bpf/user/node_maps.h"
#include "pod_hooks.skel.h"

namespace qanat::test {
namespace {

void Must(bool ok, const std::string& what) {
  if (!ok) throw std::runtime_error(what + ": " + std::strerror(errno));
}

net::SocketAddress Parse(const std::string& text) {
  auto address = net::SocketAddress::Parse(text);
  if (!address) throw std::runtime_error(text);
  return *address;
}

template <typename Words>
void SetIp(Words& to, const char* text) {
  const qanat_ip ip = bpf::ToKernel(net::IpAddress::Parse(text).value());
  static_assert(sizeof to == sizeof ip);
  std::memcpy(const_cast<void*>(static_cast<const volatile void*>(&to)), &ip, sizeof ip);
}

}  // namespace

Programs::Programs(const std::string& file)
    : object_(bpf_object__open_file(file.c_str(), nullptr)) {
  Must(object_ != nullptr, "open " + file);
}

void Programs::Load() { Must(bpf_object__load(object_.get()) == 0, "load the programs"); }

PodPrograms::PodPrograms(const std::string& file) : Programs(file) {
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object()) {
    if (std::string(bpf_map__name(map)).find(".rodata") == std::string::npos) continue;
    size_t size = 0;
    auto* rodata = static_cast<decltype(pod_hooks::rodata)>(
        const_cast<void*>(bpf_map__initial_value(map, &size)));
    Must(rodata != nullptr && size == sizeof *rodata, "the programs' constants");
    rodata->lookup_pod_id = kPod;
    rodata->guard_pod_id = kPod;
    rodata->ingress_pod_id = kPod;
    SetIp(rodata->lookup_ip4, kIp4);
    SetIp(rodata->lookup_ip6, kIp6);
  }
  Load();
}

HostPrograms::HostPrograms(const std::string& file) : Programs(file) {
  Load();
  SetEnd(0);
}

void HostPrograms::SetEnd(uint32_t flags, uint32_t device, uint64_t netns) {
  const qanat_host_end end{netns, kPod, flags, Ip(kIp4), Ip(kIp6)};
  Put("host_ends", &device, &end);
}

int Programs::MapFd(const char* name) const {
  const int fd = bpf_object__find_map_fd_by_name(object_.get(), name);
  Must(fd >= 0, std::string("map ") + name);
  return fd;
}

int Programs::ProgramFd(const char* name) const {
  const bpf_program* program = bpf_object__find_program_by_name(object_.get(), name);
  Must(program != nullptr, std::string("program ") + name);
  return bpf_program__fd(program);
}

int Programs::Run(const char* program, const std::vector<uint8_t>& packet,
                  uint32_t ingress_ifindex) {
  LIBBPF_OPTS(bpf_test_run_opts, options);
  __sk_buff context{};
  context.ingress_ifindex = ingress_ifindex;
  options.data_in = packet.data();
  options.data_size_in = static_cast<uint32_t>(packet.size());
  options.ctx_in = &context;
  options.ctx_size_in = sizeof context;
  Must(bpf_prog_test_run_opts(ProgramFd(program), &options) == 0, std::string("run ") + program);
  return static_cast<int>(options.retval);
}

uint32_t Programs::Cost(const char* program, const std::vector<uint8_t>& packet) {
  LIBBPF_OPTS(bpf_test_run_opts, options);
  options.data_in = packet.data();
  options.data_size_in = static_cast<uint32_t>(packet.size());
  options.repeat = 100000;
  Must(bpf_prog_test_run_opts(ProgramFd(program), &options) == 0, std::string("run ") + program);
  return options.duration;
}

Fd PodPrograms::AttachLookup() {
  const Fd ns(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  Fd link(bpf_link_create(ProgramFd("qanat_sk_lookup"), ns.get(), BPF_SK_LOOKUP, nullptr));
  Must(link.valid(), "attach sk_lookup");
  return link;
}

PodPrograms::Found PodPrograms::Find(const Lookup& lookup) {
  const net::SocketAddress from = Parse(lookup.from), to = Parse(lookup.to);
  bpf_sk_lookup in{}, out{};
  in.protocol = lookup.protocol;
  in.remote_port = htons(from.port());
  in.local_port = to.port();
  const qanat_ip remote = bpf::ToKernel(from.ip()), local = bpf::ToKernel(to.ip());
  if (to.ip().is_v4()) {
    in.family = AF_INET;
    in.remote_ip4 = remote.word[3];
    in.local_ip4 = local.word[3];
  } else {
    in.family = AF_INET6;
    std::memcpy(in.remote_ip6, &remote, sizeof remote);
    std::memcpy(in.local_ip6, &local, sizeof local);
  }
  LIBBPF_OPTS(bpf_test_run_opts, options);
  options.ctx_in = &in;
  options.ctx_size_in = sizeof in;
  options.ctx_out = &out;
  options.ctx_size_out = sizeof out;
  Must(bpf_prog_test_run_opts(ProgramFd("qanat_sk_lookup"), &options) == 0, "run the lookup");
  return {static_cast<int>(options.retval), out.cookie};
}

void Programs::SetState(uint32_t mode, uint32_t generation, uint32_t workers) {
  qanat_pod_state state{};
  state.mode = mode;
  state.generation = generation;
  for (uint32_t& count : state.workers) count = workers;
  Put("pod_state", &kPod, &state);
}

uint64_t PodPrograms::Listen(uint32_t role, uint32_t worker) {
  Fd& fd = listeners_[role][worker];
  fd.Reset(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  Must(fd && ::listen(fd.get(), 1) == 0, "listen");
  const uint32_t slot = qanat_slot(kPod, role, worker);
  const uint64_t value = static_cast<uint64_t>(fd.get());
  Put("listeners", &slot, &value);
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  Must(::getsockopt(fd.get(), SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0, "SO_COOKIE");
  return cookie;
}

void PodPrograms::CloseListener(uint32_t role, uint32_t worker) {
  listeners_[role][worker].Reset();
}

qanat_ip Programs::Ip(const std::string& ip) {
  return bpf::ToKernel(net::IpAddress::Parse(ip).value());
}

qanat_tuple Programs::Tuple(const std::string& from, const std::string& to) {
  return bpf::ToKernel(Parse(from), Parse(to));
}

void Programs::Put(const char* map, const void* key, const void* value) {
  Must(bpf_map_update_elem(MapFd(map), key, value, BPF_ANY) == 0, std::string("write ") + map);
}

void Programs::Delete(const char* map, const void* key) {
  Must(bpf_map_delete_elem(MapFd(map), key) == 0, std::string("delete from ") + map);
}

bool Programs::Get(const char* map, const void* key, void* value) {
  return bpf_map_lookup_elem(MapFd(map), key, value) == 0;
}

uint64_t Programs::Counter(qanat_counter which) {
  std::vector<qanat_counters> values(static_cast<size_t>(bpf::PossibleCpus()));
  Must(Get("counters", &kPod, values.data()), "counters");
  uint64_t sum = 0;
  for (const qanat_counters& one : values) sum += one.value[which];
  return sum;
}

}  // namespace qanat::test
