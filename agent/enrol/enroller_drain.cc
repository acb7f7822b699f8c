// SPDX-License-Identifier: Apache-2.0
// A pod that leaves the mesh: from one moment on its new connections are plain, in both directions;
// those that go through the proxy keep listeners, routes and proxy until the last of them has
// ended, the time is up, or somebody asks for their end.
#include <time.h>

#include <algorithm>

#include "agent/enrol/entry.h"
#include "common/base/log.h"

namespace qanat::agent {
namespace {

using std::chrono::milliseconds;

constexpr auto kFirstLooks = milliseconds(200);
constexpr auto kLaterLooks = milliseconds(1000);
constexpr auto kFirstFor = milliseconds(5000);
constexpr unsigned kQuietLooks = 2;
// The mesh is being taken off the node, and somebody waits for that.
constexpr auto kReleasedAtMost = milliseconds(3000);

uint64_t BootMs() {
  timespec t{};
  ::clock_gettime(CLOCK_BOOTTIME, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000 + static_cast<uint64_t>(t.tv_nsec) / 1000000;
}

}  // namespace

Status Enroller::BeginDrain(Entry& entry) {
  entry.proof.reset();
  // Let in by grants, they look like plain ones, should the pod come back.
  if (auto sockets = SocketsOf(entry)) {
    const std::set<uint64_t> before(entry.not_meshed.begin(), entry.not_meshed.end());
    for (const TcpSocket& socket : *sockets)
      if (!before.contains(socket.cookie)) entry.granted.insert(socket.cookie);
  }
  entry.not_meshed.clear();
  entry.drain_since = BootMs();
  entry.quiet_looks = 0;
  entry.end_drain = false;
  // Saved first: an agent that dies in between comes back and goes on.
  qanat_pod_state drained = entry.state;
  drained.mode = QANAT_MODE_DRAIN;
  std::swap(entry.state, drained);
  Save(entry);
  std::swap(entry.state, drained);
  HideDirect(entry);
  QANAT_RETURN_IF_ERROR(SetMode(entry, QANAT_MODE_DRAIN));
  // New questions go to the servers themselves; a proof or a repair puts it back.
  QANAT_RETURN_IF_ERROR(hooks_.maps().dns_on.Update(entry.id, 0));
  if (entry.cut_off) {
    if (auto ns = OpenNs(entry)) (void)EndCutOff(*ns);
    entry.cut_off = false;
  }
  LOG_INFO("enrol", "{}: leaves the mesh: {}", entry.pod.FullName(), entry.membership.reason);
  return {};
}

// True when nothing is left that needs the capture: the rest of it may go.
bool Enroller::Drained(Entry& entry) {
  if (!entry.enforced() && !entry.draining()) return true;
  if (!entry.draining()) {
    if (Status begun = BeginDrain(entry); !begun) {
      Explain(entry, "leaving the mesh: " + begun.error().message);
      entry.retry.Start(kLaterLooks);
      return false;
    }
  }
  if (entry.drain_since == 0) entry.drain_since = BootMs();  // known from the kernel alone
  if (!MayRestore(entry)) return false;
  if (DrainIsOver(entry)) return true;
  if (entry.captured == 0)
    Explain(entry, "");
  else
    Explain(entry, "leaves the mesh: connections from before go through the proxy until they end");
  WriteStatus(entry);
  const auto since = milliseconds(BootMs() - entry.drain_since);
  entry.retry.Start(since < kFirstFor ? kFirstLooks : kLaterLooks);
  return false;
}

bool Enroller::DrainIsOver(Entry& entry) {
  auto sockets = SocketsOf(entry);
  if (!sockets && sockets.error().code == Code::kNotFound) return true;  // the namespace is gone
  if (sockets) {
    std::erase_if(*sockets, [](const TcpSocket& socket) { return !NeedsCapture(socket); });
    entry.captured = CountConnections(*sockets);
    entry.quiet_looks = sockets->empty() ? entry.quiet_looks + 1 : 0;
  } else {
    LOG_WARN("enrol", "{}: {}", entry.pod.FullName(), sockets.error().message);
  }
  const uint64_t now = BootMs();
  entry.drain_since = std::min(entry.drain_since, now);  // the machine was started again
  const auto since = milliseconds(now - entry.drain_since);
  event::Duration at_most = options_.drain_at_most, at_least = options_.drain_at_least;
  if (!released_.empty()) {
    at_most = std::min<event::Duration>(at_most, kReleasedAtMost);
    at_least = {};
  }
  if (entry.end_drain || since >= at_most) {
    if (entry.captured > 0)
      LOG_WARN("enrol", "{}: {} connections through the proxy are ended: {}", entry.pod.FullName(),
               entry.captured,
               entry.end_drain ? "asked for" : "they had their time after the pod left the mesh");
    if (sockets) (void)EndSockets(entry, *sockets);
    return true;
  }
  if (entry.quiet_looks >= kQuietLooks && since >= at_least) return true;
  (void)Repair(entry);
  if (!entry.filled) ScheduleFill();  // a new proxy serves what was begun before
  return false;
}

}  // namespace qanat::agent
