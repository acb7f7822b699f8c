// SPDX-License-Identifier: Apache-2.0
// qanatctl local down, status, exec and logs.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/base/fd.h"
#include "tools/qanatctl/commands.h"
#include "tools/qanatctl/json_util.h"
#include "tools/qanatctl/local/cgroup.h"
#include "tools/qanatctl/local/files.h"
#include "tools/qanatctl/local/teardown.h"
#include "tools/qanatctl/mesh_view.h"
#include "tools/qanatctl/table.h"

namespace qanat::ctl {
namespace {

// The environment of a running container's process, for commands that join it.
std::vector<std::string> EnvironmentOf(int pid) {
  std::vector<std::string> out;
  const std::string text =
      local::ReadFile(fmt::format("/proc/{}/environ", pid)).value_or(std::string());
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.find('\0', begin);
    if (end == std::string::npos) end = text.size();
    out.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  if (const char* term = getenv("TERM")) out.push_back(std::string("TERM=") + term);
  return out;
}

Result<const ContainerRef*> PickContainer(const PodRef& pod, const std::string& wanted) {
  std::string known;
  for (const ContainerRef& container : pod.containers) {
    if (container.init && wanted.empty()) continue;
    if (wanted.empty() || container.name == wanted) return &container;
    known += " " + container.name;
  }
  return Fail(Code::kNotFound, fmt::format("pod {}/{} has no container '{}'; it has:{}", pod.ns,
                                           pod.name, wanted, known));
}

int PrintLog(const std::string& path, const Options& options) {
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    return Complain({Code::kNotFound, fmt::format("{}: nothing was logged yet", path), 0});
  }
  std::string text = local::ReadFile(path).value_or("");
  const size_t size = text.size();
  if (options.tail > 0) {
    size_t at = text.size();
    for (int lines = 0; at > 0; --at) {
      if (text[at - 1] == '\n' && at != text.size() && ++lines >= options.tail) break;
    }
    text = text.substr(at);
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  if (!options.follow) return kExitOk;
  lseek(fd.get(), static_cast<off_t>(size), SEEK_SET);
  char buffer[16384];
  while (true) {
    const ssize_t n = read(fd.get(), buffer, sizeof buffer);
    if (n < 0) return kExitError;
    if (n == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      continue;
    }
    std::fwrite(buffer, 1, static_cast<size_t>(n), stdout);
    std::fflush(stdout);
  }
}

}  // namespace

int CmdLocalDown(const Options& options) {
  if (Status fine = local::CheckMeshName(options.mesh); !fine) return Complain(fine.error());
  const local::Names names{options.mesh};
  if (geteuid() != 0) return Complain({Code::kPermissionDenied, "run this as root", 0});
  const local::Leftovers before = local::FindLeftovers(names);
  if (!before.any()) {
    fmt::print("mesh '{}' is not up; nothing of it is on this machine\n", options.mesh);
    return kExitOk;
  }
  if (Status done = local::TakeDown(names, true); !done) return Complain(done.error());
  const local::Leftovers after = local::FindLeftovers(names);
  if (after.any()) {
    return Complain({Code::kInternal, "could not remove everything: " + after.ToString(), 0});
  }
  fmt::print("mesh '{}' is down (removed {})\n", options.mesh, before.ToString());
  return kExitOk;
}

int CmdLocalStatus(const Options& options) {
  auto view = MeshView::Load(options.mesh);
  if (!view) return Complain(view.error());
  const Json& mesh = view->raw();
  const bool well = view->supervisor_alive() && Bool(mesh, "settled");
  if (options.output != Output::kTable) {
    Json out = mesh;
    out["supervisor"]["alive"] = view->supervisor_alive();
    PrintData(out, options.output);
    return well ? kExitOk : kExitDegraded;
  }
  const Colors c = Colors::ForStdout();
  fmt::print("mesh {}{}{} from {}: {}\n", c.bold, options.mesh, c.plain, Str(mesh, "folder"),
             !view->supervisor_alive() ? c.red + "its supervisor is gone" + c.plain +
                                             " (nothing is restarted; local down still works)"
             : well ? c.green + "all is well" + c.plain
                    : c.yellow + "not all is up" + c.plain);
  Table programs({"PROGRAM", "NODE", "PID", "STATE", "RESTARTS", "LAST END"});
  for (const Json& p : Items(mesh, "programs")) {
    const std::string state = Str(p, "state");
    programs.Add({Str(p, "name"), Str(p, "node"), Int(p, "pid") > 0 ? Str(p, "pid") : "",
                  state == "running" && !Bool(p, "ready") ? "starting" : state, Str(p, "restarts"),
                  Str(p, "lastEnd")});
  }
  fmt::print("\n{}\n", programs.ToString());
  Table pods({"NAMESPACE", "POD", "READY", "RESTARTS", "NODE", "IP", "SERVICE ACCOUNT", "MESH"});
  for (const PodRef& pod : view->pods()) {
    const std::string mesh_state = !pod.mesh                 ? ""
                                   : pod.redirection.empty() ? "pending"
                                                             : pod.redirection;
    pods.Add({pod.ns, pod.name,
              pod.terminating            ? "ending"
              : pod.ready                ? "yes"
              : pod.phase == "Succeeded" ? "done"
                                         : "no",
              std::to_string(pod.restarts), pod.node, pod.ips.empty() ? "" : pod.ips.front(),
              pod.service_account, mesh_state});
  }
  if (!pods.empty()) fmt::print("{}", pods.ToString());
  const Json& waiting = Items(mesh, "waiting");
  if (!waiting.empty()) fmt::print("\n{}not up:{}\n", c.yellow, c.plain);
  for (const Json& item : waiting) fmt::print("  {}\n", item.get<std::string>());
  const Json& problems = Items(mesh, "problems");
  if (!problems.empty()) fmt::print("\n{}in the YAML:{}\n", c.yellow, c.plain);
  for (const Json& p : problems) {
    const std::string remedy = Str(p, "remedy");
    fmt::print("  {}:{}: {}{}{}{}\n", Str(p, "file"), Int(p, "line"),
               Str(p, "object").empty() ? "" : Str(p, "object") + ": ", Str(p, "message"),
               remedy.empty() ? "" : " - ", remedy);
  }
  return well ? kExitOk : kExitDegraded;
}

int CmdLocalExec(const Options& options) {
  auto view = MeshView::Load(options.mesh);
  if (!view) return Complain(view.error());
  auto pod = view->FindPod(options.target);
  if (!pod) return Complain(pod.error());
  auto container = PickContainer(**pod, options.container);
  if (!container) return Complain(container.error());
  const int pid = (*container)->pid;
  if (pid <= 0) {
    return Complain({Code::kFailedPrecondition,
                     fmt::format("container {} of {}/{} is not running: {}", (*container)->name,
                                 (*pod)->ns, (*pod)->name, (*pod)->reason),
                     0});
  }
  std::vector<std::string> env = EnvironmentOf(pid);
  // The command counts as the pod's own: it is what the mesh would see of the application.
  if (Status entered = local::EnterCgroup((*pod)->cgroup, 0); !entered) {
    return Complain(entered.error());
  }
  std::vector<std::string> argv = {"nsenter", "-t", std::to_string(pid), "-m", "-u", "-n", "-r",
                                   "-w",      "--"};
  argv.insert(argv.end(), options.command.begin(), options.command.end());
  std::vector<char*> args;
  for (std::string& a : argv) args.push_back(a.data());
  args.push_back(nullptr);
  std::vector<char*> variables;
  for (std::string& v : env) variables.push_back(v.data());
  variables.push_back(nullptr);
  execve("/usr/bin/nsenter", args.data(), variables.data());
  return Complain(FailErrno("exec /usr/bin/nsenter").value());
}

int CmdLocalLogs(const Options& options) {
  auto view = MeshView::Load(options.mesh);
  if (!view) return Complain(view.error());
  if (options.target == "supervisor") {
    return PrintLog(local::Names{options.mesh}.LogsDir() + "/supervisor.log", options);
  }
  std::string known = " supervisor";
  for (const Json& program : Items(view->raw(), "programs")) {
    if (Str(program, "name") == options.target) return PrintLog(Str(program, "log"), options);
    known += " " + Str(program, "name");
  }
  auto pod = view->FindPod(options.target);
  if (!pod) {
    Error error = pod.error();
    error.message += "; programs are:" + known;
    return Complain(error);
  }
  auto container = PickContainer(**pod, options.container);
  if (!container) return Complain(container.error());
  return PrintLog((*container)->log, options);
}

}  // namespace qanat::ctl
