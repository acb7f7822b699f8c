// SPDX-License-Identifier: Apache-2.0
#include "agent/cni/credentials.h"

#include <time.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "agent/files/files.h"
#include "agent/plugin/kubeconfig.h"
#include "common/base/log.h"

namespace qanat::agent::cni {
namespace {

constexpr auto kRetry = std::chrono::seconds(10);
// Our own token is renewed by the kubelet under our feet.
constexpr auto kCopyOwnEvery = std::chrono::minutes(5);
constexpr auto kAtLeast = std::chrono::minutes(1);

const kube::Resource kServiceAccounts{"", "v1", "serviceaccounts", "ServiceAccount", true};

}  // namespace

Result<IssuedToken> ParseTokenRequest(std::string_view text) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("status") || !json["status"].is_object())
    return Fail(Code::kInvalidArgument, "the answer to a TokenRequest has no status");
  const auto& status = json["status"];
  IssuedToken out;
  if (auto token = status.find("token"); token != status.end() && token->is_string())
    out.token = token->get<std::string>();
  if (out.token.empty())
    return Fail(Code::kInvalidArgument, "the answer to a TokenRequest has no token");
  if (auto at = status.find("expirationTimestamp"); at != status.end() && at->is_string()) {
    tm parts{};
    if (::strptime(at->get<std::string>().c_str(), "%Y-%m-%dT%H:%M:%S", &parts))
      out.expires_unix = ::timegm(&parts);
  }
  return out;
}

Credentials::Credentials(event::EventLoop& loop, kube::Client& client, CredentialsOptions options)
    : loop_(loop),
      client_(client),
      options_(std::move(options)),
      refresh_(loop, [this] { Refresh(); }) {}

void Credentials::Start() { Refresh(); }

void Credentials::Refresh() {
  const nlohmann::json body = {{"apiVersion", "authentication.k8s.io/v1"},
                               {"kind", "TokenRequest"},
                               {"spec", {{"expirationSeconds", options_.lifetime.count()}}}};
  kube::CallRequest request;
  request.method = "POST";
  request.path = kServiceAccounts.Path(options_.ns, options_.service_account, "token");
  request.body = body.dump();
  request.timeout = std::chrono::seconds(10);
  call_ = client_.Call(std::move(request), [this](Result<kube::CallResponse> response) {
    OnToken(std::move(response));
  });
}

void Credentials::OnToken(Result<kube::CallResponse> response) {
  if (!response) {
    const Code code = response.error().code;
    if (code == Code::kPermissionDenied || code == Code::kNotFound)
      return UseOwn(response.error().message);
    problem_ = response.error().message;  // what is on the disk goes on
    refresh_.Start(kRetry);
    return;
  }
  auto issued = ParseTokenRequest(response->body);
  if (!issued) return UseOwn(issued.error().message);
  // Half of what is left; a clock that is wrong, or a server's odd answer, changes nothing much.
  long half = options_.lifetime.count() / 2;
  if (issued->expires_unix != 0)
    half = std::clamp<long>((issued->expires_unix - ::time(nullptr)) / 2, 0, half);
  Write(issued->token, std::max<event::Duration>(std::chrono::seconds(half), kAtLeast));
}

void Credentials::UseOwn(const std::string& why) {
  if (problem_ != why)
    LOG_WARN("cni",
             "the plugin gets the agent's own token, which ends with the agent's pod (service "
             "account {} in {}: {})",
             options_.service_account, options_.ns, why);
  problem_ = why;
  std::string token = client_.config().token;
  if (!client_.config().token_file.empty())
    if (auto text = ReadFile(client_.config().token_file, 1 << 16)) token = *text;
  while (!token.empty() && (token.back() == '\n' || token.back() == ' ')) token.pop_back();
  const std::string kept = problem_;
  Write(token, kCopyOwnEvery);
  problem_ = kept;
}

void Credentials::Write(const std::string& token, event::Duration again_in) {
  const kube::ClientConfig& own = client_.config();
  plugin::KubeconfigContent content{own.server, own.ca_pem, own.tls_server_name, token, "", ""};
  if (!own.ca_file.empty())
    if (auto pem = ReadFile(own.ca_file, 1 << 20)) content.ca_pem = *pem;
  if (token.empty()) {
    content.client_certificate_pem = own.client_certificate_pem;
    content.client_key_pem = own.client_key_pem;
  }
  Status done = WriteFileAtomically(options_.path, plugin::FormatKubeconfigJson(content),
                                    WriteOptions{.mode = 0600, .durable = true});
  if (!done) {
    LOG_WARN("cni", "the plugin's kubeconfig is not written: {}", done.error().message);
    problem_ = done.error().message;
    refresh_.Start(kRetry);
    return;
  }
  problem_.clear();
  refresh_.Start(again_in);
}

}  // namespace qanat::agent::cni
