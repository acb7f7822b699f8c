// SPDX-License-Identifier: Apache-2.0
// qanatctl local up: checks what is needed, starts the supervisor and tells of its progress.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "tools/qanatctl/commands.h"
#include "tools/qanatctl/json_util.h"
#include "tools/qanatctl/local/cgroup.h"
#include "tools/qanatctl/local/files.h"
#include "tools/qanatctl/local/plan.h"
#include "tools/qanatctl/local/process.h"
#include "tools/qanatctl/local/supervisor.h"
#include "tools/qanatctl/local/teardown.h"
#include "tools/qanatctl/table.h"

namespace qanat::ctl {
namespace {

using local::Names;
namespace fs = std::filesystem;

volatile sig_atomic_t interrupted = 0;

std::string SelfPath() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).string();
}

bool OnPath(const std::string& program) {
  for (const char* folder :
       {"/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"}) {
    if (access((std::string(folder) + "/" + program).c_str(), X_OK) == 0) return true;
  }
  return false;
}

Status MountBpffs() {
  struct statfs info{};
  constexpr long kBpfFs = 0xcafe4a11;
  if (statfs("/sys/fs/bpf", &info) == 0 && info.f_type == kBpfFs) return {};
  if (mount("bpf", "/sys/fs/bpf", "bpf", 0, nullptr) != 0) {
    return FailErrno("mount bpffs on /sys/fs/bpf");
  }
  return {};
}

Status Preflight(const Options& options, const std::string& bin_dir) {
  if (geteuid() != 0) {
    return Fail(Code::kPermissionDenied,
                "qanatctl local makes network namespaces and loads eBPF: run it as root");
  }
  const std::pair<const char*, const char*> tools[] = {
      {"nft", "nftables"}, {"dnsmasq", "dnsmasq-base"}, {"nsenter", "util-linux"}};
  for (const auto& [tool, package] : tools) {
    if (!OnPath(tool)) {
      return Fail(Code::kFailedPrecondition,
                  fmt::format("{} is missing; install it: apt-get install {}", tool, package));
    }
  }
  QANAT_RETURN_IF_ERROR(local::FindCgroup2());
  if (options.no_mesh) return {};
  for (const char* program :
       {"qanat-controlplane", "qanat-agent", "qanat-ztunnel", "qanat-waypoint"}) {
    if (access((bin_dir + "/" + program).c_str(), X_OK) != 0) {
      return Fail(Code::kFailedPrecondition,
                  fmt::format("{} is not in {}; build it (./run build) or give --bin-dir", program,
                              bin_dir));
    }
  }
  return MountBpffs();
}

// Progress on one line of a terminal, or a line a change elsewhere.
class Progress {
 public:
  void Step(const std::string& text) {
    Clear();
    fmt::print("{}==>{} {}\n", colors_.bold, colors_.plain, text);
    std::fflush(stdout);
  }
  void Waiting(const std::string& text) {
    if (text == last_) return;
    last_ = text;
    if (colors_.plain.empty()) return;  // not a terminal: steps are enough
    fmt::print("\r\x1b[K    {}{}{}", colors_.dim, text.substr(0, 110), colors_.plain);
    std::fflush(stdout);
  }
  void Clear() {
    if (!colors_.plain.empty()) fmt::print("\r\x1b[K");
    last_.clear();
  }
  const Colors& colors() const { return colors_; }

 private:
  Colors colors_ = Colors::ForStdout();
  std::string last_;
};

