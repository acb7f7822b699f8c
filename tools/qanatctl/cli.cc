// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/cli.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "common/base/environment.h"
#include "tools/qanatctl/local/names.h"

namespace qanat::ctl {
namespace {

constexpr char kExits[] =
    "Exit codes: 0 fine (why: allowed), 1 it could not be done, 2 wrong command line,\n"
    "3 why: refused, 4 status, verify: not all of the mesh is well.\n"
    "local exec ends with the exit code of its command.";

struct Builder {
  Options& options;
  CLI::App& app;

  CLI::App* Add(CLI::App* parent, const char* name, Verb verb, const char* what,
                const std::string& examples) {
    CLI::App* command = parent->add_subcommand(name, what);
    command->footer("Examples:\n" + examples + "\n" + kExits);
    command->callback([this, verb] { options.verb = verb; });
    Named(command);
    return command;
  }

  void Named(CLI::App* command) {
    command->add_option("--name", options.mesh, "Name of the mesh")
        ->capture_default_str()
        ->check(CLI::Validator(
            [](std::string& name) {
              const Status fine = local::CheckMeshName(name);
              return fine ? std::string() : fine.error().message;
            },
            ""));
  }

  void Formatted(CLI::App* command) {
    command->add_option("-o,--output", options.output, "table, json or yaml")
        ->transform(CLI::CheckedTransformer(std::map<std::string, Output>{{"table", Output::kTable},
                                                                          {"json", Output::kJson},
                                                                          {"yaml", Output::kYaml}},
                                            CLI::ignore_case)
                        .description("table|json|yaml"));
  }

  void InCluster(CLI::App* command) {
    command->add_option("--kubeconfig", options.kubeconfig,
                        "Kubeconfig file (default: $KUBECONFIG, ~/.kube/config, or the pod's own)");
    command->add_option("--context", options.context, "Context of the kubeconfig");
  }
  void ByNode(CLI::App* command) {
    command->add_option("--node", options.node, "Ask this node only (default: all)");
  }
  void ByNamespace(CLI::App* command) {
    command->add_option("-n,--namespace", options.ns, "Show this namespace only");
  }

  void CaptureOptions(CLI::App* command) {
    command->add_option(
        "pod", options.target,
        "Only this pod's connections outside the mesh: NS/POD, POD or a unique prefix");
    CLI::Option* unmeshed =
        command->add_option("--end-unmeshed", options.end_unmeshed,
                            "Reset this pod's connections from before it was captured");
    command
        ->add_option("--end-draining", options.end_draining,
                     "Reset what this pod, which left the mesh, still sends through the proxy")
        ->excludes(unmeshed);
  }

  void Local() {
    CLI::App* local = app.add_subcommand("local", "The mesh on this machine");
    local->require_subcommand(1);
    local->footer(
        "Examples:\n  qanatctl local up deploy/samples/shop\n  qanatctl local status\n"
        "  qanatctl local exec shop/deploy/frontend -- curl -s http://backend/api/orders\n"
        "  qanatctl local down\n\n" +
        std::string(kExits));

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
        ->capture_default_str()
        ->check(CLI::Range(1, 86400));
    up->add_option("--certificate-ttl", options.certificate_ttl,
                   "Validity that the proxies ask for, for example 20s (default: their own)")
        ->check(CLI::Validator(
            [](std::string& text) {
              return ParseDuration(text) ? std::string() : text + ": write it as 20s, 5m or 24h";
            },
            ""));
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
    logs->add_option("--tail", options.tail, "Only the last so many lines")
        ->check(CLI::PositiveNumber);

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
         "  qanatctl capture\n  qanatctl capture --node node2 -o json\n"
         "  qanatctl capture shop/backend-1    # which of its connections are outside the mesh\n"
         "  qanatctl capture --end-unmeshed shop/backend-1\n",
         true, true},
    };
    for (const Simple& c : commands) {
      CLI::App* command = Add(&app, c.name, c.verb, c.what, c.examples);
      InCluster(command);
      Formatted(command);
      if (c.by_node) ByNode(command);
      if (c.by_namespace) ByNamespace(command);
      if (c.verb == Verb::kConnections) {
        command->add_flag("--totals", options.totals,
                          "Not now, but since the start: connections, bytes, requests by identity");
      }
    }
    CLI::App* node = app.add_subcommand("node", "What the nodes of the mesh are like");
    node->require_subcommand(1);
    node->footer("Examples:\n  qanatctl node features\n\n" + std::string(kExits));
    CLI::App* features =
        Add(node, "features", Verb::kNodeFeatures,
            "What each node's kernel has of what the mesh uses, and what serves instead",
            "  qanatctl node features\n  qanatctl node features --node node2 -o json\n\n"
            "An agent that refuses its node's kernel cannot be asked; on that node:\n"
            "  qanat-agent --features\n");
    InCluster(features);
    ByNode(features);
    Formatted(features);

