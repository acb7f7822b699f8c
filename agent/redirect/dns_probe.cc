// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/dns_probe.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>

namespace qanat::agent {
namespace {

constexpr int kSendAgainEvery = 60;  // looks
constexpr uint16_t kPort = 53;

// A header alone, with opcode 2 (STATUS): the answer is "not implemented".
constexpr std::array<uint8_t, 12> kQuestion = {0x51, 0x61, 0x10};

}  // namespace

DnsProbe::DnsProbe(bpf::NodeMaps& maps, const netns::NetNs& pod, const net::IpAddress& source,
                   bool connected)
    : maps_(maps), connected_(connected) {
  step_.name = std::string(connected ? "dns-connected" : "dns") + (source.is_v4() ? "/v4" : "/v6");
  const Status started = pod.Run([&] { return Start(source); });
  if (!started) error_ = started.error().message;
}

DnsProbe::~DnsProbe() {
  if (socket_) (void)maps_.probes.Erase(tuple_);
}

Status DnsProbe::Start(const net::IpAddress& source) {
  // For documentation: nobody answers there, and with one hop nothing gets that far.
  QANAT_ASSIGN_OR_RETURN(const net::IpAddress outside,
                         net::IpAddress::Parse(source.is_v4() ? "192.0.2.1" : "2001:db8::1"));
  server_ = net::SocketAddress(outside, kPort);
  Fd fd(::socket(source.family(), SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return FailErrno("probe socket");
  const int one = 1;
  (void)::setsockopt(fd.get(), SOL_IP, IP_TTL, &one, sizeof one);
  if (source.is_v6()) (void)::setsockopt(fd.get(), SOL_IPV6, IPV6_UNICAST_HOPS, &one, sizeof one);
  sockaddr_storage address;
  socklen_t size = net::SocketAddress(source, 0).ToSockaddr(address);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0)
    return FailErrno("bind a probe to " + source.ToString());
  QANAT_ASSIGN_OR_RETURN(const auto local, net::SocketAddress::OfLocal(fd.get()));
  tuple_ = bpf::ToKernel({source, local.port()}, server_);
  QANAT_RETURN_IF_ERROR(maps_.probes.Update(tuple_, qanat_probe{}));
  socket_ = std::move(fd);
  if (connected_) {
    size = server_.ToSockaddr(address);
    if (::connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0)
      return FailErrno("connect a probe");
    QANAT_ASSIGN_OR_RETURN(const auto peer, net::SocketAddress::OfPeer(socket_.get()));
    if (peer != server_)
      return Fail(Code::kFailedPrecondition,
                  "getpeername() says " + peer.ToString() + " (is its hook attached?)");
  }
  (void)Send();
  return {};
}

bool DnsProbe::Send() const {
  sockaddr_storage to;
  const socklen_t size = server_.ToSockaddr(to);
  return ::sendto(socket_.get(), kQuestion.data(), kQuestion.size(), MSG_NOSIGNAL,
                  connected_ ? nullptr : reinterpret_cast<sockaddr*>(&to),
                  connected_ ? 0 : size) > 0;
}

void DnsProbe::Receive() {
  std::array<uint8_t, 512> answer;
  sockaddr_storage from{};
  socklen_t size = sizeof from;
  const ssize_t n = ::recvfrom(socket_.get(), answer.data(), answer.size(), 0,
                               reinterpret_cast<sockaddr*>(&from), &size);
  if (n < static_cast<ssize_t>(kQuestion.size()) || answer[0] != kQuestion[0] ||
      answer[1] != kQuestion[1] || !(answer[2] & 0x80))
    return;
  const auto source = net::SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&from));
  step_.passed = source == server_;
  step_.detail = step_.passed ? ""
                              : "the answer comes from " + source.ToString() +
                                    " (is the recvmsg hook attached?)";
}

ProofStep DnsProbe::Look() {
  if (!error_.empty()) {
    step_.detail = error_;
    return step_;
  }
  if (step_.passed) return step_;
  if (++looks_ % kSendAgainEvery == 0) (void)Send();
  Receive();
  if (step_.passed || !step_.detail.empty()) return step_;
  ProofStep step = step_;
  const auto seen = maps_.probes.Lookup(tuple_);
  if (!seen || !*seen) {
    step.detail = "the probe's entry is gone from the map";
  } else if (!((*seen)->seen & QANAT_SEEN_CONNECT)) {
    step.captured = false;
    step.detail = connected_ ? "not seen by the connect hook"
                             : "not seen by the sendmsg hook (is the link attached?)";
  } else {
    step.detail = "the proxy's DNS listener did not answer";
  }
  return step;
}

}  // namespace qanat::agent
