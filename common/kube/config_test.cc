// SPDX-License-Identifier: Apache-2.0
#include "common/kube/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <fstream>

#include "common/kube/credentials.h"
#include "common/tls/crypto.h"
#include "common/tls/jwt.h"
#include "common/tls/x509.h"

namespace qanat::kube {
namespace {

using ::testing::HasSubstr;

struct Folder {
  Folder() {
    char name[] = "/tmp/qanat-kube-XXXXXX";
    path = mkdtemp(name);
  }
  ~Folder() { (void)std::system(("rm -rf " + path).c_str()); }
  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(path + "/" + name) << text;
    return path + "/" + name;
  }
  std::string path;
};

Result<ClientConfig> Parse(const std::string& user, const std::string& cluster = "",
                           std::string_view context = {}) {
  return ParseKubeconfig(R"(apiVersion: v1
kind: Config
current-context: dev
contexts:
- {name: prod, context: {cluster: p, user: u, namespace: shop}}
- name: dev
  context: {cluster: c, user: u}
clusters:
- name: c
  cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: Q0E=)" +
                             cluster + R"(}
users:
- name: u
  user: )" + user + "\n",
                         "/etc/x", context);
}

TEST(Kubeconfig, Token) {
  const auto config = Parse("{token: abc}");
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(config->server, "https://127.0.0.1:6443");
  EXPECT_EQ(config->ca_pem, "CA");
  EXPECT_EQ(config->token, "abc");
  EXPECT_EQ(config->default_namespace, "default");
}

TEST(Kubeconfig, JsonIsYamlToo) {
  const auto config = ParseKubeconfig(
      R"({"current-context":"a","contexts":[{"name":"a","context":{"cluster":"c","user":"u"}}],
      "clusters":[{"name":"c","cluster":{"server":"http://[::1]:8001"}}],
      "users":[{"name":"u","user":{"tokenFile":"t"}}]})",
      "/etc/x", {});
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(config->token_file, "/etc/x/t");
}