    CaptureOptions(app.get_subcommand("capture"));
    CLI::App* logs = Add(&app, "logs", Verb::kLogs, "Show or change log levels of the node proxies",
                         "  qanatctl logs\n  qanatctl logs --node node1 --level info,pool=debug\n"
                         "  qanatctl logs --reset\n");
    InCluster(logs);
    ByNode(logs);
    Formatted(logs);
    CLI::Option* level = logs->add_option("--level", options.log_level,
                                          "New levels: LEVEL or LEVEL,SCOPE=LEVEL,...");
    logs->add_flag("--reset", options.reset, "Back to the levels of the start")->excludes(level);

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
    InCluster(why);
    Formatted(why);

    CLI::App* health =
        Add(&app, "health", Verb::kHealth,
            "Is a slow connection the network, the mesh or the application? From what the kernel "
            "recorded of those that have ended",
            "  qanatctl health shop/deploy/frontend backend.shop\n"
            "  qanatctl health shop/deploy/frontend shop/backend-1 -o json\n");
    health->add_option("from", options.from, "Client: as of why; stands for its identity")
        ->required();
    health->add_option("to", options.to, "Server: SERVICE.NS, or a pod for its identity")
        ->required();
    InCluster(health);
    Formatted(health);
  }

  void Install() {
    const auto cluster = [this](CLI::App* command) { InCluster(command); };
    const auto values = [this](CLI::App* command) {
      Options::Install& i = options.install;
      command->add_option("-n,--namespace", options.ns, "Where the mesh runs (qanat-system)");
      command->add_option("--root-namespace", i.root_namespace,
                          "Whose policies count for the whole mesh (istio-system)");
      command->add_option("--trust-domain", i.trust_domain, "Of every identity (cluster.local)");
      command->add_option("--image-prefix", i.image_prefix,
                          "Images before /NAME:TAG (localhost/qanat)");
      command->add_option("--image-tag", i.image_tag, "Images after the colon (" QANAT_VERSION ")");
      command
          ->add_option("--cni-own-list", i.cni_own_list,
                       "Our CNI plugin is in a list of its own before the network plugin's (true); "
                       "false: in the network plugin's own file")
          ->check(CLI::IsMember({"true", "false"}));
    };
    CLI::App* manifests =
        Add(&app, "manifests", Verb::kManifests, "Print the mesh's manifests for a cluster",
            "  kubectl apply --server-side -f <(qanatctl manifests)\n"
            "  qanatctl manifests --image-prefix registry.example/qanat > qanat.yaml\n");
    cluster(manifests);  // asked which CRDs it has from somebody else
    values(manifests);
    manifests->add_flag("--no-crds", options.install.no_crds,
                        "Without CRDs: for a cluster that has Istio's, or gets them elsewhere");

    CLI::App* install =
        Add(&app, "install", Verb::kInstall,
            "Install (or upgrade, or repair) the mesh in a cluster and wait until it is ready",
            "  qanatctl install\n  qanatctl install --image-prefix registry.example/qanat\n");
    cluster(install);
    values(install);
    install->add_flag("--force", options.install.force,
                      "Go on although a prerequisite is missing, another mesh is there, or an "
                      "object of the same name is not ours. CRDs of others are never touched");
    install->add_option("--timeout", options.timeout_s, "Seconds to wait for each stage")
        ->capture_default_str();

    CLI::App* uninstall =
        Add(&app, "uninstall", Verb::kUninstall,
            "Remove the mesh; its pods get plain networking, nothing of yours goes",
            "  qanatctl uninstall\n  qanatctl uninstall --purge\n");
    cluster(uninstall);
    uninstall->add_option("-n,--namespace", options.ns, "Where the mesh runs (qanat-system)");
    uninstall->add_flag(
        "--purge", options.install.purge,
        "Also the CA's key, the namespace, and our CRDs with every policy and route "
        "of these kinds");
    uninstall->add_flag("--force", options.install.force,
                        "Go on although a node's agent does not work: that node is left as it is");
    uninstall->add_option("--timeout", options.timeout_s, "Seconds to wait for each stage")
        ->capture_default_str();

    CLI::App* verify = Add(&app, "verify", Verb::kVerify,
                           "Check every object of the mesh and each node's agent and proxy",
                           "  qanatctl verify\n  qanatctl verify -o json\n");
    cluster(verify);
    verify->add_option("-n,--namespace", options.ns, "Where the mesh runs (qanat-system)");
    Formatted(verify);
  }

