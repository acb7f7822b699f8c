// SPDX-License-Identifier: Apache-2.0
// The built control plane, asked by our own clients (HTTP/2 and BoringSSL against the gRPC library
// and OpenSSL): certificates, configuration, live changes of the folder, broken files, restart.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common/event/event_loop.h"
#include "common/grpc/channel.h"
#include "common/identity/ca_client.h"
#include "common/net/socket.h"
#include "common/tls/jwt.h"
#include "common/xds/delta_client.h"
#include "tests/support/child.h"

namespace qanat {
namespace {

using testing::Contains;
using testing::HasSubstr;

const char* kOverlay = R"(
apiVersion: v1
kind: Pod
metadata: {name: ztunnel-n1, namespace: qanat-system, uid: zt1}
spec: {nodeName: n1, serviceAccountName: ztunnel, hostNetwork: true}
status: {podIP: 10.90.0.1, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: web1, labels: {app: web}}
spec: {nodeName: n1, serviceAccountName: web}
status: {podIP: 10.91.1.5, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, uid: db1}
spec: {nodeName: n2, serviceAccountName: db}
status: {podIP: 10.91.2.5, phase: Running}
)";
const char* kDeny =
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, "
    "namespace: "
    "shop}\nspec: {}\n";

struct Collector final : xds::ResourceHandler {
  std::map<std::string, std::string> resources;
  Status OnResource(const KeptText& name, std::string_view, std::string_view bytes) override {
    resources[std::string(name)] = bytes;
    return {};
  }
  void OnRemoved(std::string_view name) override { resources.erase(std::string(name)); }
  void OnBatchEnd() override {}
};

class ProgramTest : public testing::Test {
 protected:
  ProgramTest() {
    char name[] = "/tmp/qanat-cp-XXXXXX";
    dir_ = ::mkdtemp(name);
    std::filesystem::create_directory(dir_ + "/yaml");
    std::filesystem::create_directory(dir_ + "/overlay");
    std::ofstream(dir_ + "/jwks.json") << *tls::MakeJwks(issuer_.public_key(), "k");
    std::ofstream(dir_ + "/overlay/pods.yaml") << kOverlay;
    Launch("127.0.0.1:0");
  }
  ~ProgramTest() override {
    if (program_->running()) Stop();
    if (HasFailure()) std::fputs(Log().c_str(), stderr);
    std::filesystem::remove_all(dir_);
  }

  std::vector<std::string> Command(const std::string& listen) const {
    return {QANAT_CONTROLPLANE,
            "--source",
            "folder:" + dir_ + "/yaml",
            "--overlay",
            dir_ + "/overlay",
            "--ca-dir",
            dir_ + "/ca",
            "--token-jwks",
            dir_ + "/jwks.json",
            "--listen",
            listen,
            "--http",
            "127.0.0.1:0",
            "--metrics",
            "127.0.0.1:0",
            "--log-level",
            "debug"};
  }

  void Launch(const std::string& listen) {
    program_ =
        std::make_unique<test::Child>(test::Child::Options{Command(listen), {}, dir_ + "/log", -1});
    ASSERT_TRUE(program_->WaitForLog("serving on")) << Log();
    const std::string log = Log();
    const size_t at = log.find("(port ");
    port_ = std::stoi(log.substr(at + 6));
  }

  // Its end must be one in order, without a sanitizer's report.
  void Stop() {
    EXPECT_EQ(program_->Stop(), "exit code 0");
    EXPECT_EQ(test::FindReport(Log()), "");
  }

  std::string Log() const { return program_->Log(); }

  bool Until(const std::function<bool()>& done, int seconds = 60) {
    const auto end = event::Clock::now() + std::chrono::seconds(seconds);
    while (!done()) {
      if (event::Clock::now() > end) return false;
      loop_.RunOnce(std::chrono::milliseconds(5));
    }
    return true;
  }

