// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/inspect/why.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "common/net/address.h"
#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {

std::string Join(const std::vector<std::string>& list) {
  std::string out;
  for (const std::string& item : list) out += (out.empty() ? "" : ", ") + item;
  return out;
}

// One condition: what was wanted, what was seen.
std::string ConditionText(const Json& condition) {
  const std::string field = Str(condition, "field");
  const std::string seen = Str(condition, "seen");
  return fmt::format("{}{}: wanted {}{}, seen {}", Bool(condition, "negated") ? "not " : "", field,
                     Bool(condition, "negated") ? "none of " : "",
                     Join(Strings(condition, "wanted")), seen.empty() ? "nothing" : seen);
}

struct Writer {
  const Colors& c;
  std::string out;

  void Line(int indent, const std::string& text) {
    out += std::string(static_cast<size_t>(indent) * 2, ' ') + text + "\n";
  }
  std::string Mark(bool matched) const {
    return matched ? c.green + "✓" + c.plain : c.red + "✗" + c.plain;
  }

  void Policy(const Json& policy) {
    const bool matched = Bool(policy, "matched");
    Line(3, fmt::format("{} {} {}{}", Str(policy, "action"), Str(policy, "name"),
                        matched ? c.bold + "matched" + c.plain : "did not match",
                        Bool(policy, "dry_run") ? " (dry run: only logged)" : ""));
    for (const std::string& problem : Strings(policy, "problems")) {
      Line(4, c.yellow + "not understood: " + problem + c.plain);
    }
    for (const Json& rule : Items(policy, "rules")) {
      bool first = true;
      for (const Json& clause : Items(rule, "clauses")) {
        for (const Json& condition : Items(clause, "conditions")) {
          Line(4, fmt::format(
                      "{} {} {}",
                      first ? fmt::format("rule {}", Int(rule, "index")) : std::string("      "),
                      Mark(Bool(condition, "matched")), ConditionText(condition)));
          first = false;
        }
      }
      if (first) {
        Line(4, fmt::format("rule {} {} no conditions", Int(rule, "index"),
                            Mark(Bool(rule, "matched"))));
      }
    }
    if (Items(policy, "rules").empty()) Line(4, "no rules: matches nothing");
  }

  // A waypoint's choice of route.
  void Route(const Json& route) {
    if (!route.is_object()) return;
    const std::string name = Str(route, "name");
    std::string text = "route " + (name.empty() ? Str(route, "action") : name);
    if (!Str(route, "match").empty()) text += " (" + Str(route, "match") + ")";
    int64_t total = 0;
    for (const Json& cluster : Items(route, "clusters")) total += Int(cluster, "weight");
    for (const Json& cluster : Items(route, "clusters")) {
      size_t healthy = 0;
      for (const Json& e : Items(cluster, "endpoints")) healthy += Bool(e, "healthy");
      text += fmt::format("{} {}{} ({} endpoints)",
                          &cluster == &Items(route, "clusters")[0] ? " ->" : ",",
                          total > 0 && Items(route, "clusters").size() > 1
                              ? fmt::format("{}% ", Int(cluster, "weight") * 100 / total)
                              : "",
                          Str(cluster, "cluster"), healthy);
    }
    Line(2, text);
    for (const Json& miss : Items(route, "passed_over")) {
      Line(3, c.dim + "not " + Str(miss, "route") + ": " + Str(miss, "why") + c.plain);
    }
  }

