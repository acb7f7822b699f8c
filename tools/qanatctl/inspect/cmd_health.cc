// SPDX-License-Identifier: Apache-2.0
// health FROM TO: network, mesh or application?
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/qanatctl/commands.h"
#include "tools/qanatctl/inspect/collect.h"
#include "tools/qanatctl/inspect/health.h"
#include "tools/qanatctl/json_util.h"
#include "tools/qanatctl/kube/cluster_view.h"

namespace qanat::ctl {
namespace {

constexpr uint16_t kAgentPort = 15030, kMetricsPort = 15020;

std::string NameOf(const PodRef& pod) {
  return fmt::format("ns/{}/sa/{}", pod.ns, pod.service_account);
}

// SERVICE.NS, or a full host name.
std::string ServiceOf(const MeshView& view, const std::string& text) {
  for (const ServiceRef& service : view.services()) {
    const std::string name = service.name + "." + service.ns;
    const std::string host = name + ".svc.cluster.local";
    if (text == name || text == host || text == name + ".svc") return host;
  }
  return {};
}

double Setup(const MeshView& view, const std::string& node, const char* reporter) {
  for (const NodeRef& ref : view.nodes()) {
    if (ref.name != node) continue;
    if (auto text = view.Fetch(ref.netns, kMetricsPort, "/metrics"))
      return SetupMicroseconds(*text, reporter);
  }
  return 0;
}

}  // namespace

int CmdHealth(const Options& options) {
  auto view = OpenMesh(options);
  if (!view) return Complain(view.error());
  auto from = view->FindPod(options.from);
  if (!from) return Complain(from.error());
  HealthPair pair{NameOf(**from), {}, ServiceOf(*view, options.to)};
  double proxy_us = Setup(*view, (*from)->node, "source");
  if (pair.to_service.empty()) {
    auto to = view->FindPod(options.to);
    if (!to) return Complain(to.error().Annotate("neither a service nor a pod"));
    pair.to = NameOf(**to);
    proxy_us += Setup(*view, (*to)->node, "destination");
  }
  auto asked = AskNodes(*view, "", kAgentPort, "/debug/health");
  if (!asked) return Complain(asked.error());
  std::vector<Json> agents;
  for (NodeAnswer& answer : asked->answers) agents.push_back(std::move(answer.json));
  const HealthReport report = JudgeHealth(pair, agents, proxy_us);
  if (options.output == Output::kTable) {
    fmt::print("{}", HealthText(pair, report));
  } else {
    PrintData(HealthJson(pair, report), options.output);
  }
  return TellFailures(*asked) ? kExitOk : kExitError;
}

}  // namespace qanat::ctl
