// SPDX-License-Identifier: Apache-2.0
#include "agent/plugin/ask.h"

#include <nlohmann/json.hpp>

#include "agent/files/files.h"
#include "agent/plugin/kubeconfig.h"
#include "agent/pods/kube_pod.h"
#include "common/http/client.h"
#include "common/kube/client.h"

namespace qanat::plugin {
namespace {

const kube::Resource kPods{"", "v1", "pods", "Pod", true};
const kube::Resource kNamespaces{"", "v1", "namespaces", "Namespace", false};

}  // namespace

Result<bool> AskApiServer(const Invocation& call, std::chrono::milliseconds timeout) {
  auto text = agent::ReadFile(call.kubeconfig, 1 << 20);
  if (!text) return tl::unexpected(text.error());
  auto config = ParseKubeconfigJson(*text);
  if (!config) return qanat::Fail(config.error().Annotate(call.kubeconfig));
  const auto until = std::chrono::steady_clock::now() + timeout;
  auto get = [&](const kube::Resource& resource, const std::string& ns,
                 const std::string& name) -> Result<std::string> {
    kube::CallRequest request = kube::Get(resource, ns, name);
    request.timeout = std::chrono::duration_cast<std::chrono::milliseconds>(
        until - std::chrono::steady_clock::now());
    if (request.timeout.count() <= 0)
      return qanat::Fail(Code::kDeadlineExceeded, "the API server did not answer in time");
    QANAT_ASSIGN_OR_RETURN(auto response, kube::CallBlocking(*config, std::move(request)));
    return std::move(response.body);
  };
  QANAT_ASSIGN_OR_RETURN(const std::string pod_json, get(kPods, call.pod_namespace, call.pod_name));
  QANAT_ASSIGN_OR_RETURN(agent::Pod pod, agent::ParseKubePod(pod_json));
  if (!call.pod_uid.empty() && pod.KubeletUid() != call.pod_uid)
    return qanat::Fail(Code::kFailedPrecondition,
                       "the API server shows another pod of this name (uid " + pod.uid + ")");
  QANAT_ASSIGN_OR_RETURN(const std::string ns_json, get(kNamespaces, "", call.pod_namespace));
  QANAT_ASSIGN_OR_RETURN(auto ns, agent::ParseKubeNamespace(ns_json));
  pod.namespace_labels = std::move(ns.labels);
  return agent::DecideMembership(pod).in_mesh;
}

Status AskAgent(const Invocation& call, bool in_mesh, const std::string& path,
                std::chrono::milliseconds timeout) {
  using Json = nlohmann::json;
  Json body = {
      {"Netns", call.netns},    {"PodName", call.pod_name}, {"PodNamespace", call.pod_namespace},
      {"PodUID", call.pod_uid}, {"InMesh", in_mesh},        {"IPs", Json::array()}};
  for (const auto& ip : call.ips) body["IPs"].push_back({{"IP", ip.ToString()}});
  http::FetchRequest request;
  request.unix_path = call.agent_socket;
  request.method = "POST";
  request.path = path;
  request.body = body.dump(-1, ' ', false, Json::error_handler_t::replace);
  request.timeout = timeout;
  request.max_response_bytes = 1 << 20;
  auto answer = http::FetchBlocking(std::move(request));
  if (!answer)
    return qanat::Fail(Code::kUnavailable,
                       "the node agent does not answer: " + answer.error().message);
  if (answer->status == 200) return {};
  std::string why = answer->body.substr(0, 2000);
  while (!why.empty() && (why.back() == '\n' || why.back() == ' ')) why.pop_back();
  return qanat::Fail(Code::kFailedPrecondition, "the node agent says: " + why);
}

}  // namespace qanat::plugin