TEST(Kubeconfig, FilesAreRelativeToIt) {
  const Folder folder;
  folder.Write("ca.pem", "CA");
  folder.Write("tls.crt", "CERT");
  folder.Write("tls.key", "KEY");
  const std::string file = folder.Write("config", R"(
current-context: a
contexts: [{name: a, context: {cluster: c, user: u, namespace: "1"}}]
clusters: [{name: c, cluster: {server: https://h:1, certificate-authority: ca.pem, tls-server-name: kubernetes}}]
users: [{name: u, user: {client-certificate: tls.crt, client-key: tls.key}}]
)");
  const auto config = ClientConfig::FromKubeconfig(file);
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(config->ca_file, folder.path + "/ca.pem");
  EXPECT_EQ(config->client_certificate_pem, "CERT");
  EXPECT_EQ(config->client_key_pem, "KEY");
  EXPECT_EQ(config->tls_server_name, "kubernetes");
  EXPECT_EQ(config->default_namespace, "1");
  EXPECT_THAT(config->origin, HasSubstr(file));
  const auto missing = ClientConfig::FromKubeconfig(folder.path + "/none");
  ASSERT_FALSE(missing.has_value());
  EXPECT_THAT(missing.error().message, HasSubstr("--kubeconfig"));
}

TEST(Kubeconfig, RefusedWithARemedy) {
  const auto says = [](const Result<ClientConfig>& result, const char* what) {
    ASSERT_FALSE(result.has_value()) << what;
    EXPECT_THAT(result.error().message, HasSubstr(what));
  };
  says(Parse("{exec: {command: aws}}"), "kubectl create token");
  says(Parse("{auth-provider: {name: gcp}}"), "an auth provider");
  says(Parse("{username: a, password: b}"), "a password");
  says(Parse("{client-certificate-data: Q0E=}"), "one of them is missing");
  says(Parse("{client-certificate-data: '!', client-key-data: Q0E=}"), "not base64");
  says(Parse("{token: a}", ", insecure-skip-tls-verify: true"), "certificate-authority-data");
  says(Parse("{token: a}", ", proxy-url: http://p"), "kubectl proxy");
  says(Parse("{token: a}", "", "prod"), "which is not there");
  says(Parse("{token: a}", "", "nope"), "prod, dev");
  says(ParseKubeconfig("[]", "/", {}), "is it a kubeconfig");
  says(ParseKubeconfig("", "/", {}), "is it a kubeconfig");
  says(ParseKubeconfig("a: [", "/", {}), "is it a kubeconfig");
  says(ParseKubeconfig("contexts: [{name: x}]", "/", {}), "no current-context");
  says(ParseKubeconfig(std::string("a: \0", 4), "/", {}), "NUL");
}

TEST(InCluster, ReadsTheServiceAccount) {
  const Folder folder;
  folder.Write("token", "tok\n");
  folder.Write("ca.crt", "CA");
  folder.Write("namespace", "qanat-system\n");
  const auto config = InClusterFrom(
      [](const char* name) {
        return std::string(name) == "KUBERNETES_SERVICE_HOST" ? "fd00::1" : "443";
      },
      folder.path);
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(config->server, "https://[fd00::1]:443");
  EXPECT_EQ(config->token_file, folder.path + "/token");
  EXPECT_EQ(config->default_namespace, "qanat-system");
  const auto outside = InClusterFrom([](const char*) { return std::string(); }, folder.path);
  ASSERT_FALSE(outside.has_value());
  EXPECT_EQ(outside.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(outside.error().message, HasSubstr("--kubeconfig"));
  const auto no_token = InClusterFrom([](const char*) { return std::string("1"); }, "/nowhere");
  ASSERT_FALSE(no_token.has_value());
  EXPECT_THAT(no_token.error().message, HasSubstr("automountServiceAccountToken"));
}

std::string Token(const char* claims) {
  const auto key = tls::PrivateKey::GenerateP256();
  return *tls::SignJwt(*key, "k", claims);
}

TEST(Credentials, ARejectedTokenIsToldFromAnExpiredOne) {
  const tls::Time now{std::chrono::seconds(1'800'000'000)};
  const Folder folder;
  ClientConfig config;
  config.origin = "kubeconfig /k, context c";
  config.token = Token(R"({"exp":1700000000})");
  EXPECT_THAT(ExplainRejection(config, now),
              HasSubstr("the token of kubeconfig /k, context c expired at 2023-11-14T22:13:20Z"));
  EXPECT_THAT(ExplainRejection(config, now), HasSubstr("kubectl create token"));
  config.token = Token(R"({"exp":1900000000})");
  EXPECT_THAT(ExplainRejection(config, now), HasSubstr("revoked"));
  config.token = "opaque";
  EXPECT_THAT(ExplainRejection(config, now), HasSubstr("not valid any more"));
  folder.Write("token", Token(R"({"exp":1700000000})") + "\n");
  config.token_file = folder.path + "/token";
  EXPECT_THAT(ExplainRejection(config, now), HasSubstr("the token in " + config.token_file));
  EXPECT_THAT(ExplainRejection(config, now), HasSubstr("expired at 2023"));
  EXPECT_THAT(ExplainRejection(config, now), HasSubstr("delete the pod"));
}

TEST(Credentials, ACertificateSaysWhenItEnded) {
  const tls::Time now{std::chrono::seconds(1'800'000'000)};
  const auto key = tls::PrivateKey::GenerateP256();
  const auto make = [&](std::chrono::hours until) {
    return tls::MakeRoot(*key, "test", "admin", now - std::chrono::hours(48), now + until)
        ->certificate.ToPem();
  };
  ClientConfig config;
  config.origin = "kubeconfig /k, context c";
  config.client_certificate_pem = make(std::chrono::hours(-1));
  EXPECT_THAT(ExplainRejection(config, now),
              HasSubstr("the client certificate of kubeconfig /k, context c expired at "));
  EXPECT_THAT(ExplainRejection(config, now), HasSubstr("put a new one into it"));
  config.client_certificate_pem = make(std::chrono::hours(1));
  EXPECT_THAT(ExplainRejection(config, now), HasSubstr("but not of the CA"));
  config.client_certificate_pem.clear();
  EXPECT_THAT(ExplainRejection(config, now), HasSubstr("names no credentials"));
}

}  // namespace
}  // namespace qanat::kube
