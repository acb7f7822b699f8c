// SPDX-License-Identifier: Apache-2.0
#include "agent/plugin/invocation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "agent/plugin/kubeconfig.h"

namespace qanat::plugin {
namespace {

constexpr const char* kConfig = R"({"cniVersion":"0.4.0","name":"lab","type":"qanat-cni",
  "agentSocket":"/s","kubeconfig":"/k","cache":"/c","logFile":"/l",
  "excludeNamespaces":["kube-system",7],
  "prevResult":{"cniVersion":"0.4.0","interfaces":[{"name":"eth0"}],
    "ips":[{"version":"4","address":"10.244.1.5/24","interface":0},{"address":"fd00::5/64"},
           {"address":"x"},3]}})";

Environment Env(std::map<std::string, std::string> values) {
  return [values = std::move(values)](const char* name) {
    auto it = values.find(name);
    return it == values.end() ? std::string() : it->second;
  };
}
const std::map<std::string, std::string> kAdd = {
    {"CNI_COMMAND", "ADD"},
    {"CNI_CONTAINERID", "c1"},
    {"CNI_NETNS", "/var/run/netns/cni-1"},
    {"CNI_ARGS",
     "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;"
     "K8S_POD_UID=u1"}};

TEST(InvocationTest, ReadsAdd) {
  std::string version;
  auto call = ParseInvocation(Env(kAdd), kConfig, &version);
  ASSERT_TRUE(call) << call.error().message;
  EXPECT_EQ(call->command, Command::kAdd);
  EXPECT_EQ(call->pod_namespace, "shop");
  EXPECT_EQ(call->pod_name, "web-0");
  EXPECT_EQ(call->pod_uid, "u1");
  EXPECT_EQ(call->netns, "/var/run/netns/cni-1");
  EXPECT_EQ(call->agent_socket, "/s");
  EXPECT_THAT(call->exclude_namespaces, ::testing::ElementsAre("kube-system"));
  ASSERT_EQ(call->ips.size(), 2u);
  EXPECT_EQ(call->ips[0].ToString(), "10.244.1.5");
  EXPECT_EQ(nlohmann::json::parse(call->prev_result), nlohmann::json::parse(kConfig)["prevResult"])
      << "passed on as it is";
}

TEST(InvocationTest, RefusalsCarryTheCodesOfTheSpecification) {
  struct Case {
    std::string key, value;  // of the environment
    std::string config;
    int code;
  };
  const Case cases[] = {
      {"CNI_COMMAND", "", kConfig, kInvalidEnvironment},
      {"CNI_COMMAND", "add", kConfig, kInvalidEnvironment},
      {"CNI_NETNS", "", kConfig, kInvalidEnvironment},
      {"X", "", "", kDecodingFailure},
      {"X", "", "[]", kDecodingFailure},
      {"X", "", R"({"cniVersion":"0.2.0"})", kIncompatibleVersion},
      {"X", "", R"({"cniVersion":"9.0.0"})", kIncompatibleVersion},
      {"X", "", R"({"cniVersion":"1.0.0","agentSocket":"/s"})", kInvalidConfig},
      {"X", "", R"({"cniVersion":"1.0.0","prevResult":{}})", kInvalidConfig},
      {"CNI_COMMAND", "CHECK", R"({"cniVersion":"1.0.0","agentSocket":"/s"})", kInvalidConfig},
  };
  for (const Case& c : cases) {
    auto environment = kAdd;
    environment[c.key] = c.value;
    std::string version;
    auto call = ParseInvocation(Env(environment), c.config, &version);
    ASSERT_FALSE(call) << c.config;
    EXPECT_EQ(call.error().code, c.code) << c.config;
    const auto json = nlohmann::json::parse(FormatError(version, call.error()));
    EXPECT_EQ(json["code"], c.code);
    EXPECT_FALSE(json["msg"].get<std::string>().empty());
    EXPECT_TRUE(json.contains("cniVersion"));
  }
}

TEST(InvocationTest, DelAndVersionNeedNothing) {
  std::string version;
  EXPECT_TRUE(ParseInvocation(Env({{"CNI_COMMAND", "DEL"}}), "{}", &version));
  auto call =
      ParseInvocation(Env({{"CNI_COMMAND", "VERSION"}}), R"({"cniVersion":"1.0.0"})", &version);
  ASSERT_TRUE(call);
  const auto json = nlohmann::json::parse(FormatVersions(call->cni_version));
  EXPECT_EQ(json["cniVersion"], "1.0.0");
  EXPECT_THAT(json["supportedVersions"], ::testing::Contains("0.4.0"));
}

TEST(KubeconfigTest, ComesBackAsWritten) {
  auto config = ParseKubeconfigJson(
      FormatKubeconfigJson({"https://10.96.0.1:443", "PEM\n", "name", "token", "", ""}));
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->server, "https://10.96.0.1:443");
  EXPECT_EQ(config->ca_pem, "PEM\n");
  EXPECT_EQ(config->tls_server_name, "name");
  EXPECT_EQ(config->token, "token");
  config = ParseKubeconfigJson(FormatKubeconfigJson({"https://x", "P", "", "", "cert", "key"}));
  ASSERT_TRUE(config);
  EXPECT_EQ(config->client_certificate_pem, "cert");
  EXPECT_EQ(config->client_key_pem, "key");
  for (const char* bad : {"", "{", "[]", "{}", R"({"clusters":[{"cluster":{}}],"users":[]})",
                          R"({"clusters":[{"cluster":{"server":""}}],"users":[{"user":{}}]})",
                          R"({"clusters":[{"cluster":{"server":"x",
                             "certificate-authority-data":"*"}}],"users":[{"user":{}}]})"})
    EXPECT_FALSE(ParseKubeconfigJson(bad)) << bad;
}

}  // namespace
}  // namespace qanat::plugin
