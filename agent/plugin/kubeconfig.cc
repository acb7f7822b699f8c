// SPDX-License-Identifier: Apache-2.0
#include "agent/plugin/kubeconfig.h"

#include <nlohmann/json.hpp>

#include "common/tls/crypto.h"

namespace qanat::plugin {
namespace {

using Json = nlohmann::json;

std::string Text(const Json& object, const char* key) {
  auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

// json[list][0][item], which we write as the only one.
const Json* First(const Json& json, const char* list, const char* item) {
  auto it = json.find(list);
  if (it == json.end() || !it->is_array() || it->empty() || !it->front().is_object())
    return nullptr;
  auto found = it->front().find(item);
  return found != it->front().end() && found->is_object() ? &*found : nullptr;
}

Status Decode(const Json& object, const char* key, std::string* out) {
  const std::string encoded = Text(object, key);
  if (encoded.empty()) return {};
  auto decoded = tls::Base64Decode(encoded);
  if (!decoded) return Fail(decoded.error().Annotate(key));
  *out = std::move(*decoded);
  return {};
}

}  // namespace

std::string FormatKubeconfigJson(const KubeconfigContent& content) {
  Json cluster = {{"server", content.server},
                  {"certificate-authority-data", tls::Base64Encode(content.ca_pem)}};
  if (!content.tls_server_name.empty()) cluster["tls-server-name"] = content.tls_server_name;
  Json user = Json::object();
  if (!content.token.empty()) {
    user["token"] = content.token;
  } else {
    user["client-certificate-data"] = tls::Base64Encode(content.client_certificate_pem);
    user["client-key-data"] = tls::Base64Encode(content.client_key_pem);
  }
  const Json json = {
      {"apiVersion", "v1"},
      {"kind", "Config"},
      {"clusters", Json::array({{{"name", "qanat"}, {"cluster", std::move(cluster)}}})},
      {"users", Json::array({{{"name", "qanat-cni"}, {"user", std::move(user)}}})},
      {"contexts", Json::array({{{"name", "qanat"},
                                 {"context", {{"cluster", "qanat"}, {"user", "qanat-cni"}}}}})},
      {"current-context", "qanat"}};
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<kube::ClientConfig> ParseKubeconfigJson(std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object())
    return Fail(Code::kInvalidArgument, "not a kubeconfig in JSON (cut off?)");
  const Json* cluster = First(json, "clusters", "cluster");
  const Json* user = First(json, "users", "user");
  if (!cluster || !user)
    return Fail(Code::kInvalidArgument, "no cluster or no user in this kubeconfig");
  kube::ClientConfig config;
  config.server = Text(*cluster, "server");
  config.tls_server_name = Text(*cluster, "tls-server-name");
  config.token = Text(*user, "token");
  if (config.server.empty()) return Fail(Code::kInvalidArgument, "no server in this kubeconfig");
  QANAT_RETURN_IF_ERROR(Decode(*cluster, "certificate-authority-data", &config.ca_pem));
  QANAT_RETURN_IF_ERROR(Decode(*user, "client-certificate-data", &config.client_certificate_pem));
  QANAT_RETURN_IF_ERROR(Decode(*user, "client-key-data", &config.client_key_pem));
  config.origin = "the plugin's kubeconfig";
  return config;
}

}  // namespace qanat::plugin
