// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/install/install.h"

#include <fmt/format.h>

#include "tools/qanatctl/install/prerequisites.h"
#include "tools/qanatctl/install/root_namespace.h"
#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {

Status Prerequisites(const Api& api, const InstallOptions& options, const Pace& pace) {
  pace.say("Prerequisites");
  QANAT_ASSIGN_OR_RETURN(const std::vector<Finding> findings,
                         CheckPrerequisites(api, options.values));
  int blocking = 0;
  for (const Finding& finding : findings) {
    const bool blocks = finding.level == Finding::Level::kBlocks;
    blocking += blocks ? 1 : 0;
    pace.say(fmt::format("  {} {}{}{}",
                         blocks                                   ? "!!  "
                         : finding.level == Finding::Level::kNote ? "note"
                                                                  : "ok  ",
                         finding.what, finding.remedy.empty() ? "" : "\n       ", finding.remedy));
  }
  if (blocking == 0) return {};
  if (options.force) {
    pace.say("  --force: going on all the same");
    return {};
  }
  return Fail(Code::kFailedPrecondition,
              "nothing was installed: see the lines with !! above and what to do about each "
              "(--force installs all the same)");
}

// Server-side apply would take over an object of the same name that somebody else made.
Status RefuseStrangers(const Api& api, const std::vector<KubeObject>& objects, bool force) {
  if (force) return {};
  for (const KubeObject& object : objects) {
    if (object.resource.kind == "Namespace") continue;  // may have been made beforehand
    QANAT_ASSIGN_OR_RETURN(const std::optional<Json> found,
                           api.Find(object.resource, object.ns, object.name));
    if (!found || IsOurs(*found)) continue;
    return Fail(
        Code::kAlreadyExists,
        fmt::format("{} exists{} and is not ours (no label {}={}): nothing was installed; "
                    "remove it, choose another --namespace, or --force to take it over",
                    object.Title(), object.ns.empty() ? "" : " in " + object.ns, kPartOf, kOurs));
  }
  return {};
}

Status ApplyCrds(const Api& api, const InstallOptions& options, const Pace& pace) {
  pace.say("CRDs");
  QANAT_ASSIGN_OR_RETURN(const std::vector<KubeObject> crds, CrdObjects());
  std::vector<Goal> goals;
  for (const KubeObject& crd : crds) {
    QANAT_ASSIGN_OR_RETURN(const std::optional<Json> found, api.Find(crd.resource, "", crd.name));
    if (found && !IsOurs(*found)) {
      pace.say(fmt::format("  note {} is there and not ours: left as it is", crd.name));
      continue;
    }
    QANAT_RETURN_IF_ERROR(api.Apply(crd.resource, "", crd.name, crd.json));
    goals.push_back(CrdReady(api, crd.name));
  }
  return WaitFor(goals, options.timeout, pace);
}

}  // namespace

Result<std::set<std::string>> OthersCrds(const Api& api) {
  QANAT_ASSIGN_OR_RETURN(const std::vector<KubeObject> crds, CrdObjects());
  std::set<std::string> others;
  for (const KubeObject& crd : crds) {
    kube::CallRequest request = kube::Get(crd.resource, "", crd.name);
    request.timeout = std::chrono::seconds(3);
    const Result<Json> found = api.Call(std::move(request));
    if (!found && found.error().code != Code::kNotFound) return Fail(found.error());
    if (found && !IsOurs(*found)) others.insert(crd.name);
  }
  return others;
}

Status Install(const Api& api, const InstallOptions& options, const Pace& pace) {
  QANAT_ASSIGN_OR_RETURN(const std::vector<KubeObject> objects, RenderObjects(options.values));
  QANAT_RETURN_IF_ERROR(Prerequisites(api, options, pace));
  QANAT_RETURN_IF_ERROR(RefuseStrangers(api, objects, options.force));
  QANAT_RETURN_IF_ERROR(ApplyCrds(api, options, pace));

  // The nodes' parts wait for what the control plane writes (the root certificate): it goes first,
  // so that the kubelet does not back off from mounting what is not there yet.
  for (const bool nodes : {false, true}) {
    pace.say(nodes ? "Node agents and proxies" : "Control plane");
    std::vector<Goal> goals;
    for (const KubeObject& object : objects) {
      const bool workload =
          object.resource.kind == "Deployment" || object.resource.kind == "DaemonSet";
      if ((object.resource.kind == "DaemonSet") != nodes) continue;
      QANAT_RETURN_IF_ERROR(api.Apply(object.resource, object.ns, object.name, object.json));
      if (workload) goals.push_back(WorkloadReady(api, object.resource, object.ns, object.name));
    }
    if (!nodes) {
      QANAT_RETURN_IF_ERROR(EnsureRootNamespace(api, options.values.root_ns, pace));
      goals.push_back(Exists(api, kinds::ConfigMaps(), options.values.ns, "istio-ca-root-cert"));
    }
    QANAT_RETURN_IF_ERROR(WaitFor(goals, options.timeout, pace));
  }
  return {};
}

}  // namespace qanat::ctl