Result<pid_t> StartSupervisor(const Options& options, const Names& names, const std::string& folder,
                              const std::string& bin_dir) {
  QANAT_ASSIGN_OR_RETURN(const std::string cgroup2, local::FindCgroup2());
  const std::string cgroup = cgroup2 + "/" + names.CgroupRoot() + "/supervisor";
  QANAT_RETURN_IF_ERROR(local::MakeCgroup(cgroup));
  QANAT_RETURN_IF_ERROR(local::MakeDirs(names.LogsDir()));
  local::SpawnSpec spec;
  spec.argv = {SelfPath(),  "local",
               "supervise", folder,
               "--name",    names.mesh,
               "--nodes",   std::to_string(options.nodes),
               "--mtu",     std::to_string(options.mtu),
               "--bin-dir", bin_dir};
  if (options.no_mesh) spec.argv.push_back("--no-mesh");
  for (char** variable = environ; *variable != nullptr; ++variable) spec.env.push_back(*variable);
  spec.cgroup = cgroup;
  spec.log = names.LogsDir() + "/supervisor.log";
  QANAT_ASSIGN_OR_RETURN(const pid_t pid, local::Spawn(spec));
  QANAT_RETURN_IF_ERROR(
      local::WriteFile(names.RunDir() + "/supervisor.pid", std::to_string(pid) + "\n"));
  return pid;
}

std::string LastLines(const std::string& path, int count) {
  const std::string text = local::ReadFile(path).value_or("");
  size_t at = text.size();
  for (int lines = 0; at > 0; --at) {
    if (text[at - 1] == '\n' && ++lines > count) break;
  }
  return text.substr(at);
}

struct Tracker {
  Progress& progress;
  std::set<std::string> told;
  void Once(const std::string& key, const std::string& text) {
    if (told.insert(key).second) progress.Step(text);
  }

  void Look(const Json& mesh) {
    const auto& waiting = Items(mesh, "waiting");
    if (told.empty()) {
      size_t problems = 0;
      for (const Json& p : Items(mesh, "problems")) {
        ++problems;
        fmt::print(stderr, "{}:{}: {} {}\n", Str(p, "file"), Int(p, "line"), Str(p, "object"),
                   Str(p, "message"));
      }
      Once("network", fmt::format("{} nodes, {} services, namespaces and links made{}",
                                  Items(mesh, "nodes").size(), Items(mesh, "services").size(),
                                  problems > 0 ? " (with the problems above)" : ""));
    }
    bool programs = true;
    for (const Json& program : Items(mesh, "programs")) {
      if (Str(program, "name").starts_with("waypoint-")) continue;
      if (!Bool(program, "ready")) {
        programs = false;
      } else if (!Str(program, "name").starts_with("dns-")) {
        Once("p/" + Str(program, "name"), fmt::format("{} is ready", Str(program, "name")));
      }
    }
    if (programs && Items(mesh, "pods").size() > 0) {
      Once("pods", fmt::format("starting {} pods", Int(mesh, "wantedPods")));
    }
    progress.Waiting(waiting.empty() ? "" : "waiting for " + waiting[0].get<std::string>());
  }
};

}  // namespace

