// SPDX-License-Identifier: Apache-2.0
// qanatctl why: follows one connection or request through the proxies that would see it and asks
// each for its decision.
#include <fmt/format.h>

#include <algorithm>

#include "common/net/address.h"
#include "tools/qanatctl/commands.h"
#include "tools/qanatctl/inspect/collect.h"
#include "tools/qanatctl/inspect/why.h"
#include "tools/qanatctl/json_util.h"
#include "tools/qanatctl/kube/cluster_view.h"

namespace qanat::ctl {
namespace {

constexpr uint16_t kAdmin = 15000;
constexpr uint16_t kAgent = 15030;

std::string Bracketed(const std::string& ip) {
  return ip.find(':') != std::string::npos ? "[" + ip + "]" : ip;
}

std::string Identity(const PodRef& pod) {
  return fmt::format("spiffe://cluster.local/ns/{}/sa/{}", pod.ns, pod.service_account);
}

bool Enrolled(const PodRef& pod) { return pod.redirection == "enabled"; }
bool Speaks(const PodRef& pod) { return Enrolled(pod) || !pod.gateway.empty(); }

class Tracer {
 public:
  Tracer(const MeshView& view, const Options& options, const PodRef& from, WhyTarget to)
      : view_(view), options_(options), from_(from) {
    report_.from = from.ns + "/" + from.name;
    report_.from_node = from.node;
    if (Speaks(from)) report_.from_identity = Identity(from);
    report_.to = std::move(to);
  }

  Result<WhyReport> Trace() {
    if (!Speaks(from_)) {
      QANAT_RETURN_IF_ERROR(Plaintext());
    } else {
      QANAT_RETURN_IF_ERROR(Outbound());
      if (report_.allowed()) Path();
    }
    return std::move(report_);
  }

 private:
  const PodRef* PodByIp(const std::string& ip) const {
    for (const PodRef& pod : view_.pods()) {
      if (!pod.terminating && std::find(pod.ips.begin(), pod.ips.end(), ip) != pod.ips.end()) {
        return &pod;
      }
    }
    return nullptr;
  }
  // "Kubernetes//Pod/ns/name"
  const PodRef* PodByWorkload(const std::string& uid) const {
    const size_t at = uid.find("/Pod/");
    if (at == std::string::npos) return nullptr;
    for (const PodRef& pod : view_.pods()) {
      if (uid.substr(at + 5) == pod.ns + "/" + pod.name) return &pod;
    }
    return nullptr;
  }
  Result<std::string> NodeNetns(const std::string& node) const {
    QANAT_ASSIGN_OR_RETURN(auto nodes, view_.SelectNodes(node));
    return nodes.front().netns;
  }

  Result<Json> Ask(const std::string& netns, const std::string& path,
                   uint16_t port = kAdmin) const {
    QANAT_ASSIGN_OR_RETURN(const std::string text, view_.Fetch(netns, port, path));
    Json answer = Json::parse(text, nullptr, false);
    if (!answer.is_object()) return Fail(Code::kInternal, path + ": the answer is not JSON");
    return answer;
  }

  Status Outbound() {
    const std::string dst =
        report_.to.address.empty()
            ? fmt::format("{}:{}", report_.to.host, report_.to.port)
            : fmt::format("{}:{}", Bracketed(report_.to.address), report_.to.port);
    QANAT_ASSIGN_OR_RETURN(const std::string netns, NodeNetns(from_.node));
    QANAT_ASSIGN_OR_RETURN(
        auto answer, Ask(netns, fmt::format("/debug/why/outbound?src={}&dst={}",
                                            Encode(from_.ns + "/" + from_.name), Encode(dst))));
    report_.steps.push_back({fmt::format("ztunnel-{}, outbound", from_.node), answer});
    if (Str(answer, "verdict") != "allow") return {};
    const std::string route = Str(answer, "route");
    if (route == "waypoint") return Waypoint(answer);
    const PodRef* target = PodByWorkload(Str(answer, "destination"));
    std::string ip;
    uint16_t port = report_.to.port;
    for (const char* field : {"target", "authority", "to"}) {
      std::string host;
      uint16_t number = 0;
      if (Str(answer, field).empty() || !SplitHostPort(Str(answer, field), host, number)) continue;
      if (!net::IpAddress::Parse(host)) continue;
      ip = host;
      port = number;
      break;
    }
    if (ip.empty()) ip = report_.to.address;
    if (target == nullptr) target = PodByIp(ip);
    return Inbound(target, ip, port, route == "passthrough" ? "" : Identity(from_), FromIp(ip));
  }

