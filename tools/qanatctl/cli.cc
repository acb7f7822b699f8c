// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/cli.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>

namespace qanat::ctl {
namespace {

constexpr char kExits[] =
    "Exit codes: 0 fine (why: allowed), 1 it could not be done, 2 wrong command line,\n"
    "3 why: refused, 4 status: the mesh runs, but not all of it is well.";

struct Builder {
  Options& options;
  CLI::App& app;

  CLI::App* Add(CLI::App* parent, const char* name, Verb verb, const char* what,
                const std::string& examples) {
    CLI::App* command = parent->add_subcommand(name, what);
    command->footer("Examples:\n" + examples + "\n" + kExits);
    command->callback([this, verb] { options.verb = verb; });
    command->add_option("--name", options.mesh, "Name of the mesh")->capture_default_str();
    return command;
  }

  void Formatted(CLI::App* command) {
    command->add_option("-o,--output", options.output, "table, json or yaml")
        ->transform(CLI::CheckedTransformer(std::map<std::string, Output>{{"table", Output::kTable},
                                                                          {"json", Output::kJson},
                                                                          {"yaml", Output::kYaml}},
                                            CLI::ignore_case)
                        .description("table|json|yaml"));
  }

  void ByNode(CLI::App* command) {
    command->add_option("--node", options.node, "Ask this node only (default: all)");
  }
  void ByNamespace(CLI::App* command) {
    command->add_option("-n,--namespace", options.ns, "Show this namespace only");
  }

  void Local() {
    CLI::App* local = app.add_subcommand("local", "The mesh on this machine");
    local->require_subcommand(1);
    local->footer(
        "Examples:\n  qanatctl local up deploy/samples/shop\n  qanatctl local status\n"
        "  qanatctl local exec shop/deploy/frontend -- curl -s http://backend/api/orders\n"
        "  qanatctl local down\n");

    CLI::App* up = Add(local, "up", Verb::kLocalUp,
                       "Bring up the nodes, the mesh and the pods of a folder of Kubernetes YAML",
                       "  qanatctl local up deploy/samples/shop\n"
                       "  qanatctl local up my-folder --nodes 3 --name test\n"
                       "  qanatctl local up my-folder --no-mesh      # the same pods, no mesh\n");
    up->add_option("folder", options.folder, "Folder (or file) of YAML; it is watched")->required();
    up->add_option("--nodes", options.nodes, "Nodes, when the YAML has no Node objects")
        ->capture_default_str()
        ->check(CLI::Range(1, 99));
    up->add_option("--mtu", options.mtu, "MTU of every link")
        ->capture_default_str()
        ->check(CLI::Range(1280, 65535));
    up->add_option("--bin-dir", options.bin_dir,
                   "Where the mesh's programs are (default: beside qanatctl)")
        ->envname("QANAT_BIN_DIR");
    up->add_option("--timeout", options.timeout_s, "Seconds to wait until all is up")
        ->capture_default_str();
    up->add_option("--certificate-ttl", options.certificate_ttl,
                   "Validity that the proxies ask for, for example 20s (default: their own)");
    up->add_flag("--no-mesh", options.no_mesh, "Start none of the mesh's programs");
    up->add_flag("--foreground", options.foreground, "Stay attached; Ctrl-C takes the mesh down");
    up->add_flag("--keep-on-failure", options.keep_on_failure,
                 "Leave everything in place when it does not come up");
    up->add_flag("--detach,!--no-detach", options.detach, "Return when all is up (the default)");

    Add(local, "down", Verb::kLocalDown,
        "Take the mesh down; works without its supervisor and leaves nothing behind",
        "  qanatctl local down\n  qanatctl local down --name test\n");

    CLI::App* status = Add(local, "status", Verb::kLocalStatus, "Programs and pods of the mesh",
                           "  qanatctl local status\n  qanatctl local status -o json\n");
    Formatted(status);

    CLI::App* exec =
        Add(local, "exec", Verb::kLocalExec, "Run a command inside a pod's container (after --)",
            "  qanatctl local exec shop/deploy/frontend -- curl -s http://backend/api/orders\n"
            "  qanatctl local exec shop/frontend-abc -c app -- sh\n");
    exec->add_option("pod", options.target, "NS/POD, NS/deploy/NAME, POD or a unique prefix")
        ->required();
    exec->add_option("-c,--container", options.container, "Container (default: the first)");

    CLI::App* logs =
        Add(local, "logs", Verb::kLocalLogs, "Log of a program of the mesh or of a pod",
            "  qanatctl local logs controlplane\n  qanatctl local logs ztunnel-node1 -f\n"
            "  qanatctl local logs shop/deploy/backend --tail 20\n");
    logs->add_option("target", options.target, "Program (see local status) or pod")->required();
    logs->add_option("-c,--container", options.container, "Container (default: the first)");
    logs->add_flag("-f,--follow", options.follow, "Print what comes, until Ctrl-C");
    logs->add_option("--tail", options.tail, "Only the last so many lines");

    CLI::App* supervise = Add(local, "supervise", Verb::kLocalSupervise, "", "");
    supervise->group("");
    supervise->add_option("folder", options.folder)->required();
    supervise->add_option("--nodes", options.nodes);
    supervise->add_option("--mtu", options.mtu);
    supervise->add_option("--bin-dir", options.bin_dir)->required();
    supervise->add_flag("--no-mesh", options.no_mesh);
  }