int CmdLocalUp(const Options& options) {
  if (Status fine = local::CheckMeshName(options.mesh); !fine) return Complain(fine.error());
  const Names names{options.mesh};
  std::error_code error;
  const std::string folder = fs::absolute(options.folder, error).lexically_normal().string();
  const std::string bin_dir = options.bin_dir.empty()
                                  ? fs::path(SelfPath()).parent_path().string()
                                  : fs::absolute(options.bin_dir, error).string();
  if (auto files = local::ListYamlFiles(folder); !files) {
    return Complain(files.error());
  } else if (files->empty()) {
    return Complain({Code::kNotFound, folder + " holds no YAML files", 0});
  }
  if (Status fine = Preflight(options, bin_dir); !fine) return Complain(fine.error());

  Progress progress;
  const local::Leftovers before = local::FindLeftovers(names);
  if (before.any()) {
    if (auto view = local::ReadFile(names.RunDir() + "/supervisor.pid")) {
      const pid_t pid = static_cast<pid_t>(std::atoi(view->c_str()));
      const auto running = local::CgroupProcesses(local::FindCgroup2().value_or("") + "/" +
                                                  names.CgroupRoot() + "/supervisor");
      if (std::find(running.begin(), running.end(), pid) != running.end()) {
        return Complain(
            {Code::kAlreadyExists,
             fmt::format("mesh '{}' is up already; its folder is watched, so changes "
                         "apply by themselves. To start afresh: qanatctl local down{}",
                         options.mesh, options.mesh == "local" ? "" : " --name " + options.mesh),
             0});
      }
    }
    progress.Step("removing what an earlier run left: " + before.ToString());
    if (Status down = local::TakeDown(names, false); !down) return Complain(down.error());
  }
  // The supervisor hands this variable on to the programs that have certificates.
  if (!options.certificate_ttl.empty()) {
    setenv("SECRET_TTL", options.certificate_ttl.c_str(), 1);
  }
  const auto started = std::chrono::steady_clock::now();
  progress.Step(fmt::format("mesh '{}' from {}", options.mesh, folder));
  auto supervisor = StartSupervisor(options, names, folder, bin_dir);
  if (!supervisor) {
    (void)local::TakeDown(names, false);
    return Complain(supervisor.error());
  }
  signal(SIGINT, [](int) { interrupted = 1; });
  signal(SIGTERM, [](int) { interrupted = 1; });

  Tracker tracker{progress, {}};
  std::string why = "the supervisor did not begin";
  const auto fail = [&](const std::string& message) {
    progress.Clear();
    if (!options.keep_on_failure) (void)local::TakeDown(names, true);
    return Complain({Code::kUnavailable, message, 0});
  };
  int settled_rounds = 0;
  while (true) {
    if (interrupted != 0) return fail("interrupted; everything was taken down again");
    if (auto failed = local::ReadFile(names.RunDir() + "/failed")) return fail(*failed);
    if (waitpid(*supervisor, nullptr, WNOHANG) != 0) {
      return fail("the supervisor ended:\n" + LastLines(names.LogsDir() + "/supervisor.log", 12));
    }
    auto text = local::ReadFile(names.MeshJson());
    const Json mesh = text ? Json::parse(*text, nullptr, false) : Json();
    if (mesh.is_object()) {
      tracker.Look(mesh);
      // Seen twice, so that a pod that dies right after its first breath does not count.
      settled_rounds = Bool(mesh, "settled") ? settled_rounds + 1 : 0;
      if (settled_rounds >= 3) break;
      why.clear();
      for (const Json& item : Items(mesh, "waiting")) {
        why += "\n  " + item.get<std::string>();
      }
    }
    if (std::chrono::steady_clock::now() - started > std::chrono::seconds(options.timeout_s)) {
      std::string logs;
      for (const Json& program : Items(mesh, "programs")) {
        if (Bool(program, "ready")) continue;
        logs += fmt::format("\n--- end of {}\n{}", Str(program, "log"),
                            LastLines(Str(program, "log"), 8));
      }
      return fail(fmt::format(
          "not up after {} s; still waiting for:{}{}{}", options.timeout_s, why, logs,
          options.keep_on_failure ? "\nleft as it is; logs: " + names.LogsDir()
                                  : "\ntaken down again; --keep-on-failure leaves it for a look"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  progress.Step(
      fmt::format("{}up{} in {:.1f} s; look: qanatctl local status{}; end: qanatctl local "
                  "down{}",
                  progress.colors().green, progress.colors().plain, seconds,
                  options.mesh == "local" ? "" : " --name " + options.mesh,
                  options.mesh == "local" ? "" : " --name " + options.mesh));
  if (!options.foreground && options.detach) return kExitOk;
  while (interrupted == 0 && waitpid(*supervisor, nullptr, WNOHANG) == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  progress.Step("taking the mesh down");
  Status down = local::TakeDown(names, true);
  return down ? kExitOk : Complain(down.error());
}

int CmdLocalSupervise(const Options& options) {
  local::SupervisorOptions out;
  out.names.mesh = options.mesh;
  out.folder = options.folder;
  out.bin_dir = options.bin_dir;
  out.nodes = options.nodes;
  out.mtu = options.mtu;
  out.mesh = !options.no_mesh;
  return local::RunSupervisor(out);
}

}  // namespace qanat::ctl
