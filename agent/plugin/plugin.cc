// SPDX-License-Identifier: Apache-2.0
#include "agent/plugin/plugin.h"

#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "agent/cni/own_list.h"
#include "agent/files/files.h"
#include "agent/plugin/ask.h"
#include "agent/plugin/decision.h"
#include "agent/pods/membership_cache.h"

namespace qanat::plugin {
namespace {

bool IsOwnNetns(const std::string& path) {
  struct stat own{}, other{};
  return ::stat("/proc/self/ns/net", &own) == 0 && ::stat(path.c_str(), &other) == 0 &&
         own.st_ino == other.st_ino && own.st_dev == other.st_dev;
}

Known Learn(const Invocation& call, const Limits& limits) {
  Known known;
  known.kubernetes = !call.pod_namespace.empty() && !call.pod_name.empty();
  known.excluded = std::find(call.exclude_namespaces.begin(), call.exclude_namespaces.end(),
                             call.pod_namespace) != call.exclude_namespaces.end();
  known.host_network = IsOwnNetns(call.netns);
  if (!known.kubernetes || known.excluded || known.host_network) return known;
  auto api = AskApiServer(call, limits.api);
  if (api) {
    known.api = *api;
    return known;
  }
  known.api_error = api.error().message;
  auto cache = agent::LoadMembershipCache(call.cache);
  if (!cache) {
    known.cache_error = cache.error().message;
    return known;
  }
  known.cache = cache->InMesh(call.pod_namespace, call.pod_name, call.pod_uid);
  if (!known.cache)
    known.cache_error = call.cache + " does not know this pod (it was written before)";
  return known;
}

CniError Held(const Invocation& call, const Decision& decision, const Error& error) {
  const bool away = error.code == Code::kUnavailable || error.code == Code::kDeadlineExceeded ||
                    error.code == Code::kNotFound;
  std::string remedy =
      away ? "is qanat-agent running on this node (kubectl -n qanat-system get pods -o wide)? "
           : "";
  remedy +=
      "The kubelet tries again by itself. To start the pod outside the mesh, label it "
      "istio.io/dataplane-mode=none";
  return {kTryAgainLater,
          "qanat: pod " + call.pod_namespace + "/" + call.pod_name +
              " is held until it can be enrolled: " + error.message,
          decision.why + ". " + remedy};
}

Answer Fail(const std::string& version, const CniError& error) {
  return {FormatError(version, error), 1,
          error.message + (error.details.empty() ? "" : ": " + error.details)};
}

}  // namespace

Answer Run(const Environment& environment, std::string_view stdin_text, const Limits& limits) {
  std::string version;
  auto parsed = ParseInvocation(environment, stdin_text, &version);
  if (!parsed) {
    // A DEL that fails keeps the kubelet from ever removing the pod.
    if (environment("CNI_COMMAND") == "DEL") return {"", 0, parsed.error().message};
    return Fail(version, parsed.error());
  }
  const Invocation& call = *parsed;
  switch (call.command) {
    case Command::kVersion: return {FormatVersions(call.cni_version), 0, ""};
    case Command::kDel:  // the agent notices by itself that a namespace has gone
    case Command::kGc:
    case Command::kStatus: return {};
    case Command::kAdd:
    case Command::kCheck: break;
  }
  const bool add = call.command == Command::kAdd;
  // The plugins before us have just acted on an old configuration. Once, then the list is right; if
  // it cannot be, nobody is held for that.
  std::string stale;
  if (add && !call.own_list.empty()) {
    auto changed = agent::cni::FollowOwnList(call.own_list);
    if (!changed) stale = "; " + call.own_list + " cannot be made anew: " + changed.error().message;
    if (changed && !changed->empty())
      return Fail(
          version,
          {kTryAgainLater,
           "qanat: the pod's network was made by an old configuration: " + *changed +
               " has changed, and " + call.own_list + " was made anew of it",
           "The node agent does that by itself, when it is there. The kubelet tries again"});
  }
  const Known known = Learn(call, limits);
  const Decision decision = Decide(known);
  const std::string who = call.pod_namespace + "/" + call.pod_name;
  if (decision.verdict != Verdict::kPass) {
    Status enrolled =
        AskAgent(call, known.api.value_or(false), add ? "/cmdadd" : "/cmdcheck", limits.agent);
    if (!enrolled && add) return Fail(version, Held(call, decision, enrolled.error()));
    if (!enrolled)
      return Fail(version, {kNotEnrolled, "qanat: pod " + who + " is not enrolled",
                            enrolled.error().message});
  }
  const char* done = decision.verdict == Verdict::kPass ? "passed: " : "enrolled: ";
  return {add ? call.prev_result : "", 0, who + " " + done + decision.why + stale};
}

}  // namespace qanat::plugin
