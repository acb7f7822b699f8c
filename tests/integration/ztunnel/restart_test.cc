// SPDX-License-Identifier: Apache-2.0
// A proxy that starts again while the control plane is away, from the state that it saved.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "common/state/journal.h"
#include "tests/integration/ztunnel/bed.h"
#include "ztunnel/state_file.h"

namespace qanat::ztunnel::test {
namespace {

using testing::AllOf;
using testing::Eq;
using testing::Ge;
using testing::HasSubstr;
using testing::Not;

class RestartTest : public Bed {
 protected:
  void SetUp() override {
    char path[] = "/tmp/qanat-restart-XXXXXX";
    directory_ = mkdtemp(path);
    frontend = &AddPod(1);
    stranger = &AddPod(2);
    backend = &AddPod(3);
    Announce("frontend", *frontend, "n1");
    Announce("stranger", *stranger, "n1");
    Announce("backend", *backend, "n1");
    echo = std::make_unique<Server>(backend->netns(), backend->At(8080), Server::Echo());
  }
  void TearDown() override {
    nodes_.clear();
    std::filesystem::remove_all(directory_);
  }
  Node& Start(std::chrono::seconds max_stale = std::chrono::hours(24)) {
    nodes_.clear();
    Node& node = AddNode("n1", [&](Config& config) {
      config.state_dir = directory_;
      config.max_stale = max_stale;
    });
    EXPECT_EQ(node.Enrol("frontend", *frontend), "");
    EXPECT_EQ(node.Enrol("stranger", *stranger), "");
    EXPECT_EQ(node.Enrol("backend", *backend), "");
    EXPECT_EQ(node.agent().SnapshotSent(), "");
    return node;
  }
  TestMesh::Policy Deny(const std::string& account, const std::string& name = "deny") {
    auto policy = TestMesh::MakePolicy(name, istio::security::DENY);
    policy.add_rules()->add_clauses()->add_matches()->add_principals()->set_exact(
        "cluster.local/ns/shop/sa/" + account);
    return policy;
  }
  bool Talks(PodNet& from) {
    Tcp tcp = ConnectFrom(from.netns(), backend->At(8080));
    return tcp.connected() && tcp.Send("x") && tcp.Read(1) == "x";
  }
  static bool IsReady(Node& node) {
    return node.Ready().find("ready\n") != std::string::npos &&
           node.Ready().find("not ready") == std::string::npos;
  }
  bool Saved(const std::string& name) {
    const auto file = StateFile::Read(directory_);
    bool found = false;
    return file &&
           state::ReadJournal(*file, [&](const auto& r) { found = found || r.name == name; }) &&
           found;
  }
  // As if the file had last been confirmed then.
  void Age(std::chrono::seconds by) {
    std::string file = StateFile::Read(directory_).value();
    auto header = state::ReadJournal(file, [](const auto&) {}).value();
    header.current_at -= by.count();
    file.replace(0, state::kJournalHeaderSize, state::EncodeJournalHeader(header));
    Write(file);
  }
  void Write(const std::string& file) {
    std::ofstream(StateFile::PathIn(directory_), std::ios::binary) << file;
  }

