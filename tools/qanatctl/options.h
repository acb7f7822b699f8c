// SPDX-License-Identifier: Apache-2.0
// What the command line asked for, as plain values, so that only cli.cc meets the parser's headers.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace qanat::ctl {

// Exit codes, the same for every command and part of `--help`.
enum ExitCode : int {
  kExitOk = 0,
  kExitError = 1,     // it could not be done; the message says why
  kExitUsage = 2,     // the command line is wrong
  kExitDeny = 3,      // why: the mesh refuses this
  kExitDegraded = 4,  // status, local status: the mesh runs, but not all of it is well
};

enum class Output : uint8_t { kTable, kJson, kYaml };

enum class Verb : uint8_t {
  kNone,
  kLocalUp,
  kLocalDown,
  kLocalStatus,
  kLocalExec,
  kLocalLogs,
  kLocalSupervise,  // hidden: the supervisor itself
  kStatus,
  kWorkloads,
  kServices,
  kPolicies,
  kCertificates,
  kConnections,
  kCapture,
  kNodeFeatures,
  kLogs,
  kWhy,
  kHealth,
  kManifests,
  kInstall,
  kUninstall,
  kVerify,
  kCompletion,
  kWords,  // hidden: for completion
};

struct Options {
  Verb verb = Verb::kNone;
  std::string mesh = "local";
  Output output = Output::kTable;
  std::string node;          // --node
  std::string ns;            // --namespace
  std::string log_level;     // logs --level
  bool reset = false;        // logs --reset
  bool totals = false;       // connections --totals
  std::string end_unmeshed;  // capture --end-unmeshed POD
  std::string end_draining;  // capture --end-draining POD

  // local
  std::string folder;
  std::string bin_dir;
  int nodes = 2;
  uint32_t mtu = 1500;
  bool no_mesh = false;
  bool foreground = false;
  bool detach = true;
  bool keep_on_failure = false;
  int timeout_s = 120;
  std::string certificate_ttl;  // "" = the proxies' own default
  std::string target;           // POD or PROGRAM; words: the kind
  std::string container;
  std::vector<std::string> command;
  bool follow = false;
  int tail = 0;

  // why, health
  std::string from;
  std::string to;
  std::string method;
  std::string path;
  std::vector<std::string> headers;

  // In a cluster: which, and as whom. "" is what kubectl would take.
  std::string kubeconfig;
  std::string context;
  // manifests, install, uninstall; "" is the default
  struct Install {
    std::string root_namespace;
    std::string trust_domain;
    std::string image_prefix;
    std::string image_tag;
    std::string cni_own_list;
    bool no_crds = false;
    bool force = false;
    bool purge = false;
  } install;

  std::string shell;  // completion
};

}  // namespace qanat::ctl
