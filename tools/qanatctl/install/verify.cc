// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <map>
#include <set>

#include "tools/qanatctl/install/health.h"
#include "tools/qanatctl/install/install.h"
#include "tools/qanatctl/install/versions.h"
#include "tools/qanatctl/install/wait.h"
#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {

using State = Check::State;

Status CheckObjects(const Api& api, const std::string& ns, std::vector<Check>& out) {
  InstallValues values;
  values.ns = ns;
  QANAT_ASSIGN_OR_RETURN(const std::vector<KubeObject> objects, RenderObjects(values));
  size_t there = 0;
  std::string missing;
  for (const KubeObject& object : objects) {
    QANAT_ASSIGN_OR_RETURN(const std::optional<Json> found,
                           api.Find(object.resource, object.ns, object.name));
    if (!found) {
      missing += fmt::format("{}{}", missing.empty() ? "" : ", ", object.Title());
      continue;
    }
    if (!IsOurs(*found)) {
      out.push_back({State::kWrong, object.Title(),
                     fmt::format("is not ours: it lacks the label {}={}", kPartOf, kOurs)});
      continue;
    }
    ++there;
    if (object.resource.kind != "Deployment" && object.resource.kind != "DaemonSet") continue;
    QANAT_ASSIGN_OR_RETURN(const Step step,
                           LookAtWorkload(api, object.resource, object.ns, object.name, *found));
    out.push_back({step.done ? State::kFine : State::kWrong, object.Title(), step.detail});
  }
  if (!missing.empty()) {
    out.push_back(
        {State::kWrong, "objects", fmt::format("missing: {}; qanatctl install", missing)});
  } else if (there == objects.size()) {
    out.push_back({State::kFine, "objects", fmt::format("all {} there", there)});
  }
  return {};
}

Status CheckCrds(const Api& api, std::vector<Check>& out) {
  QANAT_ASSIGN_OR_RETURN(const std::vector<KubeObject> crds, CrdObjects());
  for (const KubeObject& crd : crds) {
    QANAT_ASSIGN_OR_RETURN(const std::optional<Json> found, api.Find(crd.resource, "", crd.name));
    if (!found || !CrdEstablished(*found)) {
      out.push_back({State::kWrong, "CRD " + crd.name,
                     found ? "is not established" : "is missing: qanatctl install"});
    } else if (!IsOurs(*found)) {
      out.push_back({State::kNote, "CRD " + crd.name, "is not ours, and used as it is"});
    }
  }
  return {};
}

// What the control plane makes once it runs.
Status CheckAuthority(const Api& api, const std::string& ns, std::vector<Check>& out) {
  QANAT_ASSIGN_OR_RETURN(const std::optional<Json> secret,
                         api.Find(kinds::Secrets(), ns, "qanat-ca"));
  out.push_back({secret ? State::kFine : State::kWrong, "Secret qanat-ca",
                 secret ? "holds the CA's key" : "is missing: the control plane makes it"});
  QANAT_ASSIGN_OR_RETURN(const std::optional<Json> lease,
                         api.Find(kinds::Leases(), ns, "qanat-controlplane-leader"));
  const std::string leader = lease ? Str(Get(*lease, "spec"), "holderIdentity") : std::string();
  const std::string version =
      lease ? Str(Get(Get(*lease, "metadata"), "annotations"), "qanat.io/version") : std::string();
  out.push_back({leader.empty() ? State::kWrong : State::kFine, "Lease qanat-controlplane-leader",
                 leader.empty()    ? "nobody holds it: statuses are not written"
                 : version.empty() ? leader
                                   : leader + " of version " + version});
  QANAT_ASSIGN_OR_RETURN(const std::vector<Json> maps,
                         api.List(kinds::ConfigMaps(), "", "", "metadata.name=istio-ca-root-cert"));
  std::map<std::string, std::string> roots;
  for (const Json& map : maps) {
    roots[Str(Get(map, "metadata"), "namespace")] = Str(Get(map, "data"), "root-cert.pem");
  }
  QANAT_ASSIGN_OR_RETURN(const std::vector<Json> namespaces, api.List(kinds::Namespaces(), ""));
  std::string without;
  for (const Json& object : namespaces) {
    if (Str(Get(object, "status"), "phase") == "Terminating") continue;
    const std::string name = Str(Get(object, "metadata"), "name");
    if (roots[name].empty() || roots[name] != roots[ns]) without += " " + name;
  }
  out.push_back(
      {without.empty() ? State::kFine : State::kWrong, "root certificate",
       without.empty() ? "is in every namespace" : "is missing or another one in:" + without});
  return {};
}