  std::string Token(const std::string& ns, const std::string& sa, const std::string& uid) {
    const auto t = std::chrono::duration_cast<std::chrono::seconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
    return *tls::SignJwt(issuer_, "k",
                         R"({"aud":["istio-ca"],"exp":)" + std::to_string(t + 600) +
                             R"(,"sub":"system:serviceaccount:)" + ns + ":" + sa +
                             R"(","kubernetes.io":{"namespace":")" + ns +
                             R"(","serviceaccount":{"name":")" + sa +
                             R"("},"pod":{"name":"","uid":")" + uid + R"("}}})");
  }

  std::unique_ptr<grpc::Channel> Connect(const std::string& token, const std::string& root = "") {
    grpc::ChannelOptions options;
    options.endpoint = "https://127.0.0.1:" + std::to_string(port_);
    options.root_ca = root.empty() ? dir_ + "/ca/root-cert.pem" : root;
    options.metadata = [token]() -> Result<grpc::Metadata> {
      return grpc::Metadata{{"authorization", "Bearer " + token}, {"clusterid", "Kubernetes"}};
    };
    return std::make_unique<grpc::Channel>(loop_, std::move(options));
  }

  Result<identity::CertificatePtr> Certificate(grpc::Channel& channel, const std::string& ns,
                                               const std::string& sa, bool impersonate) {
    identity::CaOptions options;
    options.impersonate = impersonate;
    const auto client = identity::MakeGrpcCaClient(channel, options);
    std::optional<Result<identity::CertificatePtr>> result;
    const auto fetch = client->FetchCertificate(
        {"cluster.local", ns, sa},
        [&](Result<identity::CertificatePtr> r) { result = std::move(r); });
    if (!Until([&] { return result.has_value(); })) {
      return Fail(Code::kDeadlineExceeded, "no answer");
    }
    return *result;
  }

  void Write(const std::string& file, const std::string& text) {
    std::ofstream(dir_ + "/yaml/" + file) << text;
  }

  struct Client {
    std::unique_ptr<grpc::Channel> channel;
    Collector addresses, policies;
    std::unique_ptr<xds::DeltaClient> ads;
  };
  std::unique_ptr<Client> Ztunnel() {
    auto client = std::make_unique<Client>();
    client->channel = Connect(Token("qanat-system", "ztunnel", "zt1"));
    xds::Node node;
    node.id = xds::NodeId("ztunnel", "10.90.0.1", "ztunnel-n1", "qanat-system");
    node.metadata = {{"NAMESPACE", "qanat-system"}, {"SERVICE_ACCOUNT", "ztunnel"}};
    client->ads = std::make_unique<xds::DeltaClient>(loop_, *client->channel, node);
    client->ads->AddType(xds::kAddressType, xds::DeltaClient::Subscription::kWildcard,
                         &client->addresses);
    client->ads->AddType(xds::kAuthorizationType, xds::DeltaClient::Subscription::kWildcard,
                         &client->policies);
    client->ads->Start();
    return client;
  }

  event::EventLoop loop_;
  std::string dir_;
  tls::PrivateKey issuer_ = *tls::PrivateKey::GenerateP256();
  std::unique_ptr<test::Child> program_;
  int port_ = 0;
};

TEST_F(ProgramTest, CertificatesForPodsOfTheNodeOnly) {
  const auto channel = Connect(Token("qanat-system", "ztunnel", "zt1"));
  const auto web = Certificate(*channel, "shop", "web", true);
  ASSERT_TRUE(web) << web.error().message;
  const auto db = Certificate(*channel, "shop", "db", true);
  ASSERT_FALSE(db);
  EXPECT_THAT(db.error().message, HasSubstr("no pod on node n1 runs as shop/db"));
  const auto own = Connect(Token("shop", "web", "web1"));
  EXPECT_TRUE(Certificate(*own, "shop", "web", false));
  EXPECT_FALSE(Certificate(*own, "shop", "db", true));
  const auto stranger = Connect("not-a-token");
  EXPECT_FALSE(Certificate(*stranger, "shop", "web", false));
}

TEST_F(ProgramTest, ClientThatTrustsAnotherRootDoesNotTalk) {
  const tls::PrivateKey key = *tls::PrivateKey::GenerateP256();
  const auto now = std::chrono::system_clock::now();
  const auto other = *tls::MakeRoot(key, "x", "x", now, now + std::chrono::hours(1));
  const auto channel = Connect(Token("shop", "web", "web1"), other.certificate.ToPem());
  EXPECT_FALSE(Certificate(*channel, "shop", "web", false));
}

