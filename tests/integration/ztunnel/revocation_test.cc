// SPDX-License-Identifier: Apache-2.0
// CRL_PATH: who is on the list of its issuer is cut off and not let in again, in both directions.
#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common/tls/test_crl.h"
#include "tests/integration/ztunnel/bed.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Eq;
using testing::Ge;
using testing::HasSubstr;

constexpr char kFrontend[] = "spiffe://cluster.local/ns/shop/sa/frontend";
constexpr char kBackend[] = "spiffe://cluster.local/ns/shop/sa/backend";

class RevocationTest : public Bed {
 protected:
  // frontend and other on n1, backend on n2. Each node has a list file of its own.
  void SetUp() override {
    char name[] = "/tmp/qzt-crl-XXXXXX";
    dir = mkdtemp(name);
    frontend = &AddPod(1);
    other = &AddPod(3);
    backend = &AddPod(2);
    Announce("frontend", *frontend, "n1");
    Announce("other", *other, "n1");
    Announce("backend", *backend, "n2");
    for (const char* node : {"n1", "n2"}) Revoke(node, {});
    n1 = &AddNode("n1", [&](Config& c) { c.crl_path = dir + "/n1"; });
    n2 = &AddNode("n2", [&](Config& c) { c.crl_path = dir + "/n2"; });
    ASSERT_EQ(n1->Enrol("frontend", *frontend), "");
    ASSERT_EQ(n1->Enrol("other", *other), "");
    ASSERT_EQ(n2->Enrol("backend", *backend), "");
    ASSERT_EQ(n1->agent().SnapshotSent(), "");
    ASSERT_EQ(n2->agent().SnapshotSent(), "");
    server = std::make_unique<Server>(backend->netns(), backend->At(8080), Server::Echo());
  }
  void TearDown() override { std::filesystem::remove_all(dir); }

  void Write(const std::string& node, const std::string& text) {
    std::ofstream(dir + "/.new", std::ios::binary) << text;
    std::filesystem::rename(dir + "/.new", dir + "/" + node);
  }
  void Revoke(const std::string& node, const std::vector<tls::Certificate>& revoked) {
    Write(node, tls::testing::Pem(tls::testing::Make(control_plane_.root(), {revoked}).get()));
  }
  std::vector<tls::Certificate> Newest(const std::string& spiffe) {
    auto issued = control_plane_.Issued(spiffe);
    EXPECT_FALSE(issued.empty());
    return {issued.back()};
  }
  static bool Talks(Tcp& tcp) { return tcp.connected() && tcp.Send("x") && tcp.Read(1) == "x"; }
  Tcp From(PodNet* pod) { return ConnectFrom(pod->netns(), backend->At(8080)); }
  bool Talks(PodNet* pod) {
    Tcp tcp = From(pod);
    return Talks(tcp);
  }

  std::string dir;
  PodNet *frontend, *other, *backend;
  Node *n1, *n2;
  std::unique_ptr<Server> server;
};

TEST_F(RevocationTest, ALiveConnectionOfARevokedClientEndsAndANewOneIsRefused) {
  Tcp live = From(frontend), bystander = From(other);
  ASSERT_TRUE(Talks(live) && Talks(bystander));
  Revoke("n2", Newest(kFrontend));
  EXPECT_EQ(live.Next(), "reset");
  EXPECT_TRUE(n2->Counts("istio_crl_policy_rejections_total", {"destination"}, Ge(1)));
  EXPECT_TRUE(n2->Counts("istio_tcp_connections_failed_total",
                         {"response_flags=\"CERT_REVOKED\"", "sa/frontend"}, Eq(1)));
  EXPECT_TRUE(
      n2->Counts("qanat_connections_refused_total", {"destination", "certificate_revoked"}, Ge(1)));
  EXPECT_FALSE(Talks(frontend));
  EXPECT_TRUE(n2->Counts("qanat_inbound_tunnel_errors_total", {"certificate_revoked"}, Ge(2)));
  EXPECT_TRUE(Talks(bystander)) << "another certificate";
  EXPECT_TRUE(Talks(other));
  EXPECT_EQ(n2->Metric("istio_crl_untracked_connections_total"), 0);
  // Taken off the list: all is as before.
  Revoke("n2", {});
  EXPECT_TRUE(Eventually([&] { return Talks(frontend); }));
}

TEST_F(RevocationTest, ALiveConnectionToARevokedServerEndsAndANewOneIsRefused) {
  Tcp live = From(frontend);
  ASSERT_TRUE(Talks(live));
  Revoke("n1", Newest(kBackend));
  EXPECT_EQ(live.Next(), "reset");
  EXPECT_TRUE(n1->Counts("istio_crl_policy_rejections_total", {"source"}, Eq(1)));
  EXPECT_FALSE(Talks(frontend));
  EXPECT_TRUE(
      n1->Counts("qanat_connections_refused_total", {"source", "certificate_revoked"}, Ge(2)));
  EXPECT_TRUE(n1->Counts("istio_tcp_connections_failed_total",
                         {"reporter=\"source\"", "response_flags=\"CERT_REVOKED\""}, Ge(2)));
}

TEST_F(RevocationTest, ABrokenFileLeavesAllAsItWas) {
  Revoke("n2", Newest(kFrontend));
  EXPECT_TRUE(n2->Counts("qanat_crl_entries", {}, Eq(1)));
  EXPECT_FALSE(Talks(frontend));
  Tcp bystander = From(other);
  ASSERT_TRUE(Talks(bystander));
  Write("n2", "-----BEGIN X509 CRL-----\nhalf a fi");
  EXPECT_TRUE(n2->Counts("qanat_crl_failures_total", {}, Ge(1)));
  EXPECT_TRUE(n2->Counts("qanat_crl_in_step", {}, Eq(0)));
  EXPECT_FALSE(Talks(frontend));
  // Nor does a list count that another key made under the CA's name.
  const auto key = tls::PrivateKey::GenerateP256();
  Write("n2", tls::testing::Pem(tls::testing::Make(control_plane_.root(), {}, &*key).get()));
  EXPECT_TRUE(n2->Counts("qanat_crl_failures_total", {}, Ge(2)));
  EXPECT_FALSE(Talks(frontend));
  std::filesystem::remove(dir + "/n2");
  EXPECT_TRUE(n2->Counts("qanat_crl_failures_total", {}, Ge(3)));
  EXPECT_FALSE(Talks(frontend));
  EXPECT_EQ(bystander.Next(200), "nothing");
  EXPECT_TRUE(Talks(bystander));
  EXPECT_TRUE(Talks(other));
}

TEST_F(RevocationTest, OurOwnRevokedCertificateIsReplaced) {
  ASSERT_TRUE(Talks(frontend));
  usleep(5'500'000);  // a certificate that has just come is not asked for again
  const auto revoked = Newest(kFrontend);
  for (const char* node : {"n1", "n2"}) Revoke(node, revoked);
  EXPECT_TRUE(Eventually([&] { return control_plane_.Issued(kFrontend).size() == 2; }));
  EXPECT_TRUE(Eventually([&] { return Talks(frontend); }));
  usleep(300'000);
  EXPECT_EQ(control_plane_.Issued(kFrontend).size(), 2u);
}

}  // namespace
}  // namespace qanat::ztunnel::test
