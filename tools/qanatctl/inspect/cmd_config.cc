// SPDX-License-Identifier: Apache-2.0
// workloads, services, policies, certificates, connections: what the node proxies know and do. The
// columns are those of istioctl ztunnel-config, with ours behind them.
#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "tools/qanatctl/commands.h"
#include "tools/qanatctl/inspect/collect.h"
#include "tools/qanatctl/inspect/metrics.h"
#include "tools/qanatctl/json_util.h"
#include "tools/qanatctl/kube/cluster_view.h"
#include "tools/qanatctl/table.h"

namespace qanat::ctl {
namespace {

struct Asked {
  MeshView view;
  Collected dumps;
};

Result<Asked> Ask(const Options& options, const char* path = "/config_dump") {
  QANAT_ASSIGN_OR_RETURN(auto view, OpenMesh(options));
  QANAT_ASSIGN_OR_RETURN(auto dumps, AskNodes(view, options.node, 15000, path));
  return Asked{std::move(view), std::move(dumps)};
}

bool Shown(const Options& options, const Json& entry) {
  return options.ns.empty() || Str(entry, "namespace") == options.ns;
}

// "ns/host" or "network/ip" of a waypoint, shortened to what people call it.
std::string Waypoint(const Json& entry) {
  std::string to = Str(Get(entry, "waypoint"), "destination");
  const size_t slash = to.find('/');
  if (slash == std::string::npos) return to;
  const std::string host = to.substr(slash + 1);
  const size_t svc = host.find(".svc.");
  return svc == std::string::npos ? host : host.substr(0, host.find('.'));
}

int Finish(const Options& options, const Collected& dumps, const std::vector<Json>& list,
           const Table& table) {
  if (options.output != Output::kTable) {
    PrintData(Json(list), options.output);
  } else {
    fmt::print("{}", table.ToString());
  }
  return TellFailures(dumps) ? kExitOk : kExitError;
}

std::string ServiceName(const Json& hostname) {
  const std::string host = hostname.is_string() ? hostname.get<std::string>() : "";
  const size_t svc = host.find(".svc.");
  return svc == std::string::npos ? host : host.substr(0, svc);
}

// "Kubernetes//Pod/shop/frontend-1" -> "shop/frontend-1"
std::string PodOfUid(const std::string& uid) {
  const size_t pod = uid.find("/Pod/");
  return pod == std::string::npos ? uid : uid.substr(pod + 5);
}

std::string ShortIdentity(const std::string& identity) {
  constexpr char kScheme[] = "spiffe://";
  return identity.starts_with(kScheme) ? identity.substr(sizeof kScheme - 1) : identity;
}

}  // namespace

int CmdWorkloads(const Options& options) {
  auto asked = Ask(options);
  if (!asked) return Complain(asked.error());
  std::vector<Json> list;
  Table table({"NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL",
               "SERVICE ACCOUNT", "HEALTH"});
  for (Json& w : Merge(asked->dumps, "workloads", {"namespace", "name", "uid"})) {
    if (!Shown(options, w)) continue;
    const std::vector<std::string> ips = Strings(w, "workloadIps");
    const std::string waypoint = Waypoint(w);
    table.Add({Str(w, "namespace"), Str(w, "name"), ips.empty() ? "" : ips.front(), Str(w, "node"),
               waypoint.empty() ? "None" : waypoint, Str(w, "protocol"), Str(w, "serviceAccount"),
               Str(w, "status")});
    list.push_back(std::move(w));
  }
  return Finish(options, asked->dumps, list, table);
}

int CmdServices(const Options& options) {
  auto asked = Ask(options);
  if (!asked) return Complain(asked.error());
  std::vector<Json> list;
  Table table({"NAMESPACE", "SERVICE NAME", "SERVICE VIP", "WAYPOINT", "ENDPOINTS", "PORTS"});
  for (Json& s : Merge(asked->dumps, "services", {"namespace", "name", "hostname"})) {
    if (!Shown(options, s)) continue;
    std::string vips;
    for (const std::string& vip : Strings(s, "vips")) {
      const size_t slash = vip.find('/');
      vips +=
          (vips.empty() ? "" : ",") + (slash == std::string::npos ? vip : vip.substr(slash + 1));
    }
    size_t healthy = 0;
    const Json& endpoints = Get(s, "endpoints");
    for (const auto& e : endpoints.items()) healthy += Str(e.value(), "status") == "Healthy";
    std::string ports;
    const Json& port_map = Get(s, "ports");
    for (const auto& p : port_map.items()) {
      const std::string target = p.value().dump();
      ports += (ports.empty() ? "" : ",") + p.key() +
               (target != "0" && target != p.key() ? "->" + target : "");
    }
    const std::string waypoint = Waypoint(s);
    table.Add({Str(s, "namespace"), Str(s, "name"), vips, waypoint.empty() ? "None" : waypoint,
               fmt::format("{}/{}", healthy, endpoints.size()), ports});
    list.push_back(std::move(s));
  }
  return Finish(options, asked->dumps, list, table);
}

int CmdPolicies(const Options& options) {
  auto asked = Ask(options);
  if (!asked) return Complain(asked.error());
  std::vector<Json> list;
  Table table({"NAMESPACE", "POLICY NAME", "ACTION", "SCOPE", "ENFORCED AT", "RULES", "STATUS"});
  std::map<std::string, std::string> scopes;
  std::vector<std::string> problems;
  std::set<std::string> at_nodes;
  for (Json& p : Merge(asked->dumps, "policies", {"namespace", "name"})) {
    if (!Shown(options, p)) continue;
    const std::string key = Str(p, "namespace") + "/" + Str(p, "name");
    at_nodes.insert(key);
    const std::vector<std::string> bad = Strings(p, "problems");
    for (const std::string& text : bad) problems.push_back(fmt::format("{}: {}", key, text));
    table.Add(
        {Str(p, "namespace"), Str(p, "name"), Str(p, "action"), Str(p, "scope"), "node",
         std::to_string(Items(p, "rules").size()),
         bad.empty() ? (Bool(p, "dryRun") ? "dry run" : "ok") : "not understood: fails closed"});
    list.push_back(std::move(p));
  }
  // What the control plane says of every policy object: those at waypoints, and what is wrong.
  auto status = AskControlPlane(asked->view, "/debug/status");
  if (status) {
    for (const Json& object : Items(*status, "objects")) {
      const std::string kind = Str(object, "kind");
      if (kind != "AuthorizationPolicy" && kind != "PeerAuthentication") continue;
      if (!Shown(options, object)) continue;
      const std::string key = Str(object, "namespace") + "/" + Str(object, "name");
      std::string at;
      std::string verdict = "ok";
      for (const Json& condition : Items(object, "conditions")) {
        const std::string type = Str(condition, "type");
        if (type.starts_with("WaypointAccepted")) at = "waypoint";
        if (type.starts_with("ZtunnelAccepted")) at = at.empty() ? "node" : at;
        if (Str(condition, "status") != "True" && !Bool(condition, "status")) {
          verdict = Str(condition, "reason");
          problems.push_back(fmt::format("{}: {} ({}:{})", key, Str(condition, "message"),
                                         Str(object, "file"), Str(object, "line")));
        }
      }
      if (at_nodes.contains(key)) continue;
      table.Add({Str(object, "namespace"), Str(object, "name"),
                 kind == "PeerAuthentication" ? "mTLS" : "", "", at.empty() ? "node" : at, "",
                 verdict});
      list.push_back(object);
    }
    for (const Json& error : Items(*status, "errors")) {
      problems.push_back(fmt::format(
          "{}:{}: {}: {}{}", Str(error, "file"), Str(error, "line"), Str(error, "object"),
          Str(error, "message"), Str(error, "remedy").empty() ? "" : " - " + Str(error, "remedy")));
    }
  } else {
    fmt::print(stderr, "qanatctl: the control plane does not answer: {}\n", status.error().message);
  }
  if (options.output != Output::kTable) {
    PrintData({{"policies", list}, {"problems", problems}}, options.output);
  } else {
    fmt::print("{}", table.ToString());
    const Colors c = Colors::ForStdout();
    if (!problems.empty()) fmt::print("\n{}problems:{}\n", c.yellow, c.plain);
    for (const std::string& problem : problems) fmt::print("  {}\n", problem);
  }
  return TellFailures(asked->dumps) && status ? kExitOk : kExitError;
}

int CmdCertificates(const Options& options) {
  auto asked = Ask(options);
  if (!asked) return Complain(asked.error());
  std::vector<Json> list;
  Table table(
      {"NODE", "CERTIFICATE NAME", "TYPE", "STATUS", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"});
  for (const NodeAnswer& answer : asked->dumps.answers) {
    for (const Json& entry : Items(answer.json, "certificates")) {
      Json shown = entry;
      shown["node"] = answer.node;
      const std::string name = Str(entry, "identity");
      const std::string state = Str(entry, "state");
      bool leaf = true;
      for (const Json& certificate : Items(entry, "certChain")) {
        table.Add({answer.node, name, leaf ? "Leaf" : "Intermediate", state,
                   Str(certificate, "serialNumber"), Str(certificate, "expirationTime"),
                   Str(certificate, "validFrom")});
        leaf = false;
      }
      if (leaf) table.Add({answer.node, name, "Leaf", state, "", "", ""});
      for (const Json& certificate : Items(entry, "rootCerts")) {
        table.Add({answer.node, name, "Root", state, Str(certificate, "serialNumber"),
                   Str(certificate, "expirationTime"), Str(certificate, "validFrom")});
      }
      list.push_back(std::move(shown));
    }
  }
  return Finish(options, asked->dumps, list, table);
}

// connections --totals: who has talked to whom since the start, from the proxies' metrics. Each
// connection is counted once, by the proxy of its destination; requests by the waypoints.
namespace {

struct Total {
  double connections = 0;
  double refused = 0;
  double bytes = 0;
  std::map<std::string, double> requests;  // response code -> count
};

int Totals(const Options& options) {
  auto view = OpenMesh(options);
  if (!view) return Complain(view.error());
  auto nodes = view->SelectNodes(options.node);
  if (!nodes) return Complain(nodes.error());
  std::map<std::tuple<std::string, std::string, std::string>, Total> totals;
  std::vector<std::string> failures;
  const auto read = [&](const std::string& who, const std::string& netns, const char* path,
                        uint16_t port = 15020) {
    auto text = view->Fetch(netns, port, path);
    if (!text) {
      failures.push_back(who + ": " + text.error().message);
      return;
    }
    for (const MetricSample& m : ParseMetrics(*text)) {
      const bool request = m.name == "istio_requests_total";
      if (!request && m.Label("reporter") != "destination") continue;
      if (!options.ns.empty() && m.Label("source_workload_namespace") != options.ns &&
          m.Label("destination_workload_namespace") != options.ns) {
        continue;
      }
      const auto name = [&](const char* principal, const char* workload, const char* ns) {
        const std::string id = m.Label(principal);
        if (!id.empty() && id != "unknown") return ShortIdentity(id);
        const std::string w = m.Label(workload);
        return w.empty() || w == "unknown" ? std::string("unknown")
                                           : m.Label(ns) + "/" + w + " (no identity)";
      };
      auto key = std::make_tuple(
          name("source_principal", "source_workload", "source_workload_namespace"),
          name("destination_principal", "destination_workload", "destination_workload_namespace"),
          m.Label("connection_security_policy"));
      if (request) {
        totals[key].requests[m.Label("response_code")] += m.value;
      } else if (m.name == "istio_tcp_connections_opened_total") {
        totals[key].connections += m.value;
      } else if (m.name == "istio_tcp_connections_failed_total") {
        totals[key].refused += m.value;
      } else if (m.name == "istio_tcp_sent_bytes_total" ||
                 m.name == "istio_tcp_received_bytes_total") {
        totals[key].bytes += m.value;
      }
    }
  };
  for (const NodeRef& node : *nodes) {
    read("ztunnel-" + node.name, node.netns, "/metrics");
    read("agent-" + node.name, node.netns, "/metrics", 15030);
  }
  for (const PodRef& pod : view->pods()) {
    if (pod.gateway.empty() || (!options.node.empty() && pod.node != options.node)) continue;
    read("waypoint " + pod.ns + "/" + pod.gateway, pod.netns, "/stats/prometheus");
  }
  Table table({"SOURCE IDENTITY", "DESTINATION IDENTITY", "SECURITY", "CONNECTIONS", "REFUSED",
               "BYTES", "REQUESTS"});
  Json list = Json::array();
  for (const auto& [key, total] : totals) {
    std::string requests;
    for (const auto& [code, count] : total.requests) {
      requests += fmt::format("{}{:.0f}x {}", requests.empty() ? "" : ", ", count, code);
    }
    // Two proven identities without TLS: both pods are on one node, in one pass through its proxy.
    const bool one_pass = std::get<2>(key) == "unknown" &&
                          std::get<0>(key).find("/sa/") != std::string::npos &&
                          std::get<1>(key).find("/sa/") != std::string::npos;
    table.Add({std::get<0>(key), std::get<1>(key), one_pass ? "same node" : std::get<2>(key),
               fmt::format("{:.0f}", total.connections), fmt::format("{:.0f}", total.refused),
               fmt::format("{:.0f}", total.bytes), requests});
    list.push_back({{"source", std::get<0>(key)},
                    {"destination", std::get<1>(key)},
                    {"security", std::get<2>(key)},
                    {"connections", total.connections},
                    {"refused", total.refused},
                    {"bytes", total.bytes},
                    {"requests", total.requests}});
  }
  if (options.output != Output::kTable) {
    PrintData(list, options.output);
  } else {
    fmt::print("{}", table.ToString());
  }
  for (const std::string& failure : failures) {
    fmt::print(stderr, "qanatctl: no answer from {}\n", failure);
  }
  return failures.empty() ? kExitOk : kExitError;
}

}  // namespace

int CmdConnections(const Options& options) {
  if (options.totals) return Totals(options);
  auto asked = Ask(options, "/debug/connections");
  if (!asked) return Complain(asked.error());
  // What no proxy carries is the agents' to tell; one that keeps no records has no such page.
  auto direct = AskNodes(asked->view, options.node, 15030, "/debug/connections");
  if (!direct) return Complain(direct.error());
  std::move(direct->answers.begin(), direct->answers.end(),
            std::back_inserter(asked->dumps.answers));
  for (std::string& failure : direct->failures)
    if (failure.find("404") == std::string::npos)
      asked->dumps.failures.push_back(std::move(failure));
  std::vector<Json> list;
  Table table({"NODE", "DIRECTION", "SOURCE", "SOURCE IDENTITY", "DESTINATION",
               "DESTINATION IDENTITY", "TARGET", "PATH", "SENT", "RECEIVED"});
  for (const NodeAnswer& answer : asked->dumps.answers) {
    if (!answer.json.is_array()) continue;
    for (const Json& c : answer.json) {
      const std::string source = PodOfUid(Str(c, "srcWorkload"));
      const std::string destination = PodOfUid(Str(c, "dstWorkload"));
      if (!options.ns.empty() && !source.starts_with(options.ns + "/") &&
          !destination.starts_with(options.ns + "/")) {
        continue;
      }
      const std::string service = ServiceName(Get(c, "dstService"));
      table.Add({answer.node, Str(c, "direction"), source.empty() ? Str(c, "src") : source,
                 ShortIdentity(Str(c, "srcIdentity")), !destination.empty() ? destination : service,
                 ShortIdentity(Str(c, "dstIdentity")), Str(c, "originalDst"), Str(c, "path"),
                 Str(c, "bytesUp"), Str(c, "bytesDown")});
      Json shown = c;
      shown["node"] = answer.node;
      list.push_back(std::move(shown));
    }
  }
  return Finish(options, asked->dumps, list, table);
}

}  // namespace qanat::ctl
