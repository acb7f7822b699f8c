// SPDX-License-Identifier: Apache-2.0
#include "agent/admin_routes.h"

#include <netinet/tcp.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "agent/node_features.h"
#include "bpf/user/counters.h"

namespace qanat::agent {
namespace {

using Json = nlohmann::json;

admin::Response Dump(const Json& json) {
  return admin::Json(200, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

const char* GuardName(Guard guard) {
  switch (guard) {
    case Guard::kTcx: return "tcx";
    case Guard::kClsact: return "clsact";
    case Guard::kNone: break;
  }
  return "none";
}

Json CountersJson(const qanat_counters& counters) {
  Json json = Json::object();
  for (int i = 0; i < QANAT_COUNTERS; ++i)
    json[std::string(bpf::CounterName(static_cast<qanat_counter>(i)))] = counters.value[i];
  return json;
}

Json DnsJson(uint32_t families) {
  Json json = Json::array();
  if (families & QANAT_DNS_V4) json.push_back("v4");
  if (families & QANAT_DNS_V6) json.push_back("v6");
  return json;
}

// The link of a guard whose interface is not there any more.
bool IsOfGoneDevice(const std::string& link, const std::vector<uint32_t>& devices) {
  unsigned device = 0;
  return std::sscanf(link.c_str(), "guard-%u", &device) == 1 &&
         std::find(devices.begin(), devices.end(), device) == devices.end();
}

// What of ours is attached in this pod alone; the node's programs are at its control groups.
Json AttachedJson(const PodView& pod, const Hooks& hooks) {
  Json links = Json::array();
  if (pod.id != 0)
    for (const auto& link : hooks.PodLinks(pod.id))
      if (!IsOfGoneDevice(link.name, pod.devices))
        links.push_back(
            {{"name", link.name}, {"attached", link.attached}, {"program", link.program_id}});
  return links;
}

Json LastProofJson(const PodView& pod) {
  if (pod.proof.steps.empty()) return nullptr;
  const auto ms = [](event::Duration time) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
  };
  return {{"passed", pod.proof.passed()},
          {"steps", pod.proof.steps.size()},
          {"failure", pod.proof.passed() ? "" : pod.proof.FirstFailure()},
          {"ageMs", ms(pod.proof_age)},
          {"tookMs", ms(pod.proof_took)}};
}

Json PodJson(const PodView& pod, Hooks& hooks) {
  Json json = {{"uid", pod.uid},
               {"name", pod.name},
               {"namespace", pod.ns},
               {"redirection", pod.redirection},
               {"reason", pod.reason},
               {"cannotBeCaptured", pod.uncapturable},
               {"notes", pod.notes},
               {"step", pod.step},
               {"netns", pod.netns},
               {"netnsCookie", pod.cookie},
               {"ips", pod.ips},
               {"id", pod.id},
               {"enforced", pod.enforced},
               {"dns", DnsJson(pod.dns)},
               {"sameNode", pod.same_node},
               {"cutOff", pod.cut_off},
               {"leaving", pod.leaving},
               {"draining", pod.draining},
               {"capturedConnections", pod.captured},
               {"notYetMeshed", pod.not_meshed},
               {"outside", pod.outside},
               {"hostEnds", pod.host_ends},
               {"noHostEnd", pod.no_host_end},
               {"path", {{"proved", pod.path_proved}, {"why", pod.path_why}}},
               {"listeners",
                {{"15001", pod.slots.filled[QANAT_ROLE_OUTBOUND]},
                 {"15006", pod.slots.filled[QANAT_ROLE_INBOUND]},
                 {"15008", pod.slots.filled[QANAT_ROLE_HBONE]}}}};
  Json proof = Json::array();
  for (const ProofStep& step : pod.proof.steps)
    proof.push_back({{"step", step.name}, {"passed", step.passed}, {"detail", step.detail}});
  json["proof"] = std::move(proof);
  json["lastProof"] = LastProofJson(pod);
  json["attached"] = AttachedJson(pod, hooks);
  json["guard"] = {{"by", GuardName(hooks.guard())}, {"devices", pod.devices}};
  if (pod.id != 0)
    if (auto counters = hooks.maps().CountersOf(pod.id)) json["counters"] = CountersJson(*counters);
  return json;
}

Json ClusterJson(const Cluster& cluster) {
  const Publisher::Stats& told = cluster.publisher().stats();
  Json json = {{"notReady", cluster.NotReady()},
               {"apiError", cluster.api_error()},
               {"published",
                {{"annotations", told.patches},
                 {"annotationErrors", told.patch_errors},
                 {"events", told.events},
                 {"eventErrors", told.event_errors},
                 {"eventsDropped", told.events_dropped},
                 {"problem", cluster.publisher().problem()}}}};
  if (cluster.installer())
    json["cniPlugin"] = {{"problem", cluster.installer()->problem()},
                         {"repairs", cluster.installer()->repairs()}};
  return json;
}

std::string_view StateName(uint8_t state) {
  switch (state) {
    case TCP_ESTABLISHED: return "established";
    case TCP_SYN_SENT:
    case TCP_SYN_RECV: return "connecting";
    default: return "closing";
  }
}

// `pod` "" or NAMESPACE/NAME
Json ConnectionsJson(const std::vector<PodConnections>& pods, const std::string& pod) {
  Json json = Json::array();
  for (const PodConnections& p : pods) {
    if (!pod.empty() && p.ns + "/" + p.name != pod) continue;
    Json list = Json::array();
    for (const TcpSocket& socket : p.not_meshed)
      list.push_back({{"direction", socket.accepted ? "in" : "out"},
                      {"local", socket.local.ToString()},
                      {"remote", socket.remote.ToString()},
                      {"state", StateName(socket.state)},
                      {"cookie", socket.cookie}});
    json.push_back({{"namespace", p.ns},
                    {"name", p.name},
                    {"draining", p.draining},
                    {"capturedConnections", p.captured},
                    {"notYetMeshed", std::move(list)}});
  }
  return json;
}

admin::Response EndConnections(Enroller& enroller, const admin::Request& request) {
  const std::string pod = request.Parameter("pod").value_or("");
  const std::string which = request.Parameter("which").value_or("");
  const size_t slash = pod.find('/');
  if (slash == std::string::npos || (which != "unmeshed" && which != "draining"))
    return admin::Text(400, "expected ?pod=NAMESPACE/NAME&which=unmeshed or which=draining\n");
  auto ended = enroller.EndConnections(pod.substr(0, slash), pod.substr(slash + 1),
                                       which == "unmeshed" ? Ended::kNotMeshed : Ended::kDraining);
  if (!ended)
    return admin::Text(ended.error().code == Code::kNotFound ? 404 : 409,
                       ended.error().message + "\n");
  return Dump({{"ended", *ended}});
}

}  // namespace

void AddAdminRoutes(admin::Server& server, std::string node_name,
                    std::vector<bpf::Feature> features, Shown shown) {
  server.Route("GET", "/healthz/ready", [shown](const admin::Request&) {
    for (const auto& link : shown.hooks->NodeLinks())
      if (!link.attached)
        return admin::Text(500, "not ready: hook " + link.name + " is not attached\n");
    if (shown.cluster)
      if (const std::string why = shown.cluster->NotReady(); !why.empty())
        return admin::Text(500, "not ready: " + why + "\n");
    return admin::Text(200, "ready\n");
  });
  server.Route("GET", "/pods", [shown](const admin::Request&) {
    Json pods = Json::array();
    for (const PodView& pod : shown.enroller->View()) pods.push_back(PodJson(pod, *shown.hooks));
    return Dump(pods);
  });
  server.Route("GET", "/connections", [shown](const admin::Request& request) {
    return Dump(
        ConnectionsJson(shown.enroller->Connections(), request.Parameter("pod").value_or("")));
  });
  server.Route("POST", "/connections/end", [shown](const admin::Request& request) {
    return EndConnections(*shown.enroller, request);
  });
  server.Route(
      "GET", "/capture",
      [node_name = std::move(node_name), features = std::move(features),
       shown](const admin::Request&) {
        Json json = {{"node", node_name}, {"pins", shown.hooks->dir()}, {"abi", QANAT_ABI_VERSION}};
        json["kernel"] = bpf::KernelRelease();
        json["features"] = FeaturesJson(features);
        json["guard"] = GuardName(shown.hooks->guard());
        for (const auto& link : shown.hooks->NodeLinks())
          json["hooks"][link.name] = {{"attached", link.attached}, {"program", link.program_id}};
        const zds::Stats& stats = shown.zds->stats();
        const zds::Peer* newest = shown.zds->newest_peer();
        json["zds"] = {{"connections", shown.zds->connections()},
                       {"newestPid", newest ? newest->pid : 0},
                       {"accepted", stats.accepted},
                       {"refused", stats.refused},
                       {"protocolErrors", stats.protocol_errors},
                       {"timeouts", stats.timeouts}};
        json["insideOnly"] = Json::object();
        for (const PodView& pod : shown.enroller->View())
          if (pod.enforced && !pod.no_host_end.empty())
            json["insideOnly"][pod.ns + "/" + pod.name] = pod.no_host_end;
        json["brokenPodFiles"] = shown.source->broken();
        if (shown.cluster) json["cluster"] = ClusterJson(*shown.cluster);
        size_t not_meshed = 0;
        for (const PodConnections& pod : shown.enroller->Connections())
          not_meshed += pod.not_meshed.size();
        json["notYetMeshed"] = not_meshed;
        json["repairs"] = shown.enroller->repairs();
        json["proofsFailed"] = shown.enroller->proofs_failed();
        if (auto counters = shown.hooks->maps().CountersOf(0))
          json["counters"] = CountersJson(*counters);
        return Dump(json);
      });
}

void AddMetrics(metrics::Registry& registry, Shown shown) {
  using metrics::Kind;
  using metrics::Sample;
  registry.AddCallback(
      Kind::kCounter, "qanat_capture_events",
      "What the kernel programs did with pods' connections, by pod and event", [shown] {
        std::vector<Sample> samples;
        for (const PodView& pod : shown.enroller->View()) {
          if (pod.id == 0) continue;
          auto counters = shown.hooks->maps().CountersOf(pod.id);
          if (!counters) continue;
          for (int i = 0; i < QANAT_COUNTERS; ++i) {
            if (counters->value[i] == 0) continue;
            samples.push_back(
                {{{"namespace", pod.ns},
                  {"pod", pod.name},
                  {"event", std::string(bpf::CounterName(static_cast<qanat_counter>(i)))}},
                 static_cast<double>(counters->value[i])});
          }
        }
        return samples;
      });
  registry.AddCallback(Kind::kGauge, "qanat_pods", "Pods of this node by state of their capture",
                       [shown] {
                         std::map<std::string, double> by_state = {
                             {"enabled", 0}, {"pending", 0}, {"disabled", 0}, {"cut_off", 0}};
                         for (const PodView& pod : shown.enroller->View())
                           by_state[pod.cut_off ? "cut_off" : pod.redirection] += 1;
                         std::vector<Sample> samples;
                         samples.reserve(by_state.size());
                         for (const auto& [state, count] : by_state)
                           samples.push_back({{{"state", state}}, count});
                         return samples;
                       });
  registry.AddCallback(
      Kind::kGauge, "qanat_connections_outside",
      "Connections of a pod that are not as its state says: from before it was captured "
      "(not_yet_meshed), or still through the proxy after it left the mesh (draining)",
      [shown] {
        std::vector<Sample> samples;
        for (const PodView& pod : shown.enroller->View()) {
          if (pod.not_meshed > 0)
            samples.push_back(
                {{{"namespace", pod.ns}, {"pod", pod.name}, {"kind", "not_yet_meshed"}},
                 static_cast<double>(pod.not_meshed)});
          if (pod.draining && pod.captured > 0)
            samples.push_back({{{"namespace", pod.ns}, {"pod", pod.name}, {"kind", "draining"}},
                               static_cast<double>(pod.captured)});
        }
        return samples;
      });
  registry.AddCallback(Kind::kGauge, "qanat_held_listeners",
                       "Listening sockets of pods that are kept for the next proxy",
                       [shown]() -> std::vector<Sample> {
                         return {{{}, shown.hold ? static_cast<double>(shown.hold->size()) : 0.0}};
                       });
  registry.AddCallback(
      Kind::kCounter, "qanat_zds_connections", "ZDS connections by what became of them",
      [shown]() -> std::vector<Sample> {
        const zds::Stats& s = shown.zds->stats();
        return {{{{"result", "accepted"}}, static_cast<double>(s.accepted)},
                {{{"result", "refused"}}, static_cast<double>(s.refused)},
                {{{"result", "protocol_error"}}, static_cast<double>(s.protocol_errors)},
                {{{"result", "timeout"}}, static_cast<double>(s.timeouts)}};
      });
  // The stock agent's name for it.
  registry.AddCallback(Kind::kGauge, "ztunnel_connected", "Proxies that are connected",
                       [shown]() -> std::vector<Sample> {
                         return {{{}, static_cast<double>(shown.zds->connections())}};
                       });
  registry.AddCallback(Kind::kCounter, "qanat_repairs",
                       "Parts of the capture that were missing and put back",
                       [shown]() -> std::vector<Sample> {
                         return {{{}, static_cast<double>(shown.enroller->repairs())}};
                       });
  registry.AddCallback(Kind::kCounter, "qanat_proofs_failed", "Proofs of capture that failed",
                       [shown]() -> std::vector<Sample> {
                         return {{{}, static_cast<double>(shown.enroller->proofs_failed())}};
                       });
}

}  // namespace qanat::agent
