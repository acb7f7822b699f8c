// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/ztunnel/fakes.h"

#include <google/protobuf/empty.pb.h>
#include <google/protobuf/unknown_field_set.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <future>

#include "common/net/address.h"
#include "common/proto/ca.pb.h"
#include "common/proto/workload.pb.h"
#include "common/proto/zds.pb.h"

namespace qanat::ztunnel::test {
namespace {

const std::string kPrefix = "type.googleapis.com/istio.";
std::string UrlOf(const std::string& type) {
  return kPrefix + (type == "Address" ? "workload." : "security.") + type;
}

// One length-delimited protobuf field.
std::string Field(int number, const std::string& value) {
  std::string out;
  const auto varint = [&out](uint64_t v) {
    for (; v >= 0x80; v >>= 7) out.push_back(static_cast<char>(v | 0x80));
    out.push_back(static_cast<char>(v));
  };
  varint(static_cast<uint64_t>(number) << 3 | 2);
  varint(value.size());
  return out + value;
}

// All length-delimited fields of a message whose schema is not needed here.
std::multimap<int, std::string> Fields(const std::string& message) {
  google::protobuf::Empty empty;
  EXPECT_TRUE(empty.ParseFromString(message));
  const auto& unknown = empty.GetReflection()->GetUnknownFields(empty);
  std::multimap<int, std::string> out;
  for (int i = 0; i < unknown.field_count(); ++i) {
    const auto& field = unknown.field(i);
    if (field.type() == google::protobuf::UnknownField::TYPE_LENGTH_DELIMITED) {
      out.emplace(field.number(), field.length_delimited());
    }
  }
  return out;
}

std::string First(const std::multimap<int, std::string>& fields, int number) {
  const auto it = fields.find(number);
  return it == fields.end() ? std::string() : it->second;
}

// A resource's name and the addresses by which it is asked for too.
std::set<std::string> NamesOf(const std::string& name, const std::string& bytes) {
  std::set<std::string> out = {name};
  istio::workload::Address address;
  if (!address.ParseFromString(bytes)) return out;
  const auto add = [&](const std::string& network, const std::string& ip) {
    out.insert(network + "/" +
               net::IpAddress::FromBytes({reinterpret_cast<const uint8_t*>(ip.data()), ip.size()})
                   .ToString());
  };
  for (const auto& ip : address.workload().addresses()) add(address.workload().network(), ip);
  for (const auto& vip : address.service().addresses()) add(vip.network(), vip.address());
  return out;
}

tls::TlsContextPtr MakeContext(const tls::Authority& root, const std::string& spiffe) {
  const auto key = tls::PrivateKey::GenerateP256().value();
  const auto now = std::chrono::system_clock::now();
  tls::LeafTemplate leaf;
  leaf.key = key.public_key();
  leaf.names.uri = {spiffe};
  leaf.not_before = now - std::chrono::minutes(1);
  leaf.not_after = now + std::chrono::hours(1);
  tls::ContextOptions options;
  options.chain = {tls::SignLeaf(root, leaf).value()};
  options.key = key;
  options.roots = {root.certificate};
  return tls::TlsContext::Make(options).value();
}

}  // namespace

tls::Authority FakeControlPlane::NewRoot() {
  const auto now = std::chrono::system_clock::now();
  return tls::MakeRoot(*tls::PrivateKey::GenerateP256(), "Qanat", "test root",
                       now - std::chrono::hours(1), now + std::chrono::hours(24))
      .value();
}

void FakeControlPlane::Rotate(const tls::Authority& signer,
                              const std::vector<tls::Certificate>& roots) {
  std::lock_guard lock(mutex_);
  signer_ = signer;
  roots_pem_ = tls::ToPem(roots);
}

FakeControlPlane::FakeControlPlane() : root_(NewRoot()) {
  Rotate(root_, {root_.certificate});
  std::promise<void> ready;
  thread_.loop().Post([&] {
    server_ = std::make_unique<grpc::test::TestServer>(thread_.loop());
    server_->on_call = [this](Call& call) { OnCall(call); };
    endpoint_ = server_->endpoint();
    ready.set_value();
  });
  ready.get_future().wait();
}

FakeControlPlane::~FakeControlPlane() {
  std::promise<void> gone;
  thread_.loop().Post([&] {
    server_.reset();
    thread_.loop().Post([&] { gone.set_value(); });
  });
  gone.get_future().wait();
}

void FakeControlPlane::OnCall(Call& call) {
  if (call.head.path.ends_with("/CreateCertificate")) {
    call.on_message = [this, &call](std::string message) { Sign(call, message); };
    return;
  }
  {
    std::lock_guard lock(mutex_);
    if (away_) return call.Finish(14, "away");
    initial_versions_.clear();
  }
  call.on_message = [this, &call](const std::string& message) { OnRequest(call, message); };
  call.on_closed = [this, &call] {
    std::lock_guard lock(mutex_);
    subscribers_.erase(&call);
    on_demand_.erase(&call);
  };
  call.Headers();
}

void FakeControlPlane::OnRequest(Call& call, const std::string& message) {
  const auto fields = Fields(message);
  const std::string url = First(fields, 2);
  const std::string type = url.substr(url.rfind('.') + 1);
  if (const std::string error = First(fields, 7); !error.empty()) {
    std::lock_guard lock(mutex_);
    last_nack_ = First(Fields(error), 2);
  }
  std::set<std::string> held;
  {
    std::lock_guard lock(mutex_);
    std::vector<std::string> subscribe;
    for (auto [it, end] = fields.equal_range(3); it != end; ++it) subscribe.push_back(it->second);
    const bool first = subscribers_[&call].insert(type).second;
    if (first && subscribe == std::vector<std::string>{"*"} && First(fields, 4) == "*") {
      on_demand_[&call];
      subscribe.clear();
      call.Send(Field(4, UrlOf(type)) + Field(5, std::to_string(++version_)));
    }
    if (type == "Address" && on_demand_.contains(&call)) return Answer(call, subscribe);
    if (!first) return;
    const auto [begin, end] = fields.equal_range(5);
    for (auto it = begin; it != end; ++it) {
      const auto entry = Fields(it->second);
      held.insert(First(entry, 1));
      initial_versions_[First(entry, 1)] = First(entry, 2);
    }
  }
  SendAll(call, type, held);
}

// What is there of these names, as stock answers: under the resource's own name, whatever it was
// asked by; a service together with its endpoints. The lock is held.
void FakeControlPlane::Answer(Call& call, const std::vector<std::string>& names) {
  Demand& demand = on_demand_[&call];
  asked_.insert(names.begin(), names.end());
  if (names.empty() || silent_) return;
  std::string response, removed;
  std::set<std::string> give;
  for (const std::string& name : names) {
    demand.names.insert(name);
    bool found = false;
    for (const auto& [key, bytes] : resources_["Address"]) {
      if (!NamesOf(key, bytes).contains(name)) continue;
      found = true;
      give.insert(key);
      for (const auto& [other, body] : resources_["Address"]) {
        istio::workload::Address address;
        if (address.ParseFromString(body) && address.workload().services().contains(key)) {
          give.insert(other);
        }
      }
    }
    if (!found) removed += Field(6, name);
  }
  for (const std::string& key : give) {
    const std::string any = Field(1, UrlOf("Address")) + Field(2, resources_["Address"][key]);
    response += Field(2, Field(1, "1") + Field(2, any) + Field(3, key));
    demand.given.insert(key);
  }
  call.Send(response + Field(4, UrlOf("Address")) + Field(5, std::to_string(++version_)) + removed);
}

// All there is, and which of what the proxy holds is no more.
void FakeControlPlane::SendAll(Call& call, const std::string& type,
                               const std::set<std::string>& held) {
  std::string response;
  std::lock_guard lock(mutex_);
  std::string removed;
  for (const std::string& name : held) {
    if (!resources_[type].contains(name)) removed += Field(6, name);
  }
  for (const auto& [name, bytes] : resources_[type]) {
    const std::string any = Field(1, UrlOf(type)) + Field(2, bytes);
    response += Field(2, Field(1, "1") + Field(2, any) + Field(3, name));
  }
  call.Send(response + Field(4, UrlOf(type)) + Field(5, std::to_string(++version_)) + removed);
}

void FakeControlPlane::Put(const std::string& type, const std::string& name,
                           const std::string& bytes) {
  {
    std::lock_guard lock(mutex_);
    resources_[type][name] = bytes;
  }
  thread_.loop().Post([=, this] {
    const std::string version = std::to_string(++version_);
    const std::string any = Field(1, UrlOf(type)) + Field(2, bytes);
    std::lock_guard lock(mutex_);
    for (auto& [call, types] : subscribers_) {
      if (!types.contains(type)) continue;
      if (const auto it = on_demand_.find(call); type == "Address" && it != on_demand_.end()) {
        const auto all = NamesOf(name, bytes);
        const bool wanted = std::any_of(all.begin(), all.end(), [&](const std::string& one) {
          return it->second.names.contains(one) || it->second.given.contains(one);
        });
        if (!wanted) continue;
        it->second.given.insert(name);
      }
      call->Send(Field(2, Field(1, version) + Field(2, any) + Field(3, name)) +
                 Field(4, UrlOf(type)) + Field(5, version));
    }
  });
}

void FakeControlPlane::Remove(const std::string& type, const std::string& name) {
  {
    std::lock_guard lock(mutex_);
    resources_[type].erase(name);
  }
  thread_.loop().Post([=, this] {
    std::lock_guard lock(mutex_);
    for (auto& [call, types] : subscribers_) {
      if (!types.contains(type)) continue;
      call->Send(Field(4, UrlOf(type)) + Field(5, std::to_string(++version_)) + Field(6, name));
    }
  });
}

void FakeControlPlane::Sign(Call& call, const std::string& message) {
  istio::v1::auth::IstioCertificateRequest request;
  ASSERT_TRUE(request.ParseFromString(message));
  const auto csr = tls::ParseCsr(request.csr());
  ASSERT_TRUE(csr.has_value()) << csr.error().message;
  const auto asked = request.metadata().fields().find("ImpersonatedIdentity");
  ASSERT_EQ(csr->sans.uri.size(), 1u);
  const bool named = asked != request.metadata().fields().end();
  if (named) {
    ASSERT_EQ(csr->sans.uri.front(), asked->second.string_value());
  }
  const auto now = std::chrono::system_clock::now();
  tls::LeafTemplate leaf;
  leaf.key = csr->key;
  leaf.names.uri = csr->sans.uri;
  leaf.not_before = now - std::chrono::seconds(1);
  leaf.not_after = now + certificate_lifetime;
  istio::v1::auth::IstioCertificateResponse response;
  {
    std::lock_guard lock(mutex_);
    const tls::Certificate signed_leaf = tls::SignLeaf(signer_, leaf).value();
    response.add_cert_chain(signed_leaf.ToPem());
    response.add_cert_chain(roots_pem_);
    leaves_[csr->sans.uri.front()].push_back(signed_leaf);
    issued_.insert(csr->sans.uri.front());
    if (!named) for_themselves_.insert(csr->sans.uri.front());
  }
  call.Send(response.SerializeAsString());
  call.Finish(0);
}

void FakeControlPlane::SetAway(bool away) {
  std::promise<void> done;
  thread_.loop().Post([&] {
    std::vector<Call*> calls;
    {
      std::lock_guard lock(mutex_);
      away_ = away;
      for (const auto& [call, types] : subscribers_) calls.push_back(call);
    }
    if (away) {
      for (Call* call : calls) call->Finish(14, "away");
    }
    done.set_value();
  });
  done.get_future().wait();
}

std::multiset<std::string> FakeControlPlane::Asked() {
  std::lock_guard lock(mutex_);
  return asked_;
}

void FakeControlPlane::SetSilent(bool silent) {
  std::lock_guard lock(mutex_);
  silent_ = silent;
}

std::map<std::string, std::string> FakeControlPlane::InitialVersions() {
  std::lock_guard lock(mutex_);
  return initial_versions_;
}

tls::TlsContextPtr FakeControlPlane::ContextFor(const std::string& spiffe) {
  return MakeContext(root_, spiffe);
}
tls::TlsContextPtr FakeControlPlane::ForeignContextFor(const std::string& spiffe) {
  return MakeContext(NewRoot(), spiffe);
}

std::string FakeControlPlane::LastNack() {
  std::lock_guard lock(mutex_);
  return last_nack_;
}
std::set<std::string> FakeControlPlane::AskedForThemselves() {
  std::lock_guard lock(mutex_);
  return for_themselves_;
}
std::vector<tls::Certificate> FakeControlPlane::Issued(const std::string& spiffe) {
  std::lock_guard lock(mutex_);
  return leaves_[spiffe];
}
std::set<std::string> FakeControlPlane::IssuedFor() {
  std::lock_guard lock(mutex_);
  return issued_;
}

// ---- the node agent

FakeAgent::FakeAgent(const std::string& path) : path_(path) { ComeBack(); }

void FakeAgent::GoAway() {
  listener_.Reset();
  connection_.Reset();
}

void FakeAgent::ComeBack() {
  unlink(path_.c_str());
  listener_.Reset(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
  EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(listen(listener_.get(), 4), 0);
}

FakeAgent::~FakeAgent() { unlink(path_.c_str()); }

bool FakeAgent::Accept(int timeout_ms) {
  pollfd wait{listener_.get(), POLLIN, 0};
  if (poll(&wait, 1, timeout_ms) != 1) return false;
  connection_.Reset(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  char hello[64];
  const ssize_t n = recv(connection_.get(), hello, sizeof hello, 0);
  istio::workload::zds::ZdsHello message;
  return n >= 0 && message.ParseFromArray(hello, static_cast<int>(n)) &&
         message.version() == istio::workload::zds::V1;
}

std::string FakeAgent::SendRaw(const std::string& bytes, int fd) {
  iovec io{const_cast<char*>(bytes.data()), bytes.size()};
  char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  if (sendmsg(connection_.get(), &message, MSG_NOSIGNAL) < 0) return "send failed";
  pollfd wait{connection_.get(), POLLIN, 0};
  if (poll(&wait, 1, 10000) != 1) return "no answer";
  char buffer[2048];
  const ssize_t n = recv(connection_.get(), buffer, sizeof buffer, 0);
  istio::workload::zds::WorkloadResponse response;
  if (n <= 0 || !response.ParseFromArray(buffer, static_cast<int>(n))) return "closed";
  return response.ack().error();
}

std::string FakeAgent::Add(const std::string& uid, const std::string& ns, const std::string& name,
                           const std::string& account, int netns_fd) {
  istio::workload::zds::WorkloadRequest request;
  request.mutable_add()->set_uid(uid);
  auto* info = request.mutable_add()->mutable_workload_info();
  info->set_namespace_(ns);
  info->set_name(name);
  info->set_service_account(account);
  return SendRaw(request.SerializeAsString(), netns_fd);
}

std::string FakeAgent::Del(const std::string& uid) {
  istio::workload::zds::WorkloadRequest request;
  request.mutable_del()->set_uid(uid);
  return SendRaw(request.SerializeAsString());
}

std::string FakeAgent::SnapshotSent() {
  istio::workload::zds::WorkloadRequest request;
  request.mutable_snapshot_sent();
  return SendRaw(request.SerializeAsString());
}

}  // namespace qanat::ztunnel::test
