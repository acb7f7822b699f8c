// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/proof.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "agent/redirect/dns_probe.h"

namespace qanat::agent {
namespace {

constexpr auto kLookEvery = std::chrono::milliseconds(5);
constexpr int kMaxRounds = 200;  // one second
constexpr int kIpv6Transparent = 75;

// Addresses for documentation: nobody answers there, and the hop limit of one keeps even a probe
// that was not captured on the first link.
const char* kOutside4 = "192.0.2.1";
const char* kOutside6 = "2001:db8::1";

// A probe socket with its tuple fixed before connect(): bound to `source`, any port.
Result<Fd> MakeSocket(const net::IpAddress& source, uint16_t* port) {
  Fd fd(::socket(source.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return FailErrno("probe socket");
  const int one = 1;
  (void)::setsockopt(fd.get(), SOL_IP, IP_TTL, &one, sizeof one);
  if (source.is_v6()) (void)::setsockopt(fd.get(), SOL_IPV6, IPV6_UNICAST_HOPS, &one, sizeof one);
  sockaddr_storage address;
  const socklen_t size = net::SocketAddress(source, 0).ToSockaddr(address);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0)
    return FailErrno("bind a probe to " + source.ToString());
  auto local = net::SocketAddress::OfLocal(fd.get());
  if (!local) return tl::unexpected(local.error());
  *port = local->port();
  return fd;
}

// The address from which this namespace reaches `to`.
Result<net::IpAddress> SourceTowards(const net::IpAddress& to) {
  Fd fd(::socket(to.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_storage address;
  const socklen_t size = net::SocketAddress(to, QANAT_PORT_PROBE).ToSockaddr(address);
  if (!fd || ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0)
    return FailErrno("no route from the node to " + to.ToString());
  auto local = net::SocketAddress::OfLocal(fd.get());
  if (!local) return tl::unexpected(local.error());
  return local->ip();
}

}  // namespace

bool ProofReport::passed() const {
  for (const auto& step : steps)
    if (!step.passed) return false;
  return !steps.empty();
}

bool ProofReport::captured() const {
  for (const auto& step : steps)
    if (!step.captured) return false;
  return true;
}

std::string ProofReport::FirstFailure() const {
  for (const auto& step : steps)
    if (!step.passed) return step.name + ": " + step.detail;
  return steps.empty() ? "nothing to prove: the pod has no address" : "";
}

ProofStep JudgeProbe(const std::string& name, uint32_t role, bool from_host, uint32_t pod_id,
                     const qanat_probe& p) {
  ProofStep step{name, false, "", true};
  if (role == QANAT_PROBE_GUARD) {
    step.passed = (p.seen & QANAT_SEEN_GUARD) && p.pod_id == pod_id;
    if (!step.passed)
      step.detail = p.seen & QANAT_SEEN_GUARD ? "stopped by the second guard of another pod"
                                              : "a SYN that left uncaptured was not stopped by the "
                                                "second guard (is another program before it?)";
    return step;
  }
  if (role == QANAT_PROBE_BIND) {
    step.passed = (p.seen & QANAT_SEEN_BIND) != 0;
    if (!step.passed)
      step.detail = "not seen by the bind hook (is the link at the root cgroup attached?)";
    return step;
  }
  const char* connect = from_host ? "node's connect hook" : "connect hook";
  if (!(p.seen & QANAT_SEEN_CONNECT) && (!from_host || role == QANAT_ROLE_INBOUND))
    step.detail =
        std::string("not seen by the ") + connect + " (is the link at the root cgroup attached?)";
  else if (!from_host && !(p.seen & QANAT_SEEN_MARKED))
    step.detail = "the connect hook could not set the capture mark";
  else if (from_host && role == QANAT_ROLE_INBOUND && !(p.seen & QANAT_SEEN_SOCKOPS))
    step.detail = "not seen by sockops: probes of the node would not be granted";
  else if (!(p.seen & QANAT_SEEN_LOOKUP))
    step.detail =
        from_host
            ? "the pod's sk_lookup did not see it (no route from node to pod, or a NetworkPolicy?)"
            : "the pod's sk_lookup did not see it (ip rule or table 101 missing?)";
  else if (p.pod_id != 0 && p.pod_id != pod_id)
    step.detail = "seen by the sk_lookup of another pod";
  else if (!(p.seen & QANAT_SEEN_ASSIGN))
    step.detail = "no live listener took it (is the proxy up?)";
  else if (p.role != role)
    step.detail = "went to the wrong listener";
  else
    step.passed = true;
  constexpr uint32_t kCaptured = QANAT_SEEN_CONNECT | QANAT_SEEN_MARKED | QANAT_SEEN_LOOKUP;
  if (!from_host) step.captured = (p.seen & kCaptured) == kCaptured;
  return step;
}

Proof::Proof(event::EventLoop& loop, bpf::NodeMaps& maps, ProofPod pod, const netns::NetNs& ns,
             Done done)
    : maps_(maps), pod_(std::move(pod)), done_(std::move(done)), timer_(loop, [this] { Look(); }) {
  for (const auto& ip : pod_.ips) ProveAddress(ns, ip);
  timer_.Start(std::chrono::milliseconds(0));
}

void Proof::Inside(const netns::NetNs& ns, const Attempt& attempt,
                   const std::function<void()>& start) {
  Status entered = ns.Run([&]() -> Status {
    start();
    return {};
  });
  if (entered) return;
  attempts_.push_back({attempt.name, attempt.role, attempt.from_host});
  attempts_.back().error = entered.error().message;
}

void Proof::ProveAddress(const netns::NetNs& ns, const net::IpAddress& ip) {
  const std::string family = ip.is_v4() ? "/v4" : "/v6";
  const net::IpAddress outside =
      net::IpAddress::Parse(ip.is_v4() ? kOutside4 : kOutside6).value_or(net::IpAddress());
  Attempt out{"outbound" + family, QANAT_ROLE_OUTBOUND, false};
  Inside(ns, out, [&] { Start(std::move(out), ip, {outside, QANAT_PORT_PROBE}); });
  const auto node = SourceTowards(ip);
  for (const auto& [name, role, port] :
       {std::tuple{"inbound", QANAT_ROLE_INBOUND, QANAT_PORT_PROBE},
        std::tuple{"hbone", QANAT_ROLE_HBONE, QANAT_PORT_HBONE}}) {
    Attempt in{name + family, static_cast<uint32_t>(role), true};
    if (node) {
      Start(std::move(in), *node, {ip, static_cast<uint16_t>(port)});
    } else {
      in.error = node.error().message;
      attempts_.push_back(std::move(in));
    }
  }
  if (pod_.dns & (ip.is_v4() ? QANAT_DNS_V4 : QANAT_DNS_V6))
    for (bool connected : {false, true})
      questions_.push_back(std::make_unique<DnsProbe>(maps_, ns, ip, connected));
  if (pod_.guard) {
    // To the node: a neighbour that answers, so the SYN does get as far as the device. Where the
    // pod has no way to it nothing can leave towards it.
    Attempt guard{"guard" + family, QANAT_PROBE_GUARD, false};
    Inside(ns, guard, [&] {
      if (node) (void)Start(std::move(guard), ip, {*node, QANAT_PORT_PROBE});
    });
  }
  if (pod_.spoof_low != 0) {
    Attempt bind{"bind" + family, QANAT_PROBE_BIND, false};
    Inside(ns, bind, [&] { StartBind(std::move(bind), outside); });
  }
}

Proof::~Proof() {
  for (const Attempt& attempt : attempts_)
    if (attempt.socket) (void)maps_.probes.Erase(attempt.tuple);
}

bool Proof::Start(Attempt attempt, const net::IpAddress& source, const net::SocketAddress& to) {
  uint16_t port = 0;
  auto socket = MakeSocket(source, &port);
  if (!socket) {
    attempt.error = socket.error().message;
    attempts_.push_back(std::move(attempt));
    return true;
  }
  attempt.socket = std::move(*socket);
  attempt.tuple = bpf::ToKernel({source, port}, to);
  qanat_probe probe{};
  probe.role = attempt.role == QANAT_PROBE_GUARD ? QANAT_PROBE_GUARD : 0;
  if (Status put = maps_.probes.Update(attempt.tuple, probe); !put) {
    attempt.error = put.error().message;
  } else {
    sockaddr_storage address;
    const socklen_t size = to.ToSockaddr(address);
    // Refused at once or in progress: the probe map knows better what became of it.
    const int result = ::connect(attempt.socket.get(), reinterpret_cast<sockaddr*>(&address), size);
    if (attempt.role == QANAT_PROBE_GUARD && result != 0 &&
        (errno == ENETUNREACH || errno == EHOSTUNREACH || errno == EINVAL)) {
      (void)maps_.probes.Erase(attempt.tuple);
      return false;
    }
  }
  attempts_.push_back(std::move(attempt));
  return true;
}

void Proof::StartBind(Attempt attempt, const net::IpAddress& source) {
  attempt.tuple = bpf::ToKernel({source, 0}, {net::IpAddress(), QANAT_PORT_PROBE});
  attempt.tuple.dst.word[3] = pod_.id;
  attempt.socket = Fd(::socket(source.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  const bool v6 = source.is_v6();
  sockaddr_storage address;
  const socklen_t size = net::SocketAddress(source, 0).ToSockaddr(address);
  if (Status put = maps_.probes.Update(attempt.tuple, qanat_probe{}); !put)
    attempt.error = put.error().message;
  else if (::setsockopt(attempt.socket.get(), v6 ? SOL_IPV6 : SOL_IP,
                        v6 ? kIpv6Transparent : IP_TRANSPARENT, &on, sizeof on) != 0 ||
           ::bind(attempt.socket.get(), reinterpret_cast<sockaddr*>(&address), size) != 0)
    attempt.error = "bind to a spoofed source: " + std::string(std::strerror(errno));
  else if (auto local = net::SocketAddress::OfLocal(attempt.socket.get()))
    attempt.port = local->port();
  attempts_.push_back(std::move(attempt));
}

ProofStep Proof::Judge(const Attempt& attempt) const {
  if (!attempt.error.empty()) return {attempt.name, false, attempt.error, true};
  auto seen = maps_.probes.Lookup(attempt.tuple);
  if (!seen || !*seen) return {attempt.name, false, "the probe's entry is gone from the map", true};
  ProofStep step = JudgeProbe(attempt.name, attempt.role, attempt.from_host, pod_.id, **seen);
  if (attempt.taken)
    return {attempt.name, false,
            attempt.role == QANAT_PROBE_GUARD
                ? "a SYN that left uncaptured reached somebody"
                : "somebody else accepted it (another sk_lookup program in the pod's namespace?)",
            false};
  if (attempt.role == QANAT_PROBE_GUARD && !step.passed) step.captured = !attempt.answered;
  if (attempt.role == QANAT_PROBE_BIND && step.passed &&
      (attempt.port < pod_.spoof_low || attempt.port > pod_.spoof_high))
    return {attempt.name, false, "a spoofed source got port " + std::to_string(attempt.port), true};
  return step;
}

void Proof::Look() {
  ProofReport report;
  bool breach = false;  // waiting longer changes nothing
  for (Attempt& attempt : attempts_) {
    tcp_info info{};
    socklen_t size = sizeof info;
    int error = 0;
    socklen_t error_size = sizeof error;
    if (attempt.socket &&
        ::getsockopt(attempt.socket.get(), IPPROTO_TCP, TCP_INFO, &info, &size) == 0)
      attempt.taken |= info.tcpi_state == TCP_ESTABLISHED;
    if (attempt.socket &&
        ::getsockopt(attempt.socket.get(), SOL_SOCKET, SO_ERROR, &error, &error_size) == 0)
      attempt.answered |= error == ECONNREFUSED;
    // Whoever passed the guard by got no further than the node's end of the veth.
    if (attempt.role == QANAT_PROBE_GUARD)
      if (auto seen = maps_.probes.Lookup(attempt.tuple); seen && *seen)
        attempt.answered |= ((*seen)->seen & QANAT_SEEN_HOST_IN) != 0;
    breach |= attempt.taken || (attempt.role == QANAT_PROBE_GUARD && attempt.answered);
    report.steps.push_back(Judge(attempt));
  }
  for (const auto& question : questions_) report.steps.push_back(question->Look());
  if (!report.passed() && !breach && ++rounds_ < kMaxRounds) {
    timer_.Start(kLookEvery);
    return;
  }
  Done done = std::move(done_);
  done(std::move(report));
}

}  // namespace qanat::agent