  void Step(size_t number, const WhyStep& step) {
    const Json& a = step.answer;
    const bool allowed = step.allowed();
    std::string title = fmt::format("{}. {}: ", number, step.where);
    if (const std::string route = Str(a, "route"); !route.empty() && allowed) {
      title += route;
      const std::string to = Str(a, "to").empty() ? Str(a, "cluster") : Str(a, "to");
      if (!to.empty()) title += " to " + to;
    } else {
      title += allowed ? c.green + "allowed" + c.plain
                       : c.red + "refused" + c.plain + " (" + Str(a, "reason") + ")";
    }
    Line(1, title);
    Route(Get(a, "route"));
    if (const std::string detail = Str(a, "detail"); !detail.empty()) Line(2, detail);
    if (!Items(a, "policies").empty()) Line(2, "policies considered:");
    for (const Json& policy : Items(a, "policies")) Policy(policy);
    const std::vector<std::string> unknown = Strings(a, "unknown_policies");
    if (!unknown.empty()) Line(2, "named but never received: " + Join(unknown));
    const Json& nearest = Get(a, "nearest_allow");
    if (nearest.is_object() && !allowed) {
      Line(2, fmt::format("nearest ALLOW: {} rule {}; it wants", Str(nearest, "policy"),
                          Str(nearest, "rule")));
      for (const Json& missing : Items(nearest, "missing")) {
        Line(3, ConditionText(missing));
      }
    }
  }
};

// The step that decided: the first refusal, else the last.
const WhyStep* Deciding(const std::vector<WhyStep>& steps) {
  for (const WhyStep& step : steps) {
    if (!step.allowed()) return &step;
  }
  return steps.empty() ? nullptr : &steps.back();
}

}  // namespace

std::string SameFamily(const std::vector<std::string>& ips, const std::string& like) {
  const bool v6 = like.find(':') != std::string::npos;
  for (const std::string& ip : ips) {
    if ((ip.find(':') != std::string::npos) == v6) return ip;
  }
  return {};
}

void ChooseAddress(const std::vector<std::string>& ips, WhyTarget& target) {
  const std::string v4 = SameFamily(ips, "");
  const std::string v6 = SameFamily(ips, ":");
  target.address = v6.empty() ? v4 : v6;
  target.fallback = v6.empty() ? "" : v4;
}

Status SplitHostPort(const std::string& text, std::string& host, uint16_t& port) {
  const size_t colon = text.rfind(':');
  unsigned number = 0;
  if (colon != std::string::npos) {
    auto parsed = std::from_chars(text.data() + colon + 1, text.data() + text.size(), number);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) number = 0;
  }
  host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string::npos) {
    number = 0;  // an IPv6 address without brackets: which colon is the port's?
  }
  if (number == 0 || number > 65535 || host.empty()) {
    return Fail(Code::kInvalidArgument,
                fmt::format("'{}': say where to with its port, for example backend.shop:80, "
                            "shop/POD:8080 or [fd91:1::2]:80",
                            text));
  }
  port = static_cast<uint16_t>(number);
  return {};
}

Result<WhyTarget> ResolveTarget(const MeshView& view, const PodRef& from, const std::string& text,
                                const std::string& hosts) {
  WhyTarget out;
  out.text = text;
  std::string host;
  QANAT_RETURN_IF_ERROR(SplitHostPort(text, host, out.port));
  if (net::IpAddress::Parse(host)) {
    out.host = out.address = host;
    return out;
  }
  if (host.find('/') != std::string::npos) {
    QANAT_ASSIGN_OR_RETURN(const PodRef* pod, view.FindPod(host));
    if (pod->ips.empty()) {
      return Fail(Code::kUnavailable, fmt::format("pod {} has no address yet", host));
    }
    out.host = out.address = pod->ips.front();
    out.pod_uid = pod->uid;
    return out;
  }
  std::vector<std::string> labels;
  std::istringstream parts(host);
  for (std::string label; std::getline(parts, label, '.');) labels.push_back(label);
  const bool service_form = labels.size() <= 2 || (labels.size() >= 3 && labels[2] == "svc");
  const std::string name = labels.empty() ? "" : labels[0];
  const std::string ns = labels.size() > 1 ? labels[1] : from.ns;
  for (const ServiceRef& service : view.services()) {
    if (!service_form || service.name != name || service.ns != ns) continue;
    out.service = name;
    out.service_ns = ns;
    out.host = fmt::format("{}.{}.svc.cluster.local", name, ns);
    if (!service.cluster_ips.empty()) {
      ChooseAddress(service.cluster_ips, out);
      return out;
    }
    // Headless: the name resolves to the pods, and a client connects to one of them.
    std::vector<std::string> ips;
    std::istringstream lines(hosts);
    for (std::string line; std::getline(lines, line);) {
      const size_t space = line.find(' ');
      if (space != std::string::npos && line.substr(space + 1) == out.host) {
        ips.push_back(line.substr(0, space));
      }
    }
    ChooseAddress(ips, out);
    if (out.address.empty()) {
      return Fail(
          Code::kUnavailable,
          fmt::format("{} is headless and has no ready pod: its name does not resolve", out.host));
    }
    return out;
  }
  std::string known;
  for (const ServiceRef& service : view.services()) known += " " + service.name + "." + service.ns;
  return Fail(Code::kNotFound,
              fmt::format("no service '{}' in namespace '{}'; there is:{}", name, ns, known));
}