Status CheckVersions(const Api& api, const std::string& ns, std::vector<Check>& out) {
  QANAT_ASSIGN_OR_RETURN(const std::vector<Json> pods, api.List(kinds::Pods(), ns));
  const std::string several = SeveralControlPlanes(pods);
  const std::string others = OtherNodeVersions(pods);
  if (!several.empty()) out.push_back({State::kWrong, "versions", several});
  if (!others.empty()) out.push_back({State::kNote, "versions", others});
  if (several.empty() && others.empty()) out.push_back({State::kFine, "versions", "one"});
  return {};
}

// What the line of the DaemonSet has said already is not said again of each of its nodes.
std::string Briefly(const std::string& app, const std::string& problem,
                    const std::vector<Check>& said) {
  const std::string what = "DaemonSet " + app;
  for (const Check& check : said) {
    if (check.what == what && check.detail.find(": " + problem) != std::string::npos) {
      return fmt::format("{} is not ready (why: {})", app, what);
    }
  }
  return app + " " + problem;
}

Status CheckNodes(const Api& api, const std::string& ns, std::vector<Check>& out) {
  QANAT_ASSIGN_OR_RETURN(const std::vector<Json> nodes, api.List(kinds::Nodes(), ""));
  QANAT_ASSIGN_OR_RETURN(const std::vector<Json> events,
                         api.List(kinds::Events(), ns, "", "type=Warning"));
  std::map<std::string, std::map<std::string, std::string>> problems;  // by app, by node
  for (const char* app : {"qanat-agent", "ztunnel"}) {
    QANAT_ASSIGN_OR_RETURN(const std::vector<Json> pods,
                           api.List(kinds::Pods(), ns, fmt::format("app={}", app)));
    for (const Json& pod : pods) {
      const std::string node = Str(Get(pod, "spec"), "nodeName");
      auto [known, first] = problems[app].try_emplace(node, PodProblem(pod, events));
      if (!first && PodReady(pod)) known->second.clear();  // beside one that ends
    }
  }
  for (const Json& node : nodes) {
    const std::string name = Str(Get(node, "metadata"), "name");
    std::string wrong;
    for (const char* app : {"qanat-agent", "ztunnel"}) {
      const auto found = problems[app].find(name);
      if (found != problems[app].end() && found->second.empty()) continue;
      wrong += wrong.empty() ? "" : "; ";
      wrong += Briefly(app, found == problems[app].end() ? "has no pod here" : found->second, out);
    }
    out.push_back({wrong.empty() ? State::kFine : State::kWrong, "node " + name,
                   wrong.empty() ? "agent and ztunnel are ready" : wrong});
  }
  return {};
}

}  // namespace

Result<std::vector<Check>> Verify(const Api& api, const std::string& ns) {
  std::vector<Check> out;
  QANAT_RETURN_IF_ERROR(CheckObjects(api, ns, out));
  QANAT_RETURN_IF_ERROR(CheckCrds(api, out));
  QANAT_RETURN_IF_ERROR(CheckAuthority(api, ns, out));
  QANAT_RETURN_IF_ERROR(CheckVersions(api, ns, out));
  QANAT_RETURN_IF_ERROR(CheckNodes(api, ns, out));
  return out;
}

}  // namespace qanat::ctl
