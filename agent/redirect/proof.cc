// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/proof.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "agent/redirect/dns_probe.h"

namespace qanat::agent {
namespace {

constexpr auto kLookEvery = std::chrono::milliseconds(5);
constexpr int kMaxRounds = 200;  // one second

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

Proof::Proof(event::EventLoop& loop, bpf::NodeMaps& maps, uint32_t pod_id,
             const std::vector<net::IpAddress>& ips, uint32_t dns_families, const netns::NetNs& pod,
             Done done)
    : maps_(maps), pod_id_(pod_id), done_(std::move(done)), timer_(loop, [this] { Look(); }) {
  for (const auto& ip : ips) {
    const std::string family = ip.is_v4() ? "/v4" : "/v6";
    const net::IpAddress outside =
        net::IpAddress::Parse(ip.is_v4() ? kOutside4 : kOutside6).value_or(net::IpAddress());
    Attempt out{"outbound" + family, QANAT_ROLE_OUTBOUND, false};
    Status entered = pod.Run([&]() -> Status {
      Start(std::move(out), ip, {outside, QANAT_PORT_PROBE});
      return {};
    });
    if (!entered) {
      attempts_.push_back({"outbound" + family, QANAT_ROLE_OUTBOUND, false});
      attempts_.back().error = entered.error().message;
    }
    auto source = SourceTowards(ip);
    for (const auto& [name, role, port] :
         {std::tuple{"inbound", QANAT_ROLE_INBOUND, QANAT_PORT_PROBE},
          std::tuple{"hbone", QANAT_ROLE_HBONE, QANAT_PORT_HBONE}}) {
      Attempt in{name + family, static_cast<uint32_t>(role), true};
      if (source) {
        Start(std::move(in), *source, {ip, static_cast<uint16_t>(port)});
      } else {
        in.error = source.error().message;
        attempts_.push_back(std::move(in));
      }
    }
    if (dns_families & (ip.is_v4() ? QANAT_DNS_V4 : QANAT_DNS_V6))
      for (bool connected : {false, true})
        questions_.push_back(std::make_unique<DnsProbe>(maps, pod, ip, connected));
  }
  timer_.Start(std::chrono::milliseconds(0));
}

Proof::~Proof() {
  for (const Attempt& attempt : attempts_)
    if (attempt.socket) (void)maps_.probes.Erase(attempt.tuple);
}

void Proof::Start(Attempt attempt, const net::IpAddress& source, const net::SocketAddress& to) {
  uint16_t port = 0;
  auto socket = MakeSocket(source, &port);
  if (!socket) {
    attempt.error = socket.error().message;
    attempts_.push_back(std::move(attempt));
    return;
  }
  attempt.socket = std::move(*socket);
  attempt.tuple = bpf::ToKernel({source, port}, to);
  if (Status put = maps_.probes.Update(attempt.tuple, qanat_probe{}); !put) {
    attempt.error = put.error().message;
  } else {
    sockaddr_storage address;
    const socklen_t size = to.ToSockaddr(address);
    // Refused at once or in progress: the probe map knows better what became of it.
    (void)::connect(attempt.socket.get(), reinterpret_cast<sockaddr*>(&address), size);
  }
  attempts_.push_back(std::move(attempt));
}

ProofStep Proof::Judge(const Attempt& attempt) const {
  if (!attempt.error.empty()) return {attempt.name, false, attempt.error, true};
  auto seen = maps_.probes.Lookup(attempt.tuple);
  if (!seen || !*seen) return {attempt.name, false, "the probe's entry is gone from the map", true};
  return JudgeProbe(attempt.name, attempt.role, attempt.from_host, pod_id_, **seen);
}

void Proof::Look() {
  ProofReport report;
  for (const Attempt& attempt : attempts_) report.steps.push_back(Judge(attempt));
  for (const auto& question : questions_) report.steps.push_back(question->Look());
  if (!report.passed() && ++rounds_ < kMaxRounds) {
    timer_.Start(kLookEvery);
    return;
  }
  Done done = std::move(done_);
  done(std::move(report));
}

}  // namespace qanat::agent