  // Between two pods of one node the agent's word counts: what it lets the kernel do alone.
  void Path() {
    const PodRef* pod = PodByIp(report_.to.address);
    if (pod == nullptr || pod->node != from_.node || !Enrolled(*pod)) return;
    auto netns = NodeNetns(from_.node);
    if (!netns) return;
    const std::string to = fmt::format("{}:{}", Bracketed(report_.to.address), report_.to.port);
    auto answer = Ask(*netns,
                      fmt::format("/direct/verdict?from={}&to={}",
                                  Encode(from_.ns + "/" + from_.name), Encode(to)),
                      kAgent);
    if (!answer) return;  // an agent without it: only the proxies decide
    report_.path = Bool(*answer, "direct") ? "direct" : "proxy";
    report_.path_why = Str(*answer, "why");
  }

  std::string FromIp(const std::string& like) const { return SameFamily(from_.ips, like); }

  // The decision at the pod's own node; a pod outside the mesh takes everything.
  Status Inbound(const PodRef* pod, const std::string& ip, uint16_t port,
                 const std::string& identity, const std::string& source_ip) {
    if (pod == nullptr) {
      report_.notes.push_back(fmt::format("{} is no pod of this mesh: nobody there decides", ip));
      return {};
    }
    if (!Enrolled(*pod)) {
      report_.notes.push_back(
          fmt::format("{}/{} is not in the mesh: it takes every connection", pod->ns, pod->name));
      if (report_.steps.empty()) {
        report_.steps.push_back(
            {"no proxy on the way",
             {{"verdict", "allow"}, {"reason", "none"}, {"detail", "neither end is in the mesh"}}});
      }
      return {};
    }
    QANAT_ASSIGN_OR_RETURN(const std::string netns, NodeNetns(pod->node));
    QANAT_ASSIGN_OR_RETURN(
        auto answer,
        Ask(netns, fmt::format("/debug/why/inbound?dst={}&port={}&src_identity={}&src_ip={}",
                               Encode(ip), port, Encode(identity), Encode(source_ip))));
    report_.steps.push_back(
        {fmt::format("ztunnel-{}, inbound to {}/{}", pod->node, pod->ns, pod->name), answer});
    return {};
  }

  Status Waypoint(const Json& route) {
    const PodRef* waypoint = PodByWorkload(Str(route, "destination"));
    for (const char* field : {"to", "target"}) {
      if (waypoint != nullptr) break;
      std::string host;
      uint16_t port = 0;
      if (SplitHostPort(Str(route, field), host, port)) waypoint = PodByIp(host);
    }
    if (waypoint == nullptr || waypoint->gateway.empty()) {
      return Fail(Code::kInternal,
                  fmt::format("the waypoint at {} is not among the pods", Str(route, "to")));
    }
    std::string query = fmt::format(
        "/debug/why?src_identity={}&src_ip={}&authority={}&port={}&method={}&path={}",
        Encode(Identity(from_)), Encode(FromIp(report_.to.address)), Encode(report_.to.host),
        report_.to.port, Encode(options_.method.empty() ? "GET" : options_.method),
        Encode(options_.path.empty() ? "/" : options_.path));
    for (const std::string& header : options_.headers) {
      const size_t colon = header.find(':');
      if (colon == std::string::npos) {
        return Fail(Code::kInvalidArgument,
                    fmt::format("header '{}': write it as 'name: value'", header));
      }
      std::string value = header.substr(colon + 1);
      while (value.starts_with(' ')) value.erase(0, 1);
      query += "&header=" + Encode(header.substr(0, colon) + ":" + value);
    }
    QANAT_ASSIGN_OR_RETURN(auto answer, Ask(waypoint->netns, query));
    report_.steps.push_back(
        {fmt::format("waypoint {}/{}", waypoint->ns, waypoint->gateway), answer});
    if (Str(answer, "verdict") != "allow") return {};
    return BehindWaypoint(*waypoint, answer);
  }