TEST_F(ProgramTest, LiveChangesBrokenFilesAndRemoval) {
  const auto client = Ztunnel();
  ASSERT_TRUE(Until([&] { return client->ads->synced(); })) << client->ads->last_error();
  EXPECT_THAT(client->addresses.resources, Contains(testing::Key("Kubernetes//Pod/shop/web")));
  EXPECT_TRUE(client->policies.resources.empty());

  Write("policy.yaml", kDeny);
  const auto written = event::Clock::now();
  ASSERT_TRUE(Until([&] { return client->policies.resources.contains("shop/deny"); }));
  EXPECT_LT(event::Clock::now() - written, std::chrono::seconds(10));

  // Broken: the policy stays, the log names the line.
  Write("policy.yaml", std::string(kDeny) + "---\nkind: [\n");
  ASSERT_TRUE(Until([&] { return Log().find("policy.yaml:") != std::string::npos; }));
  EXPECT_TRUE(client->policies.resources.contains("shop/deny"));
  // The folder gone altogether: it stays as well.
  std::filesystem::rename(dir_ + "/yaml", dir_ + "/away");
  ASSERT_TRUE(Until([&] { return Log().find("the folder cannot be read") != std::string::npos; }));
  EXPECT_TRUE(client->policies.resources.contains("shop/deny"));
  std::filesystem::rename(dir_ + "/away", dir_ + "/yaml");

  std::filesystem::create_directory(dir_ + "/yaml/sub");
  std::ofstream(dir_ + "/yaml/sub/more.yml")
      << "apiVersion: v1\nkind: Service\nmetadata: {name: s, "
         "namespace: shop}\nspec: {ports: [{port: 80}]}\n";
  EXPECT_TRUE(
      Until([&] { return client->addresses.resources.contains("shop/s.shop.svc.cluster.local"); }));
  std::filesystem::remove_all(dir_ + "/yaml/sub");
  std::filesystem::remove(dir_ + "/yaml/policy.yaml");
  EXPECT_TRUE(Until([&] { return client->policies.resources.empty(); }));
  EXPECT_TRUE(Until(
      [&] { return !client->addresses.resources.contains("shop/s.shop.svc.cluster.local"); }));
}

TEST_F(ProgramTest, HalfAFileIsNotRead) {
  const auto client = Ztunnel();
  Write("two.yaml", std::string(kDeny) + "---\n" + kDeny + "  rules: []\n");
  Write("two.yaml", std::string(kDeny) +
                        "---\napiVersion: security.istio.io/v1\nkind: "
                        "AuthorizationPolicy\nmetadata: {name: second, namespace: "
                        "shop}\n");
  ASSERT_TRUE(Until([&] { return client->policies.resources.contains("shop/second"); }));
  // Rewritten in place, slowly, while another file changes: what is valid but not whole must not
  // take the second policy away.
  const int fd = ::open((dir_ + "/yaml/two.yaml").c_str(), O_WRONLY | O_TRUNC);
  ASSERT_EQ(::write(fd, kDeny, strlen(kDeny)), static_cast<ssize_t>(strlen(kDeny)));
  Write("other.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop}\nspec: "
        "{ports: [{port: 80}]}\n");
  ASSERT_TRUE(
      Until([&] { return client->addresses.resources.contains("shop/s.shop.svc.cluster.local"); }));
  EXPECT_TRUE(client->policies.resources.contains("shop/second"));
  ::close(fd);
  EXPECT_TRUE(Until([&] { return !client->policies.resources.contains("shop/second"); }));
}

TEST_F(ProgramTest, KilledAndStartedAgainKeepsTheRoot) {
  Write("policy.yaml", kDeny);
  const auto client = Ztunnel();
  ASSERT_TRUE(Until([&] { return client->ads->synced(); }));
  const int port = port_;
  program_.reset();  // SIGKILL
  ASSERT_TRUE(Until([&] { return !client->ads->connected(); }));
  EXPECT_TRUE(client->policies.resources.contains("shop/deny"));
  std::filesystem::remove(dir_ + "/yaml/policy.yaml");
  Launch("127.0.0.1:" + std::to_string(port));
  // Same root, or the channel would not connect; what was removed meanwhile is taken back.
  EXPECT_TRUE(Until([&] { return client->policies.resources.empty(); }))
      << client->ads->last_error();
}

TEST_F(ProgramTest, TwoOnOnePortAndSigterm) {
  test::Child second({Command("127.0.0.1:" + std::to_string(port_)), {}, dir_ + "/second", -1});
  EXPECT_EQ(second.Wait(20000), "exit code 1");
  EXPECT_EQ(test::FindReport(second.Log()), "");
  const auto client = Ztunnel();  // a live stream must not hold it up
  ASSERT_TRUE(Until([&] { return client->ads->synced(); }));
  const auto began = event::Clock::now();
  Stop();
  EXPECT_LT(event::Clock::now() - began, std::chrono::seconds(20));
}

TEST_F(ProgramTest, GarbageOnThePort) {
  for (const char* bytes :
       {"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\xff\xff", "PRI * HTTP/2.0\r\n"}) {
    std::optional<Result<Fd>> connected;
    net::ConnectOptions to;
    to.to = *net::SocketAddress::Parse("127.0.0.1:" + std::to_string(port_));
    net::Connector connector(loop_, to, [&](Result<Fd> fd) { connected = std::move(fd); });
    ASSERT_TRUE(Until([&] { return connected.has_value(); }));
    ASSERT_TRUE(*connected);
    ASSERT_GT(::write((**connected).get(), bytes, strlen(bytes)), 0);
  }
  const auto channel = Connect(Token("shop", "web", "web1"));
  EXPECT_TRUE(Certificate(*channel, "shop", "web", false));
}

}  // namespace
}  // namespace qanat
