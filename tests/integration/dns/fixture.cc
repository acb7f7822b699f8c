// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/dns/fixture.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "common/net/datagram.h"

namespace qanat::ztunnel::test {

Message Ask(const std::string& host, uint16_t type, uint16_t edns, uint16_t id) {
  Message out = wire::BuildQuery(id, wire::WireOf(host).value(), type, edns);
  if (edns == 0) {
    out.resize(out.size() - 11);
    out[11] = 0;
  }
  return out;
}

std::string Show(const Message& answer) {
  const auto header = wire::ReadHeader(answer);
  if (!header) return "nothing";
  static constexpr const char* kCodes[] = {"NOERROR",  "FORMERR", "SERVFAIL",
                                           "NXDOMAIN", "NOTIMP",  "REFUSED"};
  std::string out = header->rcode() < 6 ? kCodes[header->rcode()] : "?";
  if ((header->flags & 0x0400) != 0) out += " aa";
  if (header->truncated()) out += " tc";
  const auto question = wire::ReadQuestion(answer, *header);
  if (!question) return out;
  out += ":";
  wire::RecordReader records(answer, *header, question->end);
  const char* between = " ";
  while (const auto record = records.Next()) {
    if (record->section != wire::Record::Section::kAnswer) continue;
    out += std::string(std::exchange(between, " | ")) + std::string(wire::TypeName(record->type));
    const auto data = wire::Bytes(answer).subspan(record->data_at, record->data_size);
    if (record->type == wire::type::kCname) {
      size_t at = record->data_at;
      std::string name;
      EXPECT_TRUE(wire::ReadName(answer, at, &name));
      out += " " + wire::HostOf(name).value_or("?");
    } else if (record->type == wire::type::kTxt) {
      out += " " + std::string(data.begin() + 1, data.end());
    } else {
      out += " " + net::IpAddress::FromBytes(data).ToString();
    }
    out += fmt::format(" {}", record->ttl);
  }
  EXPECT_TRUE(records.ok());
  return out;
}

Message AskUdp(const netns::NetNs& from, const std::string& server, const Message& question,
               int timeout_ms) {
  net::DatagramOptions options;
  options.connect = net::SocketAddress::Parse(server).value();
  options.netns = &from;
  const auto fd = net::OpenDatagram(options);
  EXPECT_TRUE(fd) << fd.error().message;
  EXPECT_EQ(send(fd->get(), question.data(), question.size(), 0),
            static_cast<ssize_t>(question.size()));
  pollfd wait{fd->get(), POLLIN, 0};
  if (poll(&wait, 1, timeout_ms) != 1) return {};
  Message answer(65535);
  const ssize_t n = recv(fd->get(), answer.data(), answer.size(), 0);
  answer.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return answer;
}

std::vector<Message> AskTcp(const netns::NetNs& from, const std::string& server,
                            const std::vector<Message>& questions) {
  Tcp tcp = ConnectFrom(from, server);
  EXPECT_TRUE(tcp.connected());
  if (!tcp.connected()) return {};
  std::string out;
  for (const Message& question : questions) {
    out.push_back(static_cast<char>(question.size() >> 8));
    out.push_back(static_cast<char>(question.size()));
    out.append(question.begin(), question.end());
  }
  EXPECT_TRUE(tcp.Send(out));
  tcp.Finish();
  std::vector<Message> answers;
  while (true) {
    const std::string head = tcp.Read(2);
    if (head.size() < 2) return answers;
    const size_t size =
        (static_cast<size_t>(static_cast<uint8_t>(head[0])) << 8) | static_cast<uint8_t>(head[1]);
    const std::string body = tcp.Read(size);
    EXPECT_EQ(body.size(), size);
    answers.emplace_back(body.begin(), body.end());
  }
}

void DnsBed::Make(const std::function<void(Config&)>& change, bool announce, Capture capture) {
  folder_ = fmt::format("/tmp/qanat-dns-{}", getpid());
  std::filesystem::remove_all(folder_);
  std::filesystem::create_directories(folder_ + "/dns");
  pod = &AddPod(1, capture);
  stranger = &AddPod(2, Capture::kNone);
  server_pod = &AddPod(9, Capture::kNone);
  server = StartServer(*server_pod, "10.93.0.9");
  Redirect(*pod);
  Put(TestMesh::MakeService("backend", "10.96.0.10"));
  if (announce) Announce("frontend", *pod, "n1");
  std::ofstream(folder_ + "/resolv.conf") << "nameserver 10.93.0.9\n";
  // The bed's agent listens where it likes; the folder beside its socket is the test's.
  std::filesystem::create_symlink(fmt::format("/tmp/qzt-{}-n1.sock", getpid()),
                                  folder_ + "/ztunnel.sock");
  node = &AddNode("n1", [&](Config& config) {
    config.inpod_uds = folder_ + "/ztunnel.sock";
    config.resolv_conf = folder_ + "/resolv.conf";
    if (change) change(config);
  });
  ASSERT_EQ(node->Enrol("frontend", *pod), "");
  ASSERT_EQ(node->agent().SnapshotSent(), "");
}

DnsBed::~DnsBed() {
  server.reset();
  nodes_.clear();
  if (!folder_.empty()) std::filesystem::remove_all(folder_);
}

std::unique_ptr<qanat::test::Child> DnsBed::StartServer(PodNet& at, const std::string& address) {
  qanat::test::Child::Options options;
  options.command = {"/usr/bin/env", "python3", "-B", QANAT_ODD_SERVER, address, "53"};
  options.log = folder_ + "/server-" + address;
  options.netns = at.netns().fd();
  auto child = std::make_unique<qanat::test::Child>(options);
  EXPECT_TRUE(child->WaitForLog("ready")) << child->Log();
  return child;
}

// The rules of the stock node agent for DNS, in nft's words.
void DnsBed::Redirect(const PodNet& of) {
  const std::string path = folder_ + "/nft";
  std::ofstream(path) << R"(table inet dns {
  chain out { type nat hook output priority -101;
    oifname != lo meta mark & 0xfff != 0x539 udp dport 53 redirect to :15053
    ip daddr != 127.0.0.0/8 meta mark & 0xfff != 0x539 tcp dport 53 redirect to :15053
    ip6 daddr != ::1 meta mark & 0xfff != 0x539 tcp dport 53 redirect to :15053
  }
  chain zone_out { type filter hook output priority raw;
    meta mark & 0xfff == 0x539 udp dport 53 ct zone set 1
  }
  chain zone_in { type filter hook prerouting priority raw;
    meta mark & 0xfff != 0x539 udp sport 53 ct zone set 1
  }
}
)";
  ASSERT_EQ(std::system(fmt::format("ip netns exec {} nft -f {}", of.name(), path).c_str()), 0);
}

}  // namespace qanat::ztunnel::test
