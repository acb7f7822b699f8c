// SPDX-License-Identifier: Apache-2.0
// capture: what the agents do with each pod, which of its connections are outside the mesh, and the
// end of those by choice.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tools/qanatctl/commands.h"
#include "tools/qanatctl/inspect/collect.h"
#include "tools/qanatctl/json_util.h"
#include "tools/qanatctl/kube/cluster_view.h"
#include "tools/qanatctl/table.h"

namespace qanat::ctl {
namespace {

constexpr uint16_t kAgentPort = 15030;

const NodeRef* NodeOf(const MeshView& view, const PodRef& pod) {
  for (const NodeRef& node : view.nodes())
    if (node.name == pod.node) return &node;
  return nullptr;
}

std::string PathOf(const PodRef& pod, const std::string& path) {
  return path + "?pod=" + Encode(pod.ns + "/" + pod.name);
}

int End(const Options& options, const MeshView& view, const std::string& wanted,
        const char* which) {
  auto pod = view.FindPod(wanted);
  if (!pod) return Complain(pod.error());
  const NodeRef* node = NodeOf(view, **pod);
  if (!node) return Complain(Error{Code::kNotFound, wanted + " is on no node with an agent", 0});
  auto text = view.Fetch(node->netns, kAgentPort,
                         PathOf(**pod, "/connections/end") + "&which=" + which, "POST");
  if (!text) return Complain(text.error().Annotate("agent of " + node->name));
  const Json answer = Json::parse(*text, nullptr, false);
  if (!answer.is_object())
    return Complain(Error{Code::kInternal, "agent of " + node->name + ": " + *text, 0});
  if (options.output != Output::kTable) {
    PrintData(answer, options.output);
  } else {
    fmt::print("{}/{}: {} connections ended\n", (*pod)->ns, (*pod)->name, Int(answer, "ended"));
  }
  return kExitOk;
}

int ListOne(const Options& options, const MeshView& view) {
  auto pod = view.FindPod(options.target);
  if (!pod) return Complain(pod.error());
  auto asked = AskNodes(view, (*pod)->node, kAgentPort, PathOf(**pod, "/connections"));
  if (!asked) return Complain(asked.error());
  Json list = Json::array();
  Table table({"DIRECTION", "LOCAL", "REMOTE", "STATE"});
  for (const NodeAnswer& answer : asked->answers) {
    if (!answer.json.is_array()) continue;
    for (const Json& entry : answer.json) {
      for (const Json& c : Items(entry, "notYetMeshed"))
        table.Add({Str(c, "direction"), Str(c, "local"), Str(c, "remote"), Str(c, "state")});
      list.push_back(entry);
    }
  }
  if (options.output != Output::kTable) {
    PrintData(list, options.output);
    return TellFailures(*asked) ? kExitOk : kExitError;
  }
  if (list.empty()) fmt::print("no connection of {} is outside the mesh\n", options.target);
  for (const Json& entry : list) {
    const bool draining = Bool(entry, "draining");
    if (draining)
      fmt::print("leaves the mesh: {} captured connections are still open\n",
                 Int(entry, "capturedConnections"));
    if (!draining)
      fmt::print("not yet meshed, from before the pod was captured:\n{}", table.ToString());
  }
  return TellFailures(*asked) ? kExitOk : kExitError;
}

// What of its connections is not as the pod's state says.
std::string Outside(const Json& pod) {
  if (Bool(pod, "draining")) return fmt::format("{} draining", Int(pod, "capturedConnections"));
  std::string out;
  const auto add = [&](int64_t count, const char* what) {
    if (count > 0) out += fmt::format("{}{} {}", out.empty() ? "" : ", ", count, what);
  };
  add(Int(pod, "notYetMeshed"), "not yet meshed");
  const Json& counters = Get(pod, "counters");
  add(Int(counters, "outside_udp"), "UDP");
  add(Int(counters, "outside_icmp"), "ICMP");
  add(Int(counters, "outside_sctp"), "SCTP");
  add(Int(counters, "outside_other"), "other");
  return out;
}

// Of the programs that are a pod's own: "lookup, guard (tcx)".
std::string Attached(const Json& pod) {
  std::vector<std::pair<std::string, size_t>> kinds;  // in the order in which they are told
  size_t missing = 0;
  const auto add = [&](const std::string& kind, size_t number) {
    auto at = std::find_if(kinds.begin(), kinds.end(), [&](auto& k) { return k.first == kind; });
    if (at == kinds.end()) at = kinds.insert(at, {kind, 0});
    at->second += number;
  };
  for (const Json& link : Items(pod, "attached")) {
    const std::string name = Str(link, "name");  // lookup, guard-2, host_in-7 ...
    if (!Bool(link, "attached"))
      ++missing;
    else
      add(name.substr(0, name.find('-')), 1);
  }
  // "lookup" is the one that is on no device.
  std::sort(kinds.begin(), kinds.end(), [](const auto& x, const auto& y) {
    return std::pair(x.first != "lookup", x.first) < std::pair(y.first != "lookup", y.first);
  });
  const Json& guard = Get(pod, "guard");
  const std::string by = Str(guard, "by");
  // Filters below clsact have no links.
  if (by == "clsact" && !kinds.empty()) add("guard", Items(guard, "devices").size());
  std::string out;
  for (const auto& [kind, number] : kinds)
    out += fmt::format("{}{}{}", out.empty() ? "" : ", ", kind,
                       number > 1 ? fmt::format(" x{}", number) : "");
  if (kinds.size() > 1) out += fmt::format(" ({})", by);
  if (missing > 0) out += fmt::format("{}{} gone", out.empty() ? "" : ", ", missing);
  return out;
}

// "passed 12 s ago"
std::string LastProof(const Json& pod) {
  const Json& last = Get(pod, "lastProof");
  if (!last.is_object()) return "";
  return fmt::format("{} {:.1f} s ago", Bool(last, "passed") ? "passed" : "failed",
                     static_cast<double>(Int(last, "ageMs")) / 1000);
}

}  // namespace

int CmdCapture(const Options& options) {
  auto view = OpenMesh(options);
  if (!view) return Complain(view.error());
  if (!options.end_unmeshed.empty()) return End(options, *view, options.end_unmeshed, "unmeshed");
  if (!options.end_draining.empty()) return End(options, *view, options.end_draining, "draining");
  if (!options.target.empty()) return ListOne(options, *view);
  auto capture = AskNodes(*view, options.node, kAgentPort, "/capture");
  if (!capture) return Complain(capture.error());
  auto pods = AskNodes(*view, options.node, kAgentPort, "/pods");
  if (!pods) return Complain(pods.error());
  Json out = Json::object();
  for (const NodeAnswer& answer : capture->answers) out[answer.node] = answer.json;
  Table table({"NODE", "NAMESPACE", "POD", "REDIRECTION", "ATTACHED", "PROOF", "SAME-NODE",
               "OUTSIDE", "REASON"});
  for (const NodeAnswer& answer : pods->answers) {
    Json shown = Json::array();
    for (const Json& pod : answer.json.is_array() ? answer.json : Items(answer.json, "pods")) {
      if (!options.ns.empty() && Str(pod, "namespace") != options.ns) continue;
      table.Add({answer.node, Str(pod, "namespace"), Str(pod, "name"), Str(pod, "redirection"),
                 Attached(pod), LastProof(pod), Str(pod, "sameNode"), Outside(pod),
                 Str(pod, "reason")});
      shown.push_back(pod);
    }
    out[answer.node]["pods"] = std::move(shown);
  }
  if (options.output == Output::kTable) {
    fmt::print("{}", table.ToString());
    for (const NodeAnswer& answer : capture->answers)
      if (const int64_t lost = Int(Get(answer.json, "counters"), "records_lost"); lost > 0)
        fmt::print("{}: records of {} connections were lost: what is told of them is less\n",
                   answer.node, lost);
  } else {
    PrintData(out, options.output);
  }
  return TellFailures(*capture) && TellFailures(*pods) ? kExitOk : kExitError;
}

}  // namespace qanat::ctl
