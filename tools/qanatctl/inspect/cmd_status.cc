// SPDX-License-Identifier: Apache-2.0
// status, logs: the health of the mesh's parts.
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

// Ready proxies in a cluster that no control plane lists. They go on with what they know.
void FindLostProxies(const MeshView& view, const Json& clients, Json& findings) {
  for (const Json& program : Items(view.raw(), "programs")) {
    const std::string pod = Str(program, "pod");
    const std::string name = Str(program, "name");
    if (pod.empty() || !Bool(program, "ready") ||
        !(name.starts_with("ztunnel-") || name.starts_with("waypoint "))) {
      continue;
    }
    const size_t slash = pod.find('/');
    const bool listed = std::any_of(clients.begin(), clients.end(), [&](const Json& client) {
      return Str(client, "namespace") == pod.substr(0, slash) &&
             Str(client, "pod") == pod.substr(slash + 1);
    });
    if (listed) continue;
    findings.push_back(
        fmt::format("{} is connected to no control plane that answers: it goes on with the "
                    "configuration that it "
                    "has and gets no other; why, its log says: kubectl logs --namespace {} {}",
                    name, pod.substr(0, slash), pod.substr(slash + 1)));
  }
}

}  // namespace

int CmdStatus(const Options& options) {
  auto view = OpenMesh(options);
  if (!view) return Complain(view.error());
  Json out = {{"mesh", view->name()},
              {"supervisor", view->supervisor_alive()},
              {"settled", Bool(view->raw(), "settled")},
              {"waiting", Items(view->raw(), "waiting")},
              {"programs", Items(view->raw(), "programs")}};
  bool well = view->supervisor_alive() && Bool(view->raw(), "settled");
  Json clients = Json::array();
  Json problems = Json::array();
  std::string control_plane = "not asked (run without the mesh)";
  if (Bool(view->raw(), "mesh")) {
    auto asked = AskControlPlanes(*view, "/debug/clients", "clients");
    control_plane = asked ? "answers" : asked.error().message;
    well = well && asked;
    if (asked) clients = *asked;
    if (auto status = AskControlPlane(*view, "/debug/status")) {
      problems = Items(*status, "errors");
      for (const Json& object : Items(*status, "objects")) {
        for (const Json& condition : Items(object, "conditions")) {
          if (Str(condition, "status") == "True" || Bool(condition, "status")) continue;
          problems.push_back({{"file", Str(object, "file")},
                              {"line", Int(object, "line")},
                              {"object", Str(object, "kind") + " " + Str(object, "namespace") +
                                             "/" + Str(object, "name")},
                              {"message", Str(condition, "message")},
                              {"remedy", ""}});
        }
      }
    }
  }
  for (const Json& p : Items(view->raw(), "problems")) problems.push_back(p);
  Json findings = Items(view->raw(), "findings");
  if (control_plane == "answers") FindLostProxies(*view, clients, findings);
  well = well && findings.empty();
  out["controlPlane"] = control_plane;
  out["clients"] = clients;
  out["problems"] = problems;
  out["findings"] = findings;
  if (options.output != Output::kTable) {
    PrintData(out, options.output);
    return well ? kExitOk : kExitDegraded;
  }
  const Colors c = Colors::ForStdout();
  fmt::print("mesh {}{}{}: {}{}{}\n\n", c.bold, view->name(), c.plain, well ? c.green : c.yellow,
             well ? "all is well" : "not all is well", c.plain);
  Table programs({"PROGRAM", "NODE", "STATE", "RESTARTS", "DETAIL"});
  for (const Json& p : Items(view->raw(), "programs")) {
    programs.Add({Str(p, "name"), Str(p, "node"), Bool(p, "ready") ? "ready" : Str(p, "state"),
                  Str(p, "restarts"), Bool(p, "ready") ? "" : Str(p, "reason")});
  }
  fmt::print("{}", programs.ToString());
  if (!clients.empty()) {
    Table table({"PROXY", "SYNCED", "SUBSCRIBED TYPES"});
    for (const Json& client : clients) {
      std::string types;
      for (const Json& type : Items(client, "types")) {
        const std::string name = type.is_string() ? type.get<std::string>() : Str(type, "type");
        types += (types.empty() ? "" : ", ") + name.substr(name.rfind('.') + 1);
      }
      std::string name = Str(client, "node");
      if (name.empty()) name = Str(client, "id");
      table.Add({name, Bool(client, "synced") ? "yes" : "no", types});
    }
    fmt::print("\n{}", table.ToString());
  }
  for (const Json& item : Items(view->raw(), "waiting")) {
    fmt::print("{}waiting{}: {}\n", c.yellow, c.plain, item.get<std::string>());
  }
  for (const Json& finding : findings) {
    fmt::print("{}note{}: {}\n", c.yellow, c.plain, finding.get<std::string>());
  }
  if (!problems.empty()) fmt::print("\n{}in the YAML:{}\n", c.yellow, c.plain);
  for (const Json& p : problems) {
    const std::string file = Str(p, "file");  // none in a cluster
    fmt::print("  {}{}: {}{}\n", file.empty() ? "" : file + ":" + Str(p, "line") + ": ",
               Str(p, "object"), Str(p, "message"),
               Str(p, "remedy").empty() ? "" : " - " + Str(p, "remedy"));
  }
  return well ? kExitOk : kExitDegraded;
}

int CmdLogs(const Options& options) {
  auto view = OpenMesh(options);
  if (!view) return Complain(view.error());
  auto nodes = view->SelectNodes(options.node);
  if (!nodes) return Complain(nodes.error());
  std::string path = "/logging";
  if (options.reset) path += "?reset";
  if (!options.log_level.empty()) path += "?level=" + Encode(options.log_level);
  Json out = Json::object();
  int code = kExitOk;
  for (const NodeRef& node : *nodes) {
    auto answer = view->Fetch(node.netns, 15000, path, "POST");
    if (!answer) {
      code = Complain(answer.error().Annotate(node.name));
      continue;
    }
    while (!answer->empty() && answer->back() == '\n') answer->pop_back();
    out[node.name] = *answer;
    if (options.output == Output::kTable) fmt::print("ztunnel-{}: {}\n", node.name, *answer);
  }
  if (options.output != Output::kTable) PrintData(out, options.output);
  return code;
}

}  // namespace qanat::ctl
