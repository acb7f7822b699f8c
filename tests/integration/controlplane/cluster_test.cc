// SPDX-License-Identifier: Apache-2.0
// The built control plane as two replicas of one (fake) cluster, asked by our own clients: not
// ready before everything was read, one root, tokens by TokenReview, one writer that the other
// follows, service while the API server is away.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/grpc/channel.h"
#include "common/identity/ca_client.h"
#include "common/tls/jwt.h"
#include "common/xds/delta_client.h"
#include "tests/support/controlplane/kube_bed.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr const char* kMesh = R"(
{apiVersion: v1, kind: Namespace, metadata: {name: qanat-system}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
apiVersion: v1
kind: Pod
metadata: {name: ztunnel-n1, namespace: qanat-system, uid: zt1}
spec: {nodeName: n1, serviceAccountName: ztunnel}
status: {podIP: 10.90.0.1, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: web1}
spec: {nodeName: n1, serviceAccountName: web}
status: {podIP: 10.91.1.5, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, uid: db1}
spec: {nodeName: n2, serviceAccountName: db}
status: {podIP: 10.91.2.5, phase: Running}
)";

struct Collector final : xds::ResourceHandler {
  std::map<std::string, std::string> resources;
  Status OnResource(const KeptText& name, std::string_view, std::string_view bytes) override {
    resources[std::string(name)] = bytes;
    return {};
  }
  void OnRemoved(std::string_view name) override { resources.erase(std::string(name)); }
  void OnBatchEnd() override {}
};

class ClusterTest : public testing::Test, protected KubeBed {
 protected:
  ClusterTest() {
    char name[] = "/tmp/qanat-cluster-XXXXXX";
    dir_ = ::mkdtemp(name);
    std::ofstream(dir_ + "/kubeconfig") << server.Kubeconfig();
    PutYaml(kMesh);
  }
  ~ClusterTest() override {
    for (auto& [name, pid] : pids_) End(name, SIGTERM);
    std::filesystem::remove_all(dir_);
  }

