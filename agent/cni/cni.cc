// SPDX-License-Identifier: Apache-2.0
#include "agent/cni/cni.h"

#include <nlohmann/json.hpp>

#include "common/base/log.h"

namespace qanat::agent::cni {

Result<AddRequest> ParseAdd(std::string_view body) {
  using Json = nlohmann::json;
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object())
    return Fail(Code::kInvalidArgument, "the body is no JSON object");
  AddRequest request;
  auto text = [&](const char* key, std::string* out, bool required) -> Status {
    auto it = json.find(key);
    if (it != json.end() && it->is_string()) *out = it->get<std::string>();
    if (required && out->empty())
      return Fail(Code::kInvalidArgument,
                  std::string("\"") + key + "\" is missing, empty or no string");
    return {};
  };
  QANAT_RETURN_IF_ERROR(text("PodName", &request.pod_name, true));
  QANAT_RETURN_IF_ERROR(text("PodNamespace", &request.pod_namespace, true));
  QANAT_RETURN_IF_ERROR(text("PodUID", &request.pod_uid, false));
  QANAT_RETURN_IF_ERROR(text("Netns", &request.netns, false));
  auto in_mesh = json.find("InMesh");
  request.in_mesh = in_mesh != json.end() && in_mesh->is_boolean() && in_mesh->get<bool>();
  auto ips = json.find("IPs");
  if (ips != json.end() && !ips->is_null()) {
    if (!ips->is_array()) return Fail(Code::kInvalidArgument, "\"IPs\" is no array");
    for (const Json& ip : *ips) {
      auto address = ip.is_object() ? ip.find("IP") : ip.end();
      if (!ip.is_object() || address == ip.end() || !address->is_string())
        return Fail(Code::kInvalidArgument, "an entry of \"IPs\" has no \"IP\"");
      request.ips.push_back(address->get<std::string>());
    }
  }
  return request;
}

void AddRoutes(admin::Server& server, Enroller& enroller,
               std::function<void(const AddRequest&)> on_add) {
  server.Route("POST", "/cmdcheck", [&enroller](const admin::Request& http) {
    auto request = ParseAdd(http.body);
    if (!request) return admin::Text(400, request.error().message + "\n");
    Status enrolled = enroller.CheckEnrolled(request->pod_namespace, request->pod_name);
    return enrolled ? admin::Text(200, "ok\n") : admin::Text(500, enrolled.error().message + "\n");
  });
  server.RouteDeferred(
      "POST", "/cmdadd",
      [&enroller, on_add = std::move(on_add)](const admin::Request& http, admin::Responder to) {
        auto request = ParseAdd(http.body);
        if (!request) {
          to.Send(admin::Text(400, request.error().message + "\n"));
          return;
        }
        if (on_add) on_add(*request);
        const std::string who = request->pod_namespace + "/" + request->pod_name;
        enroller.AwaitEnrolled({request->pod_namespace, request->pod_name, request->pod_uid,
                                request->netns, request->in_mesh},
                               [to, who](Status status) mutable {
                                 if (status) {
                                   to.Send(admin::Text(200, "ok\n"));
                                   return;
                                 }
                                 LOG_WARN("cni", "{} may not start: {}", who,
                                          status.error().message);
                                 to.Send(admin::Text(500, status.error().message + "\n"));
                               });
      });
}

}  // namespace qanat::agent::cni
