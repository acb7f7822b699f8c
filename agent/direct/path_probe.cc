// SPDX-License-Identifier: Apache-2.0
#include "agent/direct/path_probe.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace qanat::agent::direct {
namespace {

constexpr auto kLookEvery = std::chrono::milliseconds(5);
constexpr int kMaxRounds = 200;  // one second
// So long after its start a spoofed SYN that nobody saw was dropped: the other one has arrived.
constexpr int kLateRounds = 60;
constexpr int kIpv6Transparent = 75;

std::string Error(const char* what) { return std::string(what) + ": " + std::strerror(errno); }

// The address from which this namespace reaches `to`; none when it does not.
net::IpAddress SourceTowards(const net::IpAddress& to) {
  const Fd fd(::socket(to.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_storage address;
  const socklen_t size = net::SocketAddress(to, QANAT_PORT_PROBE).ToSockaddr(address);
  if (!fd || ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) return {};
  auto local = net::SocketAddress::OfLocal(fd.get());
  return local ? local->ip() : net::IpAddress();
}

}  // namespace

PathProbe::PathProbe(event::EventLoop& loop, bpf::NodeMaps& maps, PathPod pod,
                     const netns::NetNs& ns, const std::vector<net::IpAddress>& others, Done done)
    : maps_(maps), pod_(std::move(pod)), done_(std::move(done)), timer_(loop, [this] { Look(); }) {
  if (!pod_.host_ends.empty())
    for (const auto& own : pod_.ips) Begin(ns, own, others);
  timer_.Start(std::chrono::milliseconds(0));
}

PathProbe::~PathProbe() {
  for (const Attempt& attempt : attempts_) {
    if (!attempt.socket) continue;
    (void)maps_.probes.Erase(attempt.tuple);
    if (attempt.to_pod) (void)maps_.probes.Erase(attempt.watch);
  }
}

void PathProbe::Begin(const netns::NetNs& ns, const net::IpAddress& own,
                      const std::vector<net::IpAddress>& others) {
  const net::IpAddress node = SourceTowards(own);
  const auto is_other = [&](const net::IpAddress& ip) {
    return ip.family() == own.family() && ip != own;
  };
  const auto target = std::find_if(others.begin(), others.end(), is_other);
  if (target == others.end()) {
    alone_ = own.is_v4() ? "IPv4" : "IPv6";
    if (node.is_set()) Start(ns, QANAT_PROBE_PATH, own, node, false);
    return;
  }
  Start(ns, QANAT_PROBE_PATH, own, *target, true);
  const auto neighbour = std::find_if(std::next(target), others.end(), is_other);
  const net::IpAddress& spoofed = neighbour != others.end() ? *neighbour : node;
  if (spoofed.is_set()) Start(ns, QANAT_PROBE_SPOOF, spoofed, *target, true);
}

void PathProbe::Start(const netns::NetNs& ns, uint32_t role, const net::IpAddress& source,
                      const net::IpAddress& to, bool to_pod) {
  Attempt attempt;
  attempt.role = role;
  attempt.to_pod = to_pod;
  attempt.to = {to, QANAT_PORT_PROBE};
  const Status entered = ns.Run([&]() -> Status {
    Send(attempt, source);
    return {};
  });
  if (!entered) attempt.error = entered.error().message;
  attempts_.push_back(std::move(attempt));
}

void PathProbe::Send(Attempt& attempt, const net::IpAddress& source) {
  Fd fd(::socket(source.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int on = 1;
  const bool v6 = source.is_v6();
  sockaddr_storage address;
  socklen_t size = net::SocketAddress(source, 0).ToSockaddr(address);
  if (attempt.role == QANAT_PROBE_SPOOF)
    (void)::setsockopt(fd.get(), v6 ? SOL_IPV6 : SOL_IP, v6 ? kIpv6Transparent : IP_TRANSPARENT,
                       &on, sizeof on);
  if (!fd || ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) {
    attempt.error = Error("bind a probe");
    return;
  }
  auto local = net::SocketAddress::OfLocal(fd.get());
  if (!local) {
    attempt.error = local.error().message;
    return;
  }
  attempt.tuple = bpf::ToKernel(*local, attempt.to);
  attempt.watch = bpf::ToKernel({net::IpAddress(), 0}, attempt.to);
  attempt.socket = std::move(fd);
  qanat_probe probe{};
  probe.role = attempt.role;
  Status put = maps_.probes.Update(attempt.tuple, probe);
  probe.slot = pod_.host_ends.front();
  if (put && attempt.to_pod) put = maps_.probes.Update(attempt.watch, probe);
  if (!put) {
    attempt.error = put.error().message;
    return;
  }
  size = attempt.to.ToSockaddr(address);
  if (::connect(attempt.socket.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 &&
      errno != EINPROGRESS && errno != ECONNREFUSED)
    attempt.error = Error("connect");
}

uint32_t PathProbe::SeenOf(const Attempt& attempt) const {
  uint32_t seen = 0;
  if (auto probe = maps_.probes.Lookup(attempt.tuple); probe && *probe) seen = (*probe)->seen;
  if (!attempt.to_pod || attempt.role != QANAT_PROBE_PATH) return seen;
  if (auto watch = maps_.probes.Lookup(attempt.watch); watch && *watch) seen |= (*watch)->seen;
  return seen;
}

PathProbe::Verdict PathProbe::JudgePath(const Attempt& attempt, uint32_t seen) {
  const std::string to = "a SYN of its to " + attempt.to.ip().ToString();
  if (!attempt.error.empty()) return {Verdict::kBad, to + ": " + attempt.error};
  if (!(seen & QANAT_SEEN_HOST_IN))
    return {Verdict::kWait,
            to +
                " did not come out of its veth at the node's end (no route to there, or is another "
                "program before ours?)"};
  if (seen & QANAT_SEEN_STOPPED) return {Verdict::kBad, to + " had another source than its own"};
  proof_.sign_crosses |= (seen & QANAT_SEEN_SIGNED) != 0;
  if (!attempt.to_pod) return {Verdict::kGood, ""};
  if (seen & QANAT_SEEN_HOST_OUT) {
    (attempt.to.ip().is_v4() ? proof_.v4 : proof_.v6) = true;
    return {Verdict::kGood, ""};
  }
  if (seen & QANAT_SEEN_OTHER_SOURCE)
    return {Verdict::kBad, to + " arrived with another source (SNAT between pods of the node?)"};
  if (seen & QANAT_SEEN_OTHER_WAY)
    return {Verdict::kBad, to + " did not arrive straight from its veth (routed over a bridge?)"};
  return {Verdict::kWait, to + " did not arrive (a NetworkPolicy for port 15009?)"};
}

PathProbe::Verdict PathProbe::JudgeSpoof(uint32_t seen, bool path_came, bool late) {
  if (seen & (QANAT_SEEN_HOST_OUT | QANAT_SEEN_OTHER_WAY))
    return {Verdict::kBad, "a SYN of its with another pod's address reached a third one"};
  if (seen & QANAT_SEEN_STOPPED) return {Verdict::kGood, ""};
  if (path_came && late) return {Verdict::kGood, ""};
  return {Verdict::kWait, "it is not known what becomes of a SYN of its with another's address"};
}

void PathProbe::Look() {
  const bool late = ++rounds_ > kLateRounds;
  bool waits = false, bad = false, path_came = false, spoofed = false;
  std::string why;
  for (const uint32_t role : {QANAT_PROBE_PATH, QANAT_PROBE_SPOOF})
    for (const Attempt& attempt : attempts_) {
      if (attempt.role != role) continue;
      const uint32_t seen = SeenOf(attempt);
      Verdict verdict;
      if (role == QANAT_PROBE_PATH) {
        verdict = JudgePath(attempt, seen);
        path_came |= attempt.to_pod && verdict.what == Verdict::kGood;
      } else {
        verdict = attempt.error.empty() ? JudgeSpoof(seen, path_came, late)
                                        : Verdict{Verdict::kBad, "spoofing: " + attempt.error};
        spoofed = true;
      }
      const bool first_bad = verdict.what == Verdict::kBad && !bad;
      if (why.empty() || first_bad) why = std::move(verdict.why);
      waits |= verdict.what == Verdict::kWait;
      bad |= first_bad;
    }
  if (waits && !bad && rounds_ < kMaxRounds) {
    timer_.Start(kLookEvery);
    return;
  }
  if (!pod_.no_end.empty())
    why = pod_.no_end + ": nothing can be looked at outside of the pod";
  else if (pod_.host_ends.empty())
    why = "no program can be put at the node's end of its veth";
  else if (pod_.any_source)
    why = "it has more addresses than can be compared with the sources of its packets";
  else if (why.empty() && !spoofed)
    why = "no other pod of the mesh is on this node" + (alone_.empty() ? "" : " with " + alone_);
  proof_.why_not = why;
  proof_.proved = why.empty();
  Done done = std::move(done_);
  done(std::move(proof_));
}

}  // namespace qanat::agent::direct
