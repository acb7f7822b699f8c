// SPDX-License-Identifier: Apache-2.0
// Connections from before the capture. They go on as they were; which they are is remembered by
// their sockets' cookies, so that an entry goes when its socket does and no other takes its place.
#include <netinet/tcp.h>
#include <time.h>

#include <algorithm>

#include "agent/enrol/entry.h"
#include "common/base/log.h"

namespace qanat::agent {
namespace {

constexpr size_t kMaxNotMeshed = 16384;  // of one pod
constexpr auto kSweepEvery = std::chrono::seconds(1);

uint64_t MonotonicNs() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000ull + static_cast<uint64_t>(t.tv_nsec);
}

}  // namespace

Result<std::vector<TcpSocket>> Enroller::SocketsOf(const Entry& entry) const {
  QANAT_ASSIGN_OR_RETURN(netns::NetNs ns, OpenNs(entry));
  Result<std::vector<TcpSocket>> sockets = Fail(Code::kInternal, "not looked at");
  QANAT_RETURN_IF_ERROR(ns.Run([&]() -> Status {
    sockets = ListTcpSockets();
    return {};
  }));
  return sockets;
}

// Before the flip. A SYN of these that was lost is sent again after it. Those that begin to connect
// from here on are noted by the connect hook itself.
void Enroller::NoteConnecting(const Entry& entry) {
  auto sockets = SocketsOf(entry);
  if (!sockets) return;
  for (const TcpSocket& socket : *sockets) {
    if (socket.state != TCP_SYN_SENT || socket.cookie == 0) continue;
    if (Status put = hooks_.maps().early_cookies.Update(socket.cookie, MonotonicNs()); !put)
      LOG_WARN("enrol", "{}: a connection being made may have to be made again: {}",
               entry.pod.FullName(), put.error().message);
  }
}

// After the flip: what is there now and was not captured began before.
void Enroller::NoteNotMeshed(Entry& entry) {
  entry.not_meshed.clear();
  auto sockets = SocketsOf(entry);
  if (!sockets) {
    LOG_WARN("enrol", "{}: connections from before are not listed: {}", entry.pod.FullName(),
             sockets.error().message);
    return;
  }
  const std::set<uint64_t> proxies(peer_cgroups_.begin(), peer_cgroups_.end());
  for (const TcpSocket& socket : *sockets)
    if (socket.cookie != 0 && IsPlain(socket, entry.pod.ips, proxies) &&
        !entry.granted.contains(socket.cookie) && entry.not_meshed.size() < kMaxNotMeshed)
      entry.not_meshed.push_back(socket.cookie);
  entry.granted.clear();
  std::sort(entry.not_meshed.begin(), entry.not_meshed.end());
  if (entry.not_meshed.empty()) return;
  LOG_INFO("enrol", "{}: {} connections from before go on as they were, outside the mesh",
           entry.pod.FullName(), entry.not_meshed.size());
  Save(entry);
}

// Those of them that still live.
std::vector<TcpSocket> Enroller::LookAtNotMeshed(Entry& entry) {
  if (entry.not_meshed.empty()) return {};
  auto sockets = SocketsOf(entry);
  if (!sockets) return {};
  std::erase_if(*sockets, [&](const TcpSocket& socket) {
    return !std::binary_search(entry.not_meshed.begin(), entry.not_meshed.end(), socket.cookie);
  });
  entry.not_meshed.clear();
  for (const TcpSocket& socket : *sockets) entry.not_meshed.push_back(socket.cookie);
  std::sort(entry.not_meshed.begin(), entry.not_meshed.end());
  return std::move(*sockets);
}

void Enroller::SweepConnections() {
  if (loop_.now() - connections_swept_ < kSweepEvery) return;
  connections_swept_ = loop_.now();
  for (auto& [uid, entry] : entries_) {
    (void)LookAtNotMeshed(*entry);
    LookAtOutside(*entry);
  }
  bpf::NodeMaps& maps = hooks_.maps();
  const uint64_t now = MonotonicNs();
  for (uint64_t cookie : maps.early_cookies.Keys()) {
    auto since = maps.early_cookies.Lookup(cookie);
    if (since && *since && now > **since && now - **since > QANAT_EARLY_NS)
      (void)maps.early_cookies.Erase(cookie);
  }
}

void Enroller::LookAtOutside(Entry& entry) {
  if (!entry.enforced()) return;
  auto counters = hooks_.maps().CountersOf(entry.id);
  if (!counters) return;
  std::vector<std::string> seen;
  for (const auto& [counter, name] :
       {std::pair{QANAT_CNT_OUTSIDE_UDP, "UDP"}, std::pair{QANAT_CNT_OUTSIDE_ICMP, "ICMP"},
        std::pair{QANAT_CNT_OUTSIDE_SCTP, "SCTP"},
        std::pair{QANAT_CNT_OUTSIDE_OTHER, "other protocols"}})
    if (counters->value[counter] > 0) seen.emplace_back(name);
  if (!entry.not_meshed.empty()) seen.emplace_back("connections from before the capture");
  if (seen == entry.outside) return;
  entry.outside = std::move(seen);
  if (observer_ && entry.shown) observer_(ViewOf(entry));
}

std::vector<PodConnections> Enroller::Connections() {
  std::vector<PodConnections> out;
  for (auto& [uid, entry] : entries_) {
    if (entry->id == 0 || entry->gone) continue;
    PodConnections pod{entry->pod.ns, entry->pod.name, entry->draining(), 0,
                       LookAtNotMeshed(*entry)};
    if (pod.draining) pod.captured = entry->captured;
    if (pod.draining || !pod.not_meshed.empty()) out.push_back(std::move(pod));
  }
  return out;
}

size_t Enroller::EndSockets(const Entry& entry, const std::vector<TcpSocket>& sockets) const {
  size_t ended = 0;
  auto ns = OpenNs(entry);
  if (!ns) return 0;
  (void)ns->Run([&]() -> Status {
    for (const TcpSocket& socket : sockets) {
      Status done = DestroyTcpSocket(socket);
      if (done)
        ++ended;
      else if (done.error().code != Code::kNotFound)
        LOG_WARN("enrol", "{}: {} to {}: {}", entry.pod.FullName(), socket.local.ToString(),
                 socket.remote.ToString(), done.error().message);
    }
    return {};
  });
  return ended;
}

Result<size_t> Enroller::EndConnections(const std::string& ns, const std::string& name,
                                        Ended which) {
  Entry* entry = nullptr;
  for (auto& [uid, candidate] : entries_)
    if (!candidate->gone && candidate->pod.ns == ns && candidate->pod.name == name)
      entry = candidate.get();
  if (!entry)
    return Fail(Code::kNotFound, "the agent of this node knows no pod " + ns + "/" + name);
  switch (which) {
    case Ended::kNotMeshed: {
      const size_t ended = EndSockets(*entry, LookAtNotMeshed(*entry));
      (void)LookAtNotMeshed(*entry);
      return ended;
    }
    case Ended::kDraining: break;
  }
  if (!entry->draining() || entry->membership.in_mesh)
    return Fail(Code::kFailedPrecondition, "pod " + ns + "/" + name + " is not leaving the mesh");
  const size_t captured = entry->captured;
  entry->end_drain = true;
  Advance(*entry);
  return captured;
}

}  // namespace qanat::agent
