// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/install/health.h"

#include <fmt/format.h>

#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {

// Kubernetes leaves a number out when it is 0.
int Number(const Json& object, const char* key, int64_t absent = 0) {
  return static_cast<int>(Get(object, key).is_number_integer() ? Int(object, key) : absent);
}

bool Observed(const Json& object) {
  return Int(Get(object, "status"), "observedGeneration") >=
         Int(Get(object, "metadata"), "generation");
}

bool ConditionTrue(const Json& object, std::string_view type) {
  for (const Json& condition : Items(Get(object, "status"), "conditions")) {
    if (Str(condition, "type") == type) return Str(condition, "status") == "True";
  }
  return false;
}

std::string OneLine(std::string text, size_t limit = 240) {
  for (char& c : text) {
    if (c == '\n' || c == '\r' || c == '\t') c = ' ';
  }
  if (text.size() > limit) text = text.substr(0, limit) + "...";
  return text;
}

// A program's last words: the end of its log, of which the last line says why it ended.
std::string LastLine(const std::string& text) {
  const size_t end = text.find_last_not_of("\r\n ");
  if (end == std::string::npos) return {};
  const size_t newline = text.find_last_of('\n', end);
  const size_t begin = newline == std::string::npos ? 0 : newline + 1;
  return OneLine(text.substr(begin, end + 1 - begin), 1200);
}

// What people do about it. Matched by the words that kubelet and controllers use.
std::string Remedy(std::string_view reason, std::string_view message) {
  const auto has = [&](std::string_view word) {
    return reason.find(word) != std::string_view::npos ||
           message.find(word) != std::string_view::npos;
  };
  if (has("ImagePull") || has("ErrImage") || has("InvalidImageName")) {
    return "the node has no such image: load the archives of ./run images onto every node (ctr -n "
           "k8s.io images import), or name a registry that has them with --image-prefix";
  }
  if (has("istio-ca-root-cert")) {
    return "the control plane's leader writes this ConfigMap: see its log";
  }
  if (has("Unschedulable")) return "make room, or see the node's taints and conditions";
  if (has("PodSecurity") || has("violates")) {
    return "the namespace must allow privileged pods: label "
           "pod-security.kubernetes.io/enforce=privileged";
  }
  if (has("hostPath type check failed")) {
    return "the node lacks this path: /sys/fs/bpf must be a mounted bpffs (mount -t bpf bpf "
           "/sys/fs/bpf), /sys/fs/cgroup must exist";
  }
  if (has("exceeded quota") || has("insufficient quota")) {
    return "raise the ResourceQuota of the namespace (some clusters want one for the priority "
           "classes system-node-critical and system-cluster-critical)";
  }
  if (has("CreateContainerConfigError")) return "an object that the pod refers to is missing";
  return {};
}

std::string Said(const std::string& reason, const std::string& message) {
  std::string out = reason;
  if (!message.empty()) out += (out.empty() ? "" : ": ") + OneLine(message);
  const std::string remedy = Remedy(reason, message);
  if (!remedy.empty()) out += " - " + remedy;
  return out;
}

std::string EventTime(const Json& event) {
  std::string time = Str(event, "lastTimestamp");
  if (time.empty()) time = Str(event, "eventTime");
  if (time.empty()) time = Str(Get(event, "metadata"), "creationTimestamp");
  return time;
}

// The newest warning about an object that `matches`.
template <typename Matches>
std::string NewestEvent(const std::vector<Json>& events, Matches matches) {
  const Json* newest = nullptr;
  for (const Json& event : events) {
    if (Str(event, "type") != "Warning" || !matches(Get(event, "involvedObject"))) continue;
    // A probe that fails while a program starts says less than the program's own state.
    if (newest == nullptr || EventTime(event) >= EventTime(*newest)) newest = &event;
  }
  return newest == nullptr ? "" : Said(Str(*newest, "reason"), Str(*newest, "message"));
}