  std::string directory_;
  PodNet *frontend, *stranger, *backend;
  std::unique_ptr<Server> echo;
};

TEST_F(RestartTest, PodsComeBackAndDeniedStaysDenied) {
  Put(Deny("stranger"));
  {
    Node& node = Start();
    EXPECT_TRUE(Eventually([&] { return Talks(*frontend) && !Talks(*stranger); }));
    EXPECT_TRUE(node.Counts("qanat_one_pass_connections_total", {"taken"}, Ge(1)));
    EXPECT_TRUE(Eventually([&] { return Saved("shop/deny"); }));
    struct stat about{};
    ASSERT_EQ(stat(StateFile::PathIn(directory_).c_str(), &about), 0);
    EXPECT_EQ(about.st_mode & 0777, 0600u);
  }
  control_plane_.SetAway(true);
  Node& node = Start();
  // By mTLS: the authority is there. Without TLS nothing goes on the word of a file.
  EXPECT_TRUE(Talks(*frontend));
  EXPECT_FALSE(Talks(*stranger));
  EXPECT_EQ(node.Metric("qanat_one_pass_connections_total", {"taken"}), 0);
  EXPECT_TRUE(node.Counts("istio_tcp_connections_opened_total",
                          {"reporter=\"destination\"", "sa/frontend", "mutual_tls"}, Eq(1)));
  EXPECT_TRUE(
      node.Counts("qanat_connections_refused_total", {"destination", "policy_denied"}, Eq(1)));
  EXPECT_THAT(node.Ready(), AllOf(HasSubstr("500"), HasSubstr("xds (saved state of 20")));
  EXPECT_THAT(node.Get("/config_dump"),
              AllOf(HasSubstr("\"freshness\": \"saved\""), HasSubstr("\"ageSeconds\": ")));
  EXPECT_THAT(node.Metric("qanat_saved_state_expired"), Eq(0));

  // Meanwhile one policy went and another came; a pod went too.
  control_plane_.Remove("Authorization", "shop/deny");
  control_plane_.Remove("Address", "Kubernetes//Pod/shop/gone");
  Put(Deny("frontend", "other"));
  control_plane_.SetAway(false);
  EXPECT_TRUE(Eventually([&] { return !Talks(*frontend) && Talks(*stranger); }, 30000));
  EXPECT_TRUE(control_plane_.InitialVersions().contains("shop/deny"));
  EXPECT_TRUE(Eventually([&] { return IsReady(node); }));
  EXPECT_TRUE(Eventually([&] { return Saved("shop/other"); }));
  EXPECT_THAT(node.Get("/config_dump"),
              AllOf(HasSubstr("\"freshness\": \"live\""), Not(HasSubstr("ageSeconds"))));
  EXPECT_EQ(node.Metric("qanat_saved_state_age_seconds"), 0);
  EXPECT_TRUE(node.Counts("qanat_one_pass_connections_total", {"taken"}, Ge(1)));
}

// Older than it may be: whoever has a DENY policy refuses all, whoever has none stays open.
TEST_F(RestartTest, TooOldIsOnlyWhatNothingCouldForbid) {
  auto selected = Deny("nobody");
  selected.set_scope(istio::security::WORKLOAD_SELECTOR);
  Put(selected);
  Announce("stranger", *stranger, "n1",
           [](TestMesh::Workload& w) { w.add_authorization_policies("shop/deny"); });
  Server open(stranger->netns(), stranger->At(8080), Server::Echo());
  const auto talks_to_stranger = [&] {
    Tcp tcp = ConnectFrom(frontend->netns(), stranger->At(8080));
    return tcp.connected() && tcp.Send("x") && tcp.Read(1) == "x";
  };
  Start();
  EXPECT_TRUE(Eventually([&] { return Talks(*frontend) && talks_to_stranger(); }));
  EXPECT_TRUE(Eventually([&] { return Saved("shop/deny"); }));
  nodes_.clear();
  control_plane_.SetAway(true);
  Age(std::chrono::hours(2));
  Node& node = Start(std::chrono::hours(1));
  EXPECT_TRUE(Talks(*frontend));
  EXPECT_FALSE(talks_to_stranger());
  EXPECT_TRUE(node.Counts("qanat_connections_refused_total", {"stale_state"}, Ge(1)));
  EXPECT_THAT(node.Ready(), HasSubstr("xds (expired state of 20"));
  EXPECT_THAT(node.Metric("qanat_saved_state_age_seconds"), Ge(7200));
  EXPECT_EQ(node.Metric("qanat_saved_state_expired"), 1);
  EXPECT_THAT(node.Get("/debug/why/inbound?dst=shop/stranger&port=8080&src_identity="
                       "spiffe://cluster.local/ns/shop/sa/frontend"),
              HasSubstr("stale_state"));
  control_plane_.SetAway(false);
  EXPECT_TRUE(Eventually(talks_to_stranger, 30000));
}

// It becomes too old while it is in force.
TEST_F(RestartTest, GrowsTooOld) {
  Put(Deny("nobody"));
  Start();
  EXPECT_TRUE(Eventually([&] { return Talks(*frontend) && Saved("shop/deny"); }));
  nodes_.clear();
  control_plane_.SetAway(true);
  Node& node = Start(std::chrono::seconds(12));
  EXPECT_TRUE(Talks(*frontend));
  EXPECT_TRUE(node.Counts("qanat_saved_state_expired", {}, Eq(1), 60000));
  EXPECT_FALSE(Talks(*frontend));
}

// A file that is damaged in any way is not used: no pod is served before the control plane is back.
TEST_F(RestartTest, ADamagedFileIsNotUsed) {
  Put(Deny("stranger"));
  Start();
  EXPECT_TRUE(Eventually([&] { return Talks(*frontend) && Saved("shop/deny"); }));
  nodes_.clear();
  std::string file = StateFile::Read(directory_).value();
  file.resize(file.size() - 1);
  Write(file);
  control_plane_.SetAway(true);
  // The agent is not even called.
  const auto started = std::chrono::steady_clock::now();
  std::thread back([this] {
    sleep(3);
    control_plane_.SetAway(false);
  });
  Node& node = Start();
  EXPECT_GE(std::chrono::steady_clock::now() - started, std::chrono::milliseconds(2500));
  back.join();
  EXPECT_EQ(node.Metric("qanat_saved_state_errors_total"), 1);
  EXPECT_TRUE(Eventually([&] { return Talks(*frontend) && !Talks(*stranger); }));
  EXPECT_TRUE(Eventually([&] { return Saved("shop/deny"); }));
}

}  // namespace
}  // namespace qanat::ztunnel::test