  void Inspect() {
    struct Simple {
      const char* name;
      Verb verb;
      const char* what;
      const char* examples;
      bool by_node;
      bool by_namespace;
    };
    const Simple commands[] = {
        {"status", Verb::kStatus, "Health of every part, and what is wrong with the YAML",
         "  qanatctl status\n  qanatctl status -o json\n", false, false},
        {"workloads", Verb::kWorkloads, "Workloads as the node proxies know them",
         "  qanatctl workloads\n  qanatctl workloads --node node1 -n shop\n", true, true},
        {"services", Verb::kServices, "Services as the node proxies know them",
         "  qanatctl services\n  qanatctl services -n shop -o yaml\n", true, true},
        {"policies", Verb::kPolicies,
         "Authorization policies, where they apply and whether they "
         "were understood",
         "  qanatctl policies\n  qanatctl policies -n shop\n", true, true},
        {"certificates", Verb::kCertificates, "Certificates that the node proxies hold",
         "  qanatctl certificates\n  qanatctl certificates --node node1 -o json\n", true, false},
        {"connections", Verb::kConnections, "Who is talking to whom now, with which identity",
         "  qanatctl connections\n  qanatctl connections -n shop\n"
         "  qanatctl connections --totals      # since the start, from the metrics\n",
         true, true},
        {"capture", Verb::kCapture, "How the agents capture each pod, and the proof",
         "  qanatctl capture\n  qanatctl capture --node node2 -o json\n", true, true},
    };
    for (const Simple& c : commands) {
      CLI::App* command = Add(&app, c.name, c.verb, c.what, c.examples);
      Formatted(command);
      if (c.by_node) ByNode(command);
      if (c.by_namespace) ByNamespace(command);
      if (c.verb == Verb::kConnections) {
        command->add_flag("--totals", options.totals,
                          "Not now, but since the start: connections, bytes, requests by identity");
      }
    }
    CLI::App* logs = Add(&app, "logs", Verb::kLogs, "Show or change log levels of the node proxies",
                         "  qanatctl logs\n  qanatctl logs --node node1 --level info,pool=debug\n"
                         "  qanatctl logs --reset\n");
    ByNode(logs);
    Formatted(logs);
    logs->add_option("--level", options.log_level, "New levels: LEVEL or LEVEL,SCOPE=LEVEL,...");
    logs->add_flag("--reset", options.reset, "Back to the levels of the start");

    CLI::App* why =
        Add(&app, "why", Verb::kWhy, "Why a connection or request is allowed or refused",
            "  qanatctl why shop/deploy/frontend backend.shop:80 --method GET --path /api/orders\n"
            "  qanatctl why shop/deploy/loadgen database.shop-data:5432\n"
            "  qanatctl why shop/frontend-abc 10.91.2.4:8080 -o json\n");
    why->add_option("from", options.from, "Client: NS/POD, NS/deploy/NAME, POD or a unique prefix")
        ->required();
    why->add_option("to", options.to, "Server: SERVICE[.NS]:PORT, NS/POD:PORT or IP:PORT")
        ->required();
    why->add_option("--method", options.method, "HTTP method (default GET)");
    why->add_option("--path", options.path, "HTTP path (default /)");
    why->add_option("--header,-H", options.headers, "HTTP header 'name: value'; repeatable")
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    Formatted(why);
  }

  void Other() {
    CLI::App* completion = app.add_subcommand("completion", "Completion script for a shell");
    completion->footer(
        "Examples:\n  source <(qanatctl completion bash)\n"
        "  qanatctl completion zsh > \"${fpath[1]}/_qanatctl\"\n"
        "  qanatctl completion fish > ~/.config/fish/completions/qanatctl.fish\n");
    completion->add_option("shell", options.shell, "bash, zsh or fish")
        ->required()
        ->check(CLI::IsMember({"bash", "zsh", "fish"}));
    completion->callback([this] { options.verb = Verb::kCompletion; });
  }