std::string ContainerProblem(const Json& status) {
  const Json& waiting = Get(Get(status, "state"), "waiting");
  const Json& now = Get(Get(status, "state"), "terminated");
  const Json& before = Get(Get(status, "lastState"), "terminated");
  const Json& ended = now.is_object() ? now : before;
  const std::string reason = Str(waiting, "reason");
  if (reason == "CrashLoopBackOff" || (ended.is_object() && Bool(status, "ready") == false)) {
    return fmt::format(
        "container {} ended with exit code {} ({}){}{}: see its log (kubectl logs "
        "--previous)",
        Str(status, "name"), Int(ended, "exitCode"), Str(ended, "reason"),
        Str(ended, "message").empty() ? "" : ": ", LastLine(Str(ended, "message")));
  }
  if (reason.empty() || reason == "ContainerCreating" || reason == "PodInitializing") return {};
  std::string message = Str(waiting, "message");
  // A runtime does not always say which image.
  const std::string image = Str(status, "image");
  if (reason.find("Image") != std::string::npos && message.find(image) == std::string::npos) {
    message = image + (message.empty() ? "" : ": ") + message;
  }
  return Said(reason, message);
}

}  // namespace

std::string Health::ToString() const { return fmt::format("{}/{}", have, want); }

Health DeploymentHealth(const Json& deployment) {
  const Json& status = Get(deployment, "status");
  Health out;
  out.want = Number(Get(deployment, "spec"), "replicas", 1);
  out.have = std::min(Number(status, "updatedReplicas"), Number(status, "availableReplicas"));
  // Old pods that still end do not count as running it: all that exist must be new.
  out.ready = Observed(deployment) && out.have >= out.want &&
              Number(status, "replicas") == Number(status, "updatedReplicas");
  return out;
}

Health DaemonSetHealth(const Json& daemon_set) {
  const Json& status = Get(daemon_set, "status");
  Health out;
  out.want = Number(status, "desiredNumberScheduled");
  out.have = std::min(Number(status, "updatedNumberScheduled"), Number(status, "numberAvailable"));
  out.ready = Observed(daemon_set) && out.want > 0 && out.have >= out.want;
  return out;
}

bool CrdEstablished(const Json& crd) {
  return ConditionTrue(crd, "Established") && ConditionTrue(crd, "NamesAccepted");
}

bool PodReady(const Json& pod) {
  return ConditionTrue(pod, "Ready") && Get(Get(pod, "metadata"), "deletionTimestamp").is_null();
}

std::string PodProblem(const Json& pod, const std::vector<Json>& events) {
  if (PodReady(pod)) return {};
  if (!Get(Get(pod, "metadata"), "deletionTimestamp").is_null()) return "is ending";
  const Json& status = Get(pod, "status");
  std::string problem;
  for (const Json& condition : Items(status, "conditions")) {
    if (Str(condition, "type") == "PodScheduled" && Str(condition, "status") == "False") {
      problem = Said(Str(condition, "reason"), Str(condition, "message"));
    }
  }
  for (const char* list : {"initContainerStatuses", "containerStatuses"}) {
    for (const Json& container : Items(status, list)) {
      if (problem.empty()) problem = ContainerProblem(container);
    }
  }
  const std::string uid = Str(Get(pod, "metadata"), "uid");
  if (problem.empty() && !uid.empty()) {
    problem = NewestEvent(events, [&](const Json& about) { return Str(about, "uid") == uid; });
  }
  if (problem.empty() && Str(status, "phase") == "Failed") {
    problem = Said(Str(status, "reason"), Str(status, "message"));
  }
  if (!problem.empty()) return problem;
  return Str(status, "phase") == "Running" ? "runs, but is not ready yet" : "is starting";
}

std::string WorkloadProblem(const std::string& name, const std::vector<Json>& events) {
  return NewestEvent(events, [&](const Json& about) {
    const std::string object = Str(about, "name");
    const std::string kind = Str(about, "kind");
    return kind != "Pod" && (object == name || object.starts_with(name + "-"));
  });
}

}  // namespace qanat::ctl
