// SPDX-License-Identifier: Apache-2.0
// A pod whose questions are redirected to port 15053 as the stock node agent does it, a pod without
// the mesh, and a name server in a namespace of its own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/dns/response.h"
#include "tests/integration/ztunnel/bed.h"
#include "tests/support/child.h"

namespace qanat::ztunnel::test {

namespace wire = ::qanat::dns;
using Message = std::vector<uint8_t>;

// A question of type `type`; `edns` 0: without.
Message Ask(const std::string& host, uint16_t type, uint16_t edns = 0, uint16_t id = 0x4242);

// "NOERROR aa: CNAME backend.shop | A 10.96.0.10 30"; "nothing" where there is no answer.
std::string Show(const Message& answer);

// One question, one answer: by a connected socket, so that only what comes from the server counts.
Message AskUdp(const netns::NetNs& from, const std::string& server, const Message& question,
               int timeout_ms = 8000);
// Several in one connection; the answers in the order in which they come, until the end.
std::vector<Message> AskTcp(const netns::NetNs& from, const std::string& server,
                            const std::vector<Message>& questions);

class DnsBed : public Bed {
 protected:
  static constexpr const char* kServer = "10.93.0.9:53";

  // frontend (enrolled, redirected), stranger (neither), backend.shop at 10.96.0.10.
  void Make(const std::function<void(Config&)>& change = {}, bool announce = true,
            Capture capture = Capture::kNone);
  ~DnsBed() override;
  std::unique_ptr<qanat::test::Child> StartServer(PodNet& at, const std::string& address);
  void Redirect(const PodNet& pod);
  // Through the proxy, at the name server's address.
  Message Captured(const Message& question, int timeout_ms = 8000) {
    return AskUdp(pod->netns(), kServer, question, timeout_ms);
  }
  Message Direct(const Message& question) { return AskUdp(stranger->netns(), kServer, question); }
  std::string Say(const std::string& host, uint16_t type = wire::type::kA) {
    return Show(Captured(Ask(host, type)));
  }
  double Answered(const std::string& origin) {
    return node->Metric("qanat_dns_answers_total", {"origin=\"" + origin + "\""});
  }

  std::string folder_;  // of the node agent's socket, the server's log, resolv.conf
  PodNet* pod = nullptr;
  PodNet* stranger = nullptr;
  PodNet* server_pod = nullptr;
  Node* node = nullptr;
  std::unique_ptr<qanat::test::Child> server;
};

}  // namespace qanat::ztunnel::test
