// SPDX-License-Identifier: Apache-2.0
// The built plugin as a process, as a container runtime runs it, with a fake API server and a fake
// node agent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "agent/files/files.h"
#include "agent/plugin/kubeconfig.h"
#include "agent/pods/membership_cache.h"
#include "common/admin/server.h"
#include "common/base/fd.h"
#include "tests/support/kube/fake_api_server.h"

namespace qanat::plugin {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

struct Outcome {
  int code = -1;
  std::string out, err;
  Json json() const { return Json::parse(out, nullptr, false); }
};

class PluginTest : public ::testing::Test {
 protected:
  PluginTest() {
    char name[] = "/tmp/qanat-plugin-XXXXXX";
    dir_ = ::mkdtemp(name);
    std::ofstream(dir_ + "/netns") << "";
    WriteKubeconfig("test-token");
    api_.Put("/api/v1/namespaces/shop",
             R"({"metadata":{"labels":{"istio.io/dataplane-mode":"ambient"}}})");
    api_.Put("/api/v1/namespaces/plain", "{}");
    for (const char* ns : {"shop", "plain"})
      api_.Put(std::string("/api/v1/namespaces/") + ns + "/pods/web",
               R"({"metadata":{"uid":"u1"},"spec":{"nodeName":"n1"}})");
  }
  ~PluginTest() override { std::filesystem::remove_all(dir_); }

  void WriteKubeconfig(const std::string& token) {
    const auto config = api_.Config();
    ASSERT_TRUE(agent::WriteFileAtomically(
        dir_ + "/kubeconfig",
        FormatKubeconfigJson({config.server, config.ca_pem, "", token, "", ""})));
  }
  void StartAgent(int status, const std::string& answer) {
    agent_ = std::make_unique<event::LoopThread>("fake-agent");
    std::atomic<bool> ready{false};
    agent_->loop().Post([&] {
      server_ = std::make_unique<admin::Server>(agent_->loop());
      for (const char* path : {"/cmdadd", "/cmdcheck"})
        server_->Route("POST", path, [this, status, answer, path](const admin::Request& request) {
          asked_ = std::string(path) + " " + request.body;
          return admin::Text(status, answer);
        });
      EXPECT_TRUE(server_->ListenUnix(dir_ + "/agent.sock"));
      ready = true;
    });
    while (!ready) ::usleep(1000);
  }
  void StopAgent() {
    std::atomic<bool> done{false};
    agent_->loop().Post([&] {
      server_.reset();
      done = true;
    });
    while (!done) ::usleep(1000);
    agent_.reset();
  }
  std::string Config() const {
    return Json{{"cniVersion", "0.4.0"},
                {"name", "lab"},
                {"type", "qanat-cni"},
                {"agentSocket", dir_ + "/agent.sock"},
                {"kubeconfig", dir_ + "/kubeconfig"},
                {"cache", dir_ + "/cache"},
                {"logFile", dir_ + "/log"},
                {"excludeNamespaces", {"kube-system", "qanat-system"}},
                {"prevResult",
                 {{"cniVersion", "0.4.0"},
                  {"ips", Json::array({{{"version", "4"}, {"address", "10.244.1.5/24"}}})}}}}
        .dump();
  }
  Outcome Run(const std::string& command, const std::string& ns, const std::string& config,
              const std::string& netns = "", const std::string& uid = "u1") {
    std::ofstream(dir_ + "/in") << config;
    const std::string shell =
        "CNI_COMMAND=" + command + " CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_NETNS=" +
        (netns.empty() ? dir_ + "/netns" : netns) + " CNI_ARGS='K8S_POD_NAMESPACE=" + ns +
        ";K8S_POD_NAME=web;K8S_POD_UID=" + uid + "' " QANAT_CNI_PATH " <" + dir_ + "/in >" + dir_ +
        "/out 2>" + dir_ + "/err";
    Outcome outcome;
    const int status = std::system(shell.c_str());
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    outcome.out = *agent::ReadFile(dir_ + "/out");
    outcome.err = *agent::ReadFile(dir_ + "/err");
    return outcome;
  }
  Outcome Add(const std::string& ns) { return Run("ADD", ns, Config()); }
  void ExpectPassed(const Outcome& outcome) {
    EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
    EXPECT_EQ(outcome.json(), Json::parse(Config())["prevResult"]);
  }
  void ExpectHeld(const Outcome& outcome, const std::string& why) {
    EXPECT_EQ(outcome.code, 1);
    const Json json = outcome.json();
    ASSERT_TRUE(json.is_object()) << outcome.out << outcome.err;
    EXPECT_EQ(json["code"], 11);
    EXPECT_EQ(json["cniVersion"], "0.4.0");
    EXPECT_THAT(json["msg"].get<std::string>() + " | " + json["details"].get<std::string>(),
                HasSubstr(why));
  }

