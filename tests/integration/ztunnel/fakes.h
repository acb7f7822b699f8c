// SPDX-License-Identifier: Apache-2.0
// A control plane with a certificate authority, and a node agent, both controlled by the test. The
// control plane has a thread of its own; the agent is a blocking socket on the test's thread.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "common/base/fd.h"
#include "common/event/event_loop.h"
#include "common/grpc/test_server.h"
#include "common/tls/x509.h"

namespace qanat::ztunnel::test {

class FakeControlPlane {
 public:
  FakeControlPlane();
  ~FakeControlPlane();

  std::string endpoint() const { return endpoint_; }
  // Sends to every connected proxy, and to those that connect later. `type` is "Address" or
  // "Authorization".
  void Put(const std::string& type, const std::string& name, const std::string& bytes);
  void Remove(const std::string& type, const std::string& name);
  // Away: streams of resources end and are refused; the certificate authority goes on.
  void SetAway(bool away);
  // What streams that began with nothing (XDS_ON_DEMAND) have asked for; and whether such are left
  // without an answer.
  std::multiset<std::string> Asked();
  void SetSilent(bool silent);
  // The versions that the latest stream began with, of both types.
  std::map<std::string, std::string> InitialVersions();
  // A certificate for any identity, by the same root: what a peer of another kind would have.
  tls::TlsContextPtr ContextFor(const std::string& spiffe);
  // One that nobody trusts.
  tls::TlsContextPtr ForeignContextFor(const std::string& spiffe);
  const tls::Authority& root() const { return root_; }
  static tls::Authority NewRoot();
  // What the certificate authority does from now on: who signs, and which roots it gives out.
  void Rotate(const tls::Authority& signer, const std::vector<tls::Certificate>& roots);
  std::string LastNack();
  std::set<std::string> IssuedFor();
  std::vector<tls::Certificate> Issued(const std::string& spiffe);  // the newest last
  std::set<std::string>
  AskedForThemselves();  // those that did not name the identity beside the CSR
  std::chrono::seconds certificate_lifetime{3600};

 private:
  using Call = grpc::test::TestServer::Call;
  void OnCall(Call& call);
  void OnRequest(Call& call, const std::string& message);
  void Sign(Call& call, const std::string& message);
  void Answer(Call& call, const std::vector<std::string>& names);
  void SendAll(Call& call, const std::string& type, const std::set<std::string>& held);

  tls::Authority root_;
  std::string endpoint_;
  std::mutex mutex_;  // guards what follows, up to the thread
  tls::Authority signer_;
  std::string roots_pem_;
  std::string last_nack_;
  bool away_ = false, silent_ = false;
  std::multiset<std::string> asked_;
  struct Demand {
    std::set<std::string> names;  // subscribed to
    std::set<std::string> given;
  };
  std::map<Call*, Demand> on_demand_;
  std::map<std::string, std::string> initial_versions_;
  std::set<std::string> issued_, for_themselves_;
  std::map<std::string, std::vector<tls::Certificate>> leaves_;
  std::map<std::string, std::map<std::string, std::string>> resources_;  // type -> name -> bytes
  std::map<Call*, std::set<std::string>> subscribers_;
  std::atomic<int> version_{0};
  event::LoopThread thread_{"fake-cp"};
  std::unique_ptr<grpc::test::TestServer> server_;
};

class FakeAgent {
 public:
  explicit FakeAgent(const std::string& path);
  ~FakeAgent();
  // Waits for the proxy to connect and reads its hello.
  bool Accept(int timeout_ms = 10000);
  // Each sends one message and returns the Ack's error, "" when it is fine.
  std::string Add(const std::string& uid, const std::string& ns, const std::string& name,
                  const std::string& account, int netns_fd);
  std::string Del(const std::string& uid);
  std::string SnapshotSent();
  std::string SendRaw(const std::string& bytes, int fd = -1);
  void Hangup() { connection_.Reset(); }
  // No process listens meanwhile.
  void GoAway();
  void ComeBack();

 private:
  std::string path_;
  Fd listener_, connection_;
};

}  // namespace qanat::ztunnel::test
