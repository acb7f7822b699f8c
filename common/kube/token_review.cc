// SPDX-License-Identifier: Apache-2.0
#include "common/kube/token_review.h"

#include <nlohmann/json.hpp>

namespace qanat::kube {
namespace {

using nlohmann::json;

constexpr std::string_view kServiceAccount = "system:serviceaccount:";
constexpr std::string_view kExtra = "authentication.kubernetes.io/";

std::string StringOf(const json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

std::vector<std::string> StringsOf(const json& value) {
  std::vector<std::string> out;
  if (!value.is_array()) return out;
  for (const json& item : value) {
    if (item.is_string()) out.push_back(item.get<std::string>());
  }
  return out;
}

}  // namespace

std::string TokenReview::ServiceAccountNamespace() const {
  if (!username.starts_with(kServiceAccount)) return {};
  const std::string rest = username.substr(kServiceAccount.size());
  const size_t colon = rest.find(':');
  return colon == std::string::npos ? std::string() : rest.substr(0, colon);
}

std::string TokenReview::ServiceAccountName() const {
  const std::string ns = ServiceAccountNamespace();
  return ns.empty() ? std::string() : username.substr(kServiceAccount.size() + ns.size() + 1);
}

std::string TokenReview::Extra(std::string_view name) const {
  const auto it = extra.find(std::string(kExtra) + std::string(name));
  return it == extra.end() || it->second.empty() ? std::string() : it->second.front();
}

CallRequest CreateTokenReview(std::string_view token, const std::vector<std::string>& audiences) {
  const json body = {{"apiVersion", "authentication.k8s.io/v1"},
                     {"kind", "TokenReview"},
                     {"spec", {{"token", token}, {"audiences", audiences}}}};
  CallRequest out;
  out.method = "POST";
  out.path = "/apis/authentication.k8s.io/v1/tokenreviews";
  // A token with bytes that are no UTF-8 is nobody's: let the server say so.
  out.body = body.dump(-1, ' ', false, json::error_handler_t::replace);
  return out;
}

Result<TokenReview> ParseTokenReview(std::string_view text) {
  const json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object() || StringOf(value, "kind") != "TokenReview") {
    return Fail(Code::kInternal, "the API server's answer to a TokenReview is none");
  }
  TokenReview out;
  const auto status = value.find("status");
  if (status == value.end() || !status->is_object()) return out;
  const auto authenticated = status->find("authenticated");
  out.authenticated =
      authenticated != status->end() && authenticated->is_boolean() && authenticated->get<bool>();
  out.error = StringOf(*status, "error");
  out.audiences = StringsOf(status->value("audiences", json()));
  const auto user = status->find("user");
  if (user == status->end() || !user->is_object()) {
    out.authenticated = false;  // nobody is authenticated as nobody
    return out;
  }
  out.username = StringOf(*user, "username");
  out.uid = StringOf(*user, "uid");
  out.groups = StringsOf(user->value("groups", json()));
  if (const auto extra = user->find("extra"); extra != user->end() && extra->is_object()) {
    for (const auto& [key, list] : extra->items()) out.extra[key] = StringsOf(list);
  }
  out.authenticated = out.authenticated && !out.username.empty();
  return out;
}

}  // namespace qanat::kube