std::vector<std::string> WaypointEndpoints(const Json& answer) {
  std::vector<std::string> out;
  for (const Json& cluster : Items(Get(answer, "route"), "clusters")) {
    if (Int(cluster, "weight") == 0) continue;
    for (const Json& endpoint : Items(cluster, "endpoints")) {
      if (Bool(endpoint, "healthy")) out.push_back(Str(endpoint, "address"));
    }
  }
  return out;
}

bool WhyStep::allowed() const { return Str(answer, "verdict") == "allow"; }

bool WhyReport::allowed() const {
  return !steps.empty() && std::all_of(steps.begin(), steps.end(),
                                       [](const WhyStep& step) { return step.allowed(); });
}

Json WhyReport::ToJson() const {
  Json list = Json::array();
  for (const WhyStep& step : steps) {
    Json one = step.answer;
    one["where"] = step.where;
    list.push_back(std::move(one));
  }
  const WhyStep* deciding = Deciding(steps);
  Json out = {
      {"verdict", allowed() ? "allow" : "deny"},
      {"reason", deciding != nullptr ? Str(deciding->answer, "reason") : ""},
      {"detail", deciding != nullptr ? Str(deciding->answer, "detail") : ""},
      {"remedy", deciding != nullptr ? Str(deciding->answer, "remedy") : ""},
      {"decidedBy", deciding != nullptr ? deciding->where : ""},
      {"from", {{"pod", from}, {"identity", from_identity}, {"node", from_node}}},
      {"to", {{"asked", to.text}, {"host", to.host}, {"address", to.address}, {"port", to.port}}},
      {"path", path},
      {"pathWhy", path_why},
      {"notes", notes},
      {"steps", std::move(list)}};
  if (deciding != nullptr) {
    const Json& nearest = Get(deciding->answer, "nearest_allow");
    if (nearest.is_object() && !allowed()) out["nearest_allow"] = nearest;
  }
  return out;
}

std::string WhyReport::ToText(const Colors& c) const {
  Writer w{c, {}};
  w.Line(0, fmt::format("{}{}{} -> {}{}{}{}", c.bold, from, c.plain, c.bold, to.text, c.plain,
                        to.address.empty() ? "" : fmt::format(" ({}:{})", to.address, to.port)));
  w.Line(0, "identity " +
                (from_identity.empty() ? "none: the client is not in the mesh" : from_identity));
  const WhyStep* deciding = Deciding(steps);
  if (allowed()) {
    w.Line(0, c.green + c.bold + "ALLOWED" + c.plain);
    if (path == "direct") {
      w.Line(0,
             "path direct: the kernel connects the two pods, no proxy sees it (the proxies "
             "would say the same:)");
    } else if (!path.empty()) {
      w.Line(0, "path proxy" + (path_why.empty() ? "" : ", not direct: " + path_why));
    }
  } else if (deciding != nullptr) {
    w.Line(0, fmt::format("{}{}REFUSED{} {} by {}", c.red, c.bold, c.plain,
                          Str(deciding->answer, "reason"), deciding->where));
  }
  size_t number = 0;
  for (const WhyStep& step : steps) w.Step(++number, step);
  for (const std::string& note : notes) w.Line(1, c.yellow + "note: " + c.plain + note);
  if (!allowed() && deciding != nullptr) {
    const std::string remedy = Str(deciding->answer, "remedy");
    if (!remedy.empty()) w.Line(1, c.bold + "what to do: " + c.plain + remedy);
  }
  return w.out;
}

}  // namespace qanat::ctl