  void Launch(const std::string& name) {
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      const int fd =
          ::open((dir_ + "/" + name + ".log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
      ::dup2(fd, 2);
      ::execl(QANAT_CONTROLPLANE, QANAT_CONTROLPLANE, "--source", "kubernetes", "--kubeconfig",
              (dir_ + "/kubeconfig").c_str(), "--namespace", "qanat-system", "--leader-identity",
              name.c_str(), "--waypoint-image", "localhost/wp:1", "--listen", "127.0.0.1:0",
              "--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--log-level", "debug", nullptr);
      ::_exit(127);
    }
    pids_[name] = pid;
  }
  void End(const std::string& name, int signal) {
    pid_t& pid = pids_[name];
    if (pid <= 0) return;
    ::kill(pid, signal);
    ::waitpid(pid, nullptr, 0);
    pid = -1;
  }
  std::string Log(const std::string& name) const {
    std::ifstream in(dir_ + "/" + name + ".log");
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  }
  bool Says(const std::string& name, const std::string& text) {
    return Until([&] { return Log(name).find(text) != std::string::npos; });
  }
  std::string Endpoint(const std::string& name) {
    const std::string log = Log(name);
    const size_t at = log.find("(port ");
    return at == std::string::npos
               ? ""
               : "https://127.0.0.1:" + std::to_string(std::stoi(log.substr(at + 6)));
  }

  std::string Token(const std::string& ns, const std::string& sa, const std::string& pod,
                    const std::string& uid, const std::string& node) {
    const auto t = std::chrono::duration_cast<std::chrono::seconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
    const std::string token =
        *tls::SignJwt(*tls::PrivateKey::GenerateP256(), "k",
                      R"({"aud":["istio-ca"],"exp":)" + std::to_string(t + 600) + "}");
    server.AddToken(token, "system:serviceaccount:" + ns + ":" + sa, {"istio-ca"},
                    {{"authentication.kubernetes.io/pod-name", pod},
                     {"authentication.kubernetes.io/pod-uid", uid},
                     {"authentication.kubernetes.io/node-name", node}});
    return token;
  }
  std::unique_ptr<grpc::Channel> Connect(const std::string& replica, const std::string& token) {
    const json root =
        Get("/api/v1/namespaces/shop/configmaps/istio-ca-root-cert")["data"]["root-cert.pem"];
    std::ofstream(dir_ + "/root.pem") << root.get<std::string>();
    grpc::ChannelOptions options;
    options.endpoint = Endpoint(replica);
    options.root_ca = dir_ + "/root.pem";
    options.metadata = [token]() -> Result<grpc::Metadata> {
      return grpc::Metadata{{"authorization", "Bearer " + token}, {"clusterid", "Kubernetes"}};
    };
    return std::make_unique<grpc::Channel>(loop, std::move(options));
  }
  Result<identity::CertificatePtr> Certificate(grpc::Channel& channel, const std::string& sa,
                                               bool impersonate) {
    identity::CaOptions options;
    options.impersonate = impersonate;
    const auto ca = identity::MakeGrpcCaClient(channel, options);
    std::optional<Result<identity::CertificatePtr>> result;
    const auto fetch =
        ca->FetchCertificate({"cluster.local", "shop", sa},
                             [&](Result<identity::CertificatePtr> r) { result = std::move(r); });
    if (!Until([&] { return result.has_value(); })) {
      return Fail(Code::kDeadlineExceeded, "no answer");
    }
    return *result;
  }

  std::string dir_;
  std::map<std::string, pid_t> pids_;
};

TEST_F(ClusterTest, TwoReplicasServeAndOneWrites) {
  Launch("a");
  Launch("b");
  ASSERT_TRUE(Says("a", "serving on")) << Log("a");
  ASSERT_TRUE(Says("b", "serving on")) << Log("b");
  ASSERT_TRUE(Until([&] {
    return !server.Get("/api/v1/namespaces/shop/configmaps/istio-ca-root-cert").empty();
  }));
  ASSERT_TRUE(Until([&] {
    return (Log("a").find("(a) leads") != std::string::npos) !=
           (Log("b").find("(b) leads") != std::string::npos);
  }));
  const std::string leader = Log("a").find("(a) leads") != std::string::npos ? "a" : "b";
  const std::string other = leader == "a" ? "b" : "a";

  // Both serve, with one root.
  const std::string node_token = Token("qanat-system", "ztunnel", "ztunnel-n1", "zt1", "n1");
  for (const std::string& replica : {leader, other}) {
    const auto channel = Connect(replica, node_token);
    const auto web = Certificate(*channel, "web", true);
    ASSERT_TRUE(web) << replica << ": " << web.error().message;
    const auto db = Certificate(*channel, "db", true);
    ASSERT_FALSE(db);
    EXPECT_THAT(db.error().message, HasSubstr("no pod on node n1 runs as shop/db"));
  }
  const auto stranger = Connect(other, "not-a-token");
  EXPECT_FALSE(Certificate(*stranger, "web", false));

  // A policy reaches a node proxy at once, and its status follows.
  const auto channel = Connect(other, node_token);
  Collector addresses;
  Collector policies;
  xds::Node node;
  node.id = xds::NodeId("ztunnel", "10.90.0.1", "ztunnel-n1", "qanat-system");
  node.metadata = {{"NAMESPACE", "qanat-system"}, {"SERVICE_ACCOUNT", "ztunnel"}};
  xds::DeltaClient ads(loop, *channel, node);
  ads.AddType(xds::kAddressType, xds::DeltaClient::Subscription::kWildcard, &addresses);
  ads.AddType(xds::kAuthorizationType, xds::DeltaClient::Subscription::kWildcard, &policies);
  ads.Start();
  ASSERT_TRUE(Until([&] { return ads.synced(); })) << ads.last_error();
  EXPECT_TRUE(addresses.resources.contains("Kubernetes//Pod/shop/web"));
  PutYaml(
      "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: deny, "
      "namespace: shop, generation: 1}, spec: {}}");
  ASSERT_TRUE(Until([&] { return policies.resources.contains("shop/deny"); }));
  const std::string path = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/deny";
  ASSERT_TRUE(Until([&] { return Get(path).contains("status"); }));

  // Without the API server what is known is served on.
  server.Listen(false);
  For(std::chrono::milliseconds(500));
  EXPECT_TRUE(ads.synced());
  EXPECT_TRUE(policies.resources.contains("shop/deny"));
  const auto kept = Connect(other, node_token);  // the token was reviewed a moment ago
  EXPECT_TRUE(Certificate(*kept, "web", true));
  server.Listen(true);

  // The leader leaves in order: the other writes within a few seconds.
  End(leader, SIGTERM);
  EXPECT_THAT(Log(leader), HasSubstr("shutting down"));
  ASSERT_TRUE(Says(other, "(" + other + ") leads")) << Log(other);
  PutYaml("{apiVersion: v1, kind: Namespace, metadata: {name: later}}");
  ASSERT_TRUE(Until([&] {
    return !server.Get("/api/v1/namespaces/later/configmaps/istio-ca-root-cert").empty();
  }));
}

TEST_F(ClusterTest, NobodyIsServedBeforeEverythingHasBeenRead) {
  server.AddFault({"GET", "/api/v1/pods", -1, 403, "", "Forbidden",
                   "pods is forbidden: User \"system:serviceaccount:qanat-system:cp\" cannot list "
                   "resource \"pods\" in API group \"\" at the cluster scope"});
  Launch("a");
  ASSERT_TRUE(Says("a", "resources [\"pods\"], verbs [\"list\"]")) << Log("a");
  For(std::chrono::milliseconds(500));
  EXPECT_THAT(Log("a"), testing::Not(HasSubstr("serving on")));
  EXPECT_THAT(Log("a"), HasSubstr("nobody is served before"));
  server.ClearFaults();
  ASSERT_TRUE(Says("a", "serving on")) << Log("a");
}

}  // namespace
}  // namespace qanat::controlplane
