// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <map>

#include "tools/qanatctl/install/install.h"
#include "tools/qanatctl/install/root_namespace.h"
#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {

constexpr char kControlPlaneManager[] = "qanat-controlplane";
constexpr char kRedirection[] = "ambient.istio.io/redirection";

struct Swept {
  kube::Resource resource;
  bool only_purge = false;
};

// What we or our control plane make, in the order of removal: nothing that is left can make again
// what is gone, and what grants access goes last.
std::vector<Swept> SweptKinds() {
  return {{kinds::DaemonSets()},
          {kinds::Deployments()},  // the control plane is gone by now: these are waypoints
          {kinds::Services()},
          {{"policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true}},
          {kinds::ConfigMaps()},
          {kinds::Leases()},
          {kinds::GatewayClasses()},
          {{"admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings",
            "ValidatingAdmissionPolicyBinding", false}},
          {{"admissionregistration.k8s.io", "v1", "validatingadmissionpolicies",
            "ValidatingAdmissionPolicy", false}},
          {{"rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", true}},
          {{"rbac.authorization.k8s.io", "v1", "roles", "Role", true}},
          {{"rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", false}},
          {{"rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", false}},
          {kinds::ServiceAccounts()},
          {kinds::Secrets(), true},
          {kinds::Crds(), true},
          {kinds::Namespaces(), true}};
}

// Objects of users whose status our control plane wrote.
std::vector<kube::Resource> StatusKinds() {
  const char* gateway = "gateway.networking.k8s.io";
  const char* security = "security.istio.io";
  const char* networking = "networking.istio.io";
  return {{gateway, "v1", "gateways", "Gateway", true},
          {gateway, "v1", "httproutes", "HTTPRoute", true},
          {security, "v1", "authorizationpolicies", "AuthorizationPolicy", true},
          {security, "v1", "peerauthentications", "PeerAuthentication", true},
          {security, "v1", "requestauthentications", "RequestAuthentication", true},
          {networking, "v1", "virtualservices", "VirtualService", true},
          {networking, "v1", "destinationrules", "DestinationRule", true},
          {networking, "v1", "serviceentries", "ServiceEntry", true},
          kinds::GatewayClasses(),  // one of somebody else's that names our controller
          kinds::Services()};
}

std::string Where(const Json& object) {
  const Json& meta = Get(object, "metadata");
  const std::string ns = Str(meta, "namespace");
  return ns.empty() ? Str(meta, "name") : ns + "/" + Str(meta, "name");
}

Status EndWorkload(const Api& api, const kube::Resource& resource, const std::string& name,
                   const UninstallOptions& options, const Pace& pace) {
  QANAT_ASSIGN_OR_RETURN(const std::optional<Json> found, api.Find(resource, options.ns, name));
  if (found && !IsOurs(*found)) {
    pace.say(fmt::format("  note {} {} is not ours: left as it is", resource.kind, name));
    return {};
  }
  // Foreground: the object stays, marked as being deleted, until its pods have ended. That is how
  // an agent knows that it is to restore its node and not just being replaced.
  QANAT_RETURN_IF_ERROR(api.Delete(resource, options.ns, name, "Foreground"));
  Status gone = WaitFor({WorkloadGone(api, resource, options.ns, name)}, options.timeout, pace);
  if (gone || gone.error().code != Code::kDeadlineExceeded) return gone;
  if (options.force) {
    pace.say("  --force: going on all the same");
    return {};
  }
  return Fail(gone.error().Annotate(
      "stopped here, so that what is left can still end in order (a node that is away: bring it "
      "back, or delete the node; --force goes on and leaves that node as it is)"));
}

// An agent that does not work now will not restore its node at its end either.
Status AgentsWork(const Api& api, const UninstallOptions& options, const Pace& pace) {
  QANAT_ASSIGN_OR_RETURN(const std::optional<Json> agents,
                         api.Find(kinds::DaemonSets(), options.ns, "qanat-agent"));
  if (!agents || !IsOurs(*agents)) return {};
  const bool ending = !Get(Get(*agents, "metadata"), "deletionTimestamp").is_null();
  if (ending || Int(Get(*agents, "status"), "desiredNumberScheduled") == 0) return {};
  const Goal ready = WorkloadReady(api, kinds::DaemonSets(), options.ns, "qanat-agent");
  QANAT_ASSIGN_OR_RETURN(const Step step, ready.look());
  if (step.done) return {};
  if (options.force) {
    pace.say(fmt::format("  --force: going on with agents {}", step.detail));
    return {};
  }
  return Fail(Code::kFailedPrecondition,
              fmt::format("nothing was removed: agents {}. A node whose agent does not work keeps "
                          "its pods captured. Repair it first (qanatctl install), or --force and "
                          "restart that node's pods afterwards",
                          step.detail));
}

// A status that nobody keeps up to date any more says what is not so. Applying nothing gives back
// the fields that the control plane owns.
Status ClearStatuses(const Api& api, const Pace& pace) {
  size_t cleared = 0;
  for (const kube::Resource& resource : StatusKinds()) {
    QANAT_ASSIGN_OR_RETURN(const std::vector<Json> objects, api.List(resource, ""));
    for (const Json& object : objects) {
      const Json& meta = Get(object, "metadata");
      bool wrote = false;
      for (const Json& entry : Items(meta, "managedFields")) {
        wrote = wrote || (Str(entry, "manager") == kControlPlaneManager &&
                          Str(entry, "subresource") == "status");
      }
      if (!wrote || IsOurs(object)) continue;
      const std::string ns = Str(meta, "namespace");
      const std::string name = Str(meta, "name");
      const Json nothing = {{"apiVersion", resource.ApiVersion()},
                            {"kind", resource.kind},
                            {"metadata", {{"name", name}, {"namespace", ns}}}};
      Result<Json> done = api.Call(
          kube::Apply(resource, ns, name, nothing.dump(), kControlPlaneManager, true, "status"));
      if (!done) {
        pace.say(fmt::format("  note the status of {} {} stays: {}", resource.kind, Where(object),
                             done.error().message));
      } else {
        ++cleared;
      }
    }
  }
  if (cleared > 0) pace.say(fmt::format("  ok   statuses taken back: {}", cleared));
  return {};
}

Status Sweep(const Api& api, const UninstallOptions& options, const Pace& pace) {
  for (const Swept& kind : SweptKinds()) {
    if (kind.only_purge && !options.purge) continue;
    QANAT_ASSIGN_OR_RETURN(const std::vector<Json> objects,
                           api.List(kind.resource, "", kOursSelector));
    for (const Json& object : objects) {
      const Json& meta = Get(object, "metadata");
      QANAT_RETURN_IF_ERROR(api.Delete(kind.resource, Str(meta, "namespace"), Str(meta, "name")));
    }
    if (!objects.empty()) {
      pace.say(fmt::format("  ok   {} deleted: {}", kind.resource.Name(), objects.size()));
    }
  }
  return {};
}

Result<Step> LookForResidue(const Api& api, bool purge) {
  Step out{true, ""};
  std::vector<Swept> all = SweptKinds();
  all.push_back({kinds::Pods()});
  for (const Swept& kind : all) {
    if (kind.only_purge && !purge) continue;
    QANAT_ASSIGN_OR_RETURN(const std::vector<Json> objects,
                           api.List(kind.resource, "", kOursSelector));
    for (size_t i = 0; i < objects.size(); ++i) {
      out.done = false;
      if (i == 3) {
        out.detail += fmt::format(" (and {} more)", objects.size() - i);
        break;
      }
      out.detail += fmt::format("{}{} {}", out.detail.empty() ? "" : ", ", kind.resource.kind,
                                Where(objects[i]));
    }
  }
  return out;
}

// The agents take the annotation away with the capture: where it is left, a node was not restored.
Status NameUnrestored(const Api& api) {
  QANAT_ASSIGN_OR_RETURN(const std::vector<Json> pods, api.List(kinds::Pods(), ""));
  std::map<std::string, int> nodes;
  for (const Json& pod : pods) {
    const Json& annotations = Get(Get(pod, "metadata"), "annotations");
    if (!Str(annotations, kRedirection).empty()) ++nodes[Str(Get(pod, "spec"), "nodeName")];
  }
  std::string text;
  for (const auto& [node, count] : nodes) {
    text += fmt::format("{}{} ({})", text.empty() ? "" : ", ", node, count);
  }
  if (text.empty()) return {};
  return Fail(
      Code::kFailedPrecondition,
      fmt::format("pods on these nodes still carry {}: {}. Their agent did not restore "
                  "them: install and uninstall again with working agents, or restart these pods",
                  kRedirection, text));
}

}  // namespace

Status Uninstall(const Api& api, const UninstallOptions& options, const Pace& pace) {
  QANAT_RETURN_IF_ERROR(AgentsWork(api, options, pace));
  pace.say("Node agents (each gives its pods plain networking)");
  QANAT_RETURN_IF_ERROR(EndWorkload(api, kinds::DaemonSets(), "qanat-agent", options, pace));
  pace.say("Node proxies and control plane");
  QANAT_RETURN_IF_ERROR(EndWorkload(api, kinds::DaemonSets(), "ztunnel", options, pace));
  QANAT_RETURN_IF_ERROR(
      EndWorkload(api, kinds::Deployments(), "qanat-controlplane", options, pace));
  pace.say("Everything else");
  QANAT_RETURN_IF_ERROR(ClearStatuses(api, pace));
  QANAT_RETURN_IF_ERROR(Sweep(api, options, pace));
  QANAT_RETURN_IF_ERROR(
      WaitFor({{"nothing of ours is left",
                [&api, purge = options.purge] { return LookForResidue(api, purge); }}},
              options.timeout, pace));
  if (options.purge) {  // after our CRDs: policies that they took with them hold no namespace
    QANAT_ASSIGN_OR_RETURN(const std::vector<Goal> goals, RemoveRootNamespaces(api, pace));
    QANAT_RETURN_IF_ERROR(WaitFor(goals, options.timeout, pace));
  }
  QANAT_RETURN_IF_ERROR(NameUnrestored(api));
  if (!options.purge) {
    pace.say(
        fmt::format("Kept: Namespace {} with the CA's key (Secret qanat-ca), and the CRDs with "
                    "your policies. --purge removes these too.",
                    options.ns));
  }
  return {};
}

}  // namespace qanat::ctl