  // Every endpoint that the waypoint might pick; they are refused or not for the waypoint's own
  // identity. One refusal among many is a note, all refusing is the verdict.
  Status BehindWaypoint(const PodRef& waypoint, const Json& answer) {
    std::vector<WhyStep> refused;
    std::vector<WhyStep> fine;
    for (const std::string& endpoint : WaypointEndpoints(answer)) {
      std::string ip;
      uint16_t port = 0;
      if (!SplitHostPort(endpoint, ip, port)) continue;
      const PodRef* pod = PodByIp(ip);
      if (pod == nullptr || !Enrolled(*pod)) continue;
      QANAT_ASSIGN_OR_RETURN(const std::string netns, NodeNetns(pod->node));
      const std::string source = SameFamily(waypoint.ips, ip);
      QANAT_ASSIGN_OR_RETURN(
          auto verdict,
          Ask(netns, fmt::format("/debug/why/inbound?dst={}&port={}&src_identity={}&src_ip={}",
                                 Encode(ip), port, Encode(Identity(waypoint)), Encode(source))));
      WhyStep step{fmt::format("ztunnel-{}, inbound to {}/{}", pod->node, pod->ns, pod->name),
                   std::move(verdict)};
      (step.allowed() ? fine : refused).push_back(std::move(step));
    }
    if (!fine.empty()) {
      report_.steps.push_back(fine.front());
      if (!refused.empty()) {
        report_.notes.push_back(fmt::format("{} of {} endpoints refuse the waypoint, first {}",
                                            refused.size(), refused.size() + fine.size(),
                                            refused.front().where));
      }
    } else if (!refused.empty()) {
      report_.steps.push_back(refused.front());
    }
    return {};
  }

  // The client is outside the mesh: kube-proxy picks an endpoint, the connection is plaintext.
  Status Plaintext() {
    if (report_.to.service.empty() || PodByIp(report_.to.address) != nullptr) {
      return Inbound(PodByIp(report_.to.address), report_.to.address, report_.to.port, "",
                     FromIp(report_.to.address));
    }
    QANAT_ASSIGN_OR_RETURN(auto dumps, AskNodes(view_, "", kAdmin, "/config_dump"));
    for (const Json& service : Merge(dumps, "services", {"namespace", "name", "hostname"})) {
      if (Str(service, "hostname") != report_.to.host) continue;
      const Json& endpoints = Get(service, "endpoints");
      for (const auto& entry : endpoints.items()) {
        const PodRef* pod = PodByWorkload(entry.key());
        if (pod == nullptr || pod->ips.empty()) continue;
        const auto target =
            Int(Get(entry.value(), "port"), std::to_string(report_.to.port).c_str());
        const std::string ip = SameFamily(pod->ips, report_.to.address);
        return Inbound(pod, ip, target > 0 ? static_cast<uint16_t>(target) : report_.to.port, "",
                       FromIp(ip));
      }
    }
    return Inbound(nullptr, report_.to.address, report_.to.port, "", "");
  }

  const MeshView& view_;
  const Options& options_;
  const PodRef& from_;
  WhyReport report_;
};

}  // namespace

int CmdWhy(const Options& options) {
  auto view = OpenMesh(options);
  if (!view) return Complain(view.error());
  auto from = view->FindPod(options.from);
  if (!from) return Complain(from.error());
  auto to = ResolveTarget(*view, **from, options.to, view->Hosts((*from)->node));
  if (!to) return Complain(to.error());
  auto report = Tracer(*view, options, **from, *to).Trace();
  if (!report) return Complain(report.error());
  if (!to->fallback.empty()) {
    // Rules on addresses may tell the two families of one name apart.
    WhyTarget other = *to;
    other.address = to->fallback;
    auto second = Tracer(*view, options, **from, std::move(other)).Trace();
    if (second && second->allowed() != report->allowed()) {
      report->notes.push_back(
          fmt::format("this is for IPv6, which clients prefer; over IPv4 ({}) it is {}",
                      to->fallback, second->allowed() ? "allowed" : "refused"));
    }
  }
  if (options.output == Output::kTable) {
    std::fputs(report->ToText(Colors::ForStdout()).c_str(), stdout);
  } else {
    PrintData(report->ToJson(), options.output);
  }
  return report->allowed() ? kExitOk : kExitDeny;
}

}  // namespace qanat::ctl