  std::string dir_;
  kube::testing::FakeApiServer api_;
  std::unique_ptr<event::LoopThread> agent_;
  std::unique_ptr<admin::Server> server_;
  std::string asked_;
};

TEST_F(PluginTest, PodsOutsideTheMeshStartWithoutTheAgent) {
  ExpectPassed(Add("plain"));
  ExpectPassed(Add("kube-system"));
  ExpectPassed(Run("ADD", "shop", Config(), "/proc/self/ns/net"));  // the node's network
  EXPECT_THAT(*agent::ReadFile(dir_ + "/log"), HasSubstr("plain/web passed"));
}

// The agent is away, and the network plugin's file is another one than our list was made of.
TEST_F(PluginTest, AnOldConfigurationHoldsOnePodUntilItIsMadeAnew) {
  const std::string own = dir_ + "/net.d/00-qanat-cni.conflist";
  std::filesystem::create_directories(dir_ + "/net.d");
  Json config = Json::parse(Config());
  config["ownList"] = own;
  const auto list = [&](const char* type) {
    return R"({"name":"lab","plugins":[{"type":")" + std::string(type) + R"("}]})";
  };
  const std::string entry = R"({"type":"qanat-cni","ownList":")" + own + "\"}";
  ASSERT_TRUE(agent::WriteFileAtomically(
      own, R"({"name":"lab","plugins":[{"type":"flannel"},)" + entry + "]}"));
  ASSERT_TRUE(agent::WriteFileAtomically(dir_ + "/net.d/10-net.conflist", list("flannel")));
  ExpectPassed(Run("ADD", "plain", config.dump()));
  ASSERT_TRUE(agent::WriteFileAtomically(dir_ + "/net.d/10-net.conflist", list("calico")));
  ExpectHeld(Run("ADD", "kube-system", config.dump()), "10-net.conflist has changed");
  EXPECT_EQ(*agent::ReadFile(own), R"({"name":"lab","plugins":[{"type":"calico"},)" + entry + "]}");
  ExpectPassed(Run("ADD", "kube-system", config.dump()));
}

TEST_F(PluginTest, PodsOfTheMeshStartWhenTheAgentSaysSo) {
  StartAgent(200, "ok\n");
  ExpectPassed(Add("shop"));
  StopAgent();
  const Json body = Json::parse(asked_.substr(asked_.find('{')));
  EXPECT_EQ(asked_.rfind("/cmdadd ", 0), 0u);
  EXPECT_EQ(body["PodNamespace"], "shop");
  EXPECT_EQ(body["PodName"], "web");
  EXPECT_EQ(body["PodUID"], "u1");
  EXPECT_EQ(body["InMesh"], true) << "the API server's word";
  EXPECT_EQ(body["Netns"], dir_ + "/netns");
  EXPECT_EQ(body["IPs"][0]["IP"], "10.244.1.5");
}

TEST_F(PluginTest, AStaticPodIsKnownByItsMirror) {
  api_.Put("/api/v1/namespaces/plain/pods/web",
           R"({"metadata":{"uid":"u9","annotations":{"kubernetes.io/config.mirror":"0123"}}})");
  ExpectPassed(Run("ADD", "plain", Config(), "", "0123"));
  ExpectHeld(Run("ADD", "plain", Config(), "", "4567"), "another pod of this name");
}

TEST_F(PluginTest, PodsOfTheMeshAreHeldElse) {
  ExpectHeld(Add("shop"), "is qanat-agent running on this node");
  StartAgent(500, "no proxy is connected\n");
  ExpectHeld(Add("shop"), "no proxy is connected");
  const Outcome check = Run("CHECK", "shop", Config());
  EXPECT_EQ(check.code, 1);
  EXPECT_EQ(check.json()["code"], 100);
  StopAgent();
}

TEST_F(PluginTest, WithoutTheApiServerTheCacheDecidesElseTheAgent) {
  api_.Listen(false);
  ExpectHeld(Add("plain"), "whether it is in the mesh is not known");
  agent::MembershipCache cache;
  cache.pods = {{"plain/web", {"u1", false}}, {"shop/web", {"u1", true}}};
  ASSERT_TRUE(agent::SaveMembershipCache(dir_ + "/cache", cache));
  ExpectPassed(Add("plain"));
  ExpectHeld(Add("shop"), "the node's cache says it is in the mesh");
  ExpectHeld(Run("ADD", "plain", Config(), "", "u2"), "does not know this pod");
  StartAgent(200, "ok\n");
  ExpectPassed(Run("ADD", "plain", Config(), "", "u2"));  // the agent knows better
  StopAgent();                                            // its thread wrote asked_
  EXPECT_THAT(asked_, HasSubstr("\"InMesh\":false"));
  std::ofstream(dir_ + "/cache", std::ios::app) << "x";
  ExpectHeld(Add("plain"), "checksum");
}

TEST_F(PluginTest, AnExpiredTokenSaysSo) {
  api_.RequireToken("another");
  ExpectHeld(Add("plain"), "token");
  std::filesystem::remove(dir_ + "/kubeconfig");
  ExpectHeld(Add("plain"), dir_ + "/kubeconfig");
}

TEST_F(PluginTest, AnAnswerThatNeverComesIsNotWaitedForLong) {
  api_.AddFault({.path_part = "/pods/", .count = -1, .stall = true});
  const auto begin = std::chrono::steady_clock::now();
  ExpectHeld(Add("plain"), "API server");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
}

TEST_F(PluginTest, TheRestOfTheProtocol) {
  const Outcome version = Run("VERSION", "shop", R"({"cniVersion":"1.0.0"})");
  EXPECT_EQ(version.code, 0);
  EXPECT_THAT(version.json()["supportedVersions"], ::testing::Contains("1.0.0"));
  for (const char* config : {"", "{", "[]", "{\"cniVersion\":\"9\"}"}) {
    const Outcome del = Run("DEL", "shop", config);
    EXPECT_EQ(del.code, 0) << "a DEL never fails";
    EXPECT_EQ(del.out, "");
  }
  EXPECT_EQ(Run("ADD", "shop", "{").json()["code"], 6);
  EXPECT_EQ(Run("ADD", "shop", R"({"cniVersion":"0.4.0"})").json()["code"], 7);
  EXPECT_EQ(Run("CHECK", "plain", Config()).code, 0);
  EXPECT_EQ(Run("CHECK", "plain", Config()).out, "");
}

}  // namespace
}  // namespace qanat::plugin
