// SPDX-License-Identifier: Apache-2.0
// DNS of the small proxy: listeners as ours has them, and answers that say what was asked and
// where.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "bpf/include/abi.h"
#include "common/net/datagram.h"
#include "tests/bpf/bed.h"

namespace qanat::test {

std::vector<int> OpenDnsListeners(bool v6) {
  std::vector<int> out;
  net::DatagramOptions options;
  options.packet_info = options.reuse_port = true;
  options.mark = QANAT_MARK_PROXY;
  options.bind = net::SocketAddress::Parse("0.0.0.0:15053").value();
  options.bind_device = "lo";
  if (auto fd = net::OpenDatagram(options)) out.push_back(fd->Release());
  if (auto fd = net::ListenBeside(options)) out.push_back(fd->Release());
  if (!v6) return out;
  options.bind_device.clear();
  options.bind = net::SocketAddress::Parse("[::1]:15053").value();
  if (auto fd = net::ListenBeside(options)) out.push_back(fd->Release());
  options.bind = net::SocketAddress::Parse("[::]:15053").value();
  options.freebind = true;
  if (auto fd = net::OpenDatagram(options)) out.push_back(fd->Release());
  return out;
}

void AnswerDns(int listener) {
  int type = 0;
  socklen_t size = sizeof type;
  ::getsockopt(listener, SOL_SOCKET, SO_TYPE, &type, &size);
  if (type == SOCK_STREAM) {
    const int fd = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    constexpr char kHello[] = "proxy\n";
    (void)!::send(fd, kHello, sizeof kHello - 1, MSG_NOSIGNAL);
    ::close(fd);
    return;
  }
  uint8_t buffer[512];
  net::Packet packet;
  if (!net::ReceivePacket(listener, buffer, packet) || packet.size < 3) return;
  buffer[2] |= 0x80;
  std::string answer(reinterpret_cast<char*>(buffer), packet.size);
  // A question that begins with "late" is answered when the asker has had time for other things.
  if (answer.rfind("la", 0) == 0) ::usleep(300000);
  answer += " proxy " + packet.local.ToString();
  (void)net::SendPacket(listener, {reinterpret_cast<const uint8_t*>(answer.data()), answer.size()},
                        packet.peer, packet.local);
}

}  // namespace qanat::test
