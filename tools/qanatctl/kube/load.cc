// SPDX-License-Identifier: Apache-2.0
// Which mesh is meant, and the cluster's objects.
#include <fmt/format.h>

#include "common/kube/client.h"
#include "common/kube/port_forward.h"
#include "tools/qanatctl/http_call.h"
#include "tools/qanatctl/install/api.h"
#include "tools/qanatctl/json_util.h"
#include "tools/qanatctl/kube/cluster_view.h"
#include "tools/qanatctl/local/names.h"
#include "tools/qanatctl/local/teardown.h"

namespace qanat::ctl {
namespace {

constexpr std::chrono::seconds kPatience{10};

// "pod:NS/NAME" -> the pod.
Result<HttpResponse> ThroughApiServer(const kube::ClientConfig& config, const std::string& where,
                                      uint16_t port, const HttpRequest& request) {
  const std::string pod = where.substr(where.find(':') + 1);
  const size_t slash = pod.find('/');
  const kube::PodPort to{pod.substr(0, slash), pod.substr(slash + 1), port};
  const std::string text = fmt::format(
      "{} {} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n"
      "Content-Length: {}\r\n\r\n{}",
      request.method, request.path, port, request.body.size(), request.body);
  QANAT_ASSIGN_OR_RETURN(
      const std::string bytes,
      kube::ExchangeWithPod(config, to, text, kPatience, [](std::string_view so_far, bool ended) {
        auto parsed = ParseHttpResponse(so_far, ended);
        return !parsed || parsed->has_value();
      }));
  QANAT_ASSIGN_OR_RETURN(auto response, ParseHttpResponse(bytes, true));
  if (!response) {
    return Fail(Code::kUnavailable, fmt::format("{} port {}: the answer broke off", pod, port));
  }
  return std::move(*response);
}

}  // namespace

Result<MeshView> LoadCluster(const Options& options) {
  QANAT_ASSIGN_OR_RETURN(const kube::ClientConfig config,
                         kube::ClientConfig::Load(options.kubeconfig, options.context));
  const Api api([&config](kube::CallRequest request) {
    return kube::CallBlocking(config, std::move(request));
  });
  ClusterObjects objects;
  QANAT_ASSIGN_OR_RETURN(objects.pods, api.List(kinds::Pods(), ""));
  QANAT_ASSIGN_OR_RETURN(objects.services, api.List(kinds::Services(), ""));
  QANAT_ASSIGN_OR_RETURN(
      objects.endpoint_slices,
      api.List({"discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", true}, ""));
  return ViewOfCluster(
      config.origin, objects,
      [config](const std::string& where, uint16_t port, const HttpRequest& request) {
        return ThroughApiServer(config, where, port, request);
      });
}

Result<MeshView> OpenMesh(const Options& options) {
  if (!options.kubeconfig.empty() || !options.context.empty()) return LoadCluster(options);
  auto local = MeshView::Load(options.mesh);
  const bool named = options.mesh != Options().mesh;
  if (local || named || local.error().code != Code::kNotFound) return local;
  // No local mesh: is there a cluster? A missing kubeconfig is no news to who has none.
  if (auto config = kube::ClientConfig::Load({}, {}); !config) {
    return Fail(Code::kNotFound, local.error().message +
                                     "; nor is there a cluster to ask: " + config.error().message);
  }
  return LoadCluster(options);
}

}  // namespace qanat::ctl