  void Other() {
    CLI::App* completion = app.add_subcommand("completion", "Completion script for a shell");
    completion->footer(
        "Examples:\n  source <(qanatctl completion bash)\n"
        "  qanatctl completion zsh > \"${fpath[1]}/_qanatctl\"\n"
        "  qanatctl completion fish > ~/.config/fish/completions/qanatctl.fish\n\n" +
        std::string(kExits));
    completion->add_option("shell", options.shell, "bash, zsh or fish")
        ->required()
        ->check(CLI::IsMember({"bash", "zsh", "fish"}));
    completion->callback([this] { options.verb = Verb::kCompletion; });

    CLI::App* words = app.add_subcommand("words", "");
    words->group("");
    words->add_option("kind", options.target)->required();
    words->add_option("--name", options.mesh);
    words->callback([this] { options.verb = Verb::kWords; });
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
    Install();
    Other();
  }
};

// What completes an option's value or an argument; by name, which means the same everywhere.
WordKind KindOf(const CLI::Option& option) {
  static const std::map<std::string, WordKind> kinds = {
      {"--name", "meshes"},
      {"--node", "nodes"},
      {"--namespace", "namespaces"},
      {"--output", "list:table,json,yaml"},
      {"--bin-dir", "files"},
      {"--method", "list:GET,HEAD,POST,PUT,PATCH,DELETE,OPTIONS"},
      {"--level", "list:error,warn,info,debug,trace"},
      {"folder", "files"},
      {"pod", "pods"},
      {"target", "targets"},
      {"from", "pods"},
      {"to", "services"},
      {"shell", "list:bash,zsh,fish"}};
  const std::string name =
      option.get_lnames().empty() ? option.get_name(true) : "--" + option.get_lnames().front();
  const auto it = kinds.find(name);
  return it == kinds.end() ? "?" : it->second;
}

bool Visible(const CLI::App* command) { return !command->get_group().empty(); }

void Shapes(const CLI::App& app, const std::string& path, std::vector<CommandShape>& out) {
  CommandShape shape;
  shape.path = path;
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_positional()) {
      shape.arguments.push_back(KindOf(*option));
      continue;
    }
    CommandShape::Option described;
    for (const std::string& name : option->get_snames()) described.names.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) described.names.push_back("--" + name);
    described.help = option->get_description();
    described.takes_value = option->get_items_expected_max() > 0;
    if (described.takes_value) described.value = KindOf(*option);
    shape.options.push_back(std::move(described));
  }
  const auto subcommands = app.get_subcommands(Visible);
  for (const CLI::App* sub : subcommands) {
    shape.subcommands.emplace_back(sub->get_name(), sub->get_description());
  }
  out.push_back(std::move(shape));
  for (const CLI::App* sub : subcommands) {
    Shapes(*sub, path.empty() ? sub->get_name() : path + " " + sub->get_name(), out);
  }
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

std::vector<CommandShape> CommandShapes() {
  Options options;
  CLI::App app{"", "qanatctl"};
  Builder builder{options, app};
  builder.All();
  std::vector<CommandShape> out;
  Shapes(app, "", out);
  return out;
}

}  // namespace qanat::ctl