  void All() {
    app.require_subcommand(1);
    // The last one wins, as scripts that add to a given command line expect.
    app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    app.set_version_flag("--version", "qanatctl " QANAT_VERSION);
    app.footer(std::string("Examples:\n  qanatctl local up deploy/samples/shop\n"
                           "  qanatctl status\n  qanatctl why shop/deploy/loadgen "
                           "database.shop-data:5432\n\n") +
               kExits);
    Local();
    Inspect();
    Other();
  }
};

std::string Words(const CLI::App& app) {
  std::string out;
  for (const CLI::App* sub :
       app.get_subcommands([](const CLI::App* s) { return !s->get_group().empty(); })) {
    out += (out.empty() ? "" : " ") + sub->get_name();
  }
  return out;
}

std::string Flags(const CLI::App& app) {
  std::string out;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      out += (out.empty() ? "--" : " --") + name;
    }
  }
  return out;
}

using Visit = std::function<void(const CLI::App&, const std::string& path)>;
void ForEachCommand(const CLI::App& app, const std::string& path, const Visit& visit) {
  visit(app, path);
  for (const CLI::App* sub :
       app.get_subcommands([](const CLI::App* s) { return !s->get_group().empty(); })) {
    ForEachCommand(*sub, path.empty() ? sub->get_name() : path + " " + sub->get_name(), visit);
  }
}

std::string BashCompletion(const CLI::App& app) {
  std::string cases;
  ForEachCommand(app, "", [&](const CLI::App& command, const std::string& path) {
    cases +=
        fmt::format("    '{}') words='{}'; flags='{}' ;;\n", path, Words(command), Flags(command));
  });
  return fmt::format(
      R"(# bash completion of qanatctl
_qanatctl() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} path='' words='' flags='' i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${{COMP_WORDS[i]}} in
      -*) ;;
      *) case " {} " in *" ${{COMP_WORDS[i]}} "*) path="${{path:+$path }}${{COMP_WORDS[i]}}" ;; esac ;;
    esac
  done
  case $path in
{}  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$cur"))
  elif [[ -n $words ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
  else
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}}
complete -o filenames -F _qanatctl qanatctl
)",
      [&] {
        std::string all;
        ForEachCommand(app, "", [&](const CLI::App& c, const std::string&) {
          all += (all.empty() ? "" : " ") + Words(c);
        });
        return all;
      }(),
      cases);
}

std::string FishCompletion(const CLI::App& app) {
  std::string out = "# fish completion of qanatctl\n";
  ForEachCommand(app, "", [&](const CLI::App& command, const std::string& path) {
    const std::string condition =
        path.empty() ? "__fish_use_subcommand"
                     : "__fish_seen_subcommand_from " + path.substr(path.rfind(' ') + 1);
    for (const CLI::App* sub :
         command.get_subcommands([](const CLI::App* s) { return !s->get_group().empty(); })) {
      out += fmt::format("complete -c qanatctl -n '{}' -f -a {} -d '{}'\n", condition,
                         sub->get_name(), sub->get_description());
    }
    for (const CLI::Option* option : command.get_options()) {
      for (const std::string& name : option->get_lnames()) {
        out += fmt::format("complete -c qanatctl -n '{}' -l {}\n", condition, name);
      }
    }
  });
  return out;
}

}  // namespace

int ParseCommandLine(int argc, char** argv, Options& options) {
  CLI::App app{"qanatctl: look into a Qanat mesh, and run one on this machine", "qanatctl"};
  Builder builder{options, app};
  builder.All();
  // Everything after "--" is somebody else's command line.
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) != "--") continue;
    options.command.assign(argv + i + 1, argv + argc);
    argc = i;
    break;
  }
  try {
    app.parse(argc, argv);
    if (options.verb == Verb::kLocalExec && options.command.empty()) {
      throw CLI::RequiredError("a command after --");
    }
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? kExitOk : kExitUsage;
  }
  return -1;
}

std::string CompletionScript(const std::string& shell) {
  Options options;
  CLI::App app{"", "qanatctl"};
  Builder builder{options, app};
  builder.All();
  if (shell == "bash") return BashCompletion(app);
  if (shell == "zsh") {
    return "#compdef qanatctl\nautoload -U +X bashcompinit && bashcompinit\n" + BashCompletion(app);
  }
  if (shell == "fish") return FishCompletion(app);
  return {};
}

}  // namespace qanat::ctl
