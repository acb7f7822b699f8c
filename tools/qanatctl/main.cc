// SPDX-License-Identifier: Apache-2.0
// qanatctl: the table of subcommands. Parsing is in cli.cc, the work in cmd_*.cc.
#include <cstdio>
#include <exception>

#include "tools/qanatctl/cli.h"
#include "tools/qanatctl/commands.h"

namespace {

int Dispatch(const qanat::ctl::Options& options) {
  using qanat::ctl::Verb;
  switch (options.verb) {
    case Verb::kNone: return qanat::ctl::kExitUsage;
    case Verb::kLocalUp: return CmdLocalUp(options);
    case Verb::kLocalDown: return CmdLocalDown(options);
    case Verb::kLocalStatus: return CmdLocalStatus(options);
    case Verb::kLocalExec: return CmdLocalExec(options);
    case Verb::kLocalLogs: return CmdLocalLogs(options);
    case Verb::kLocalSupervise: return CmdLocalSupervise(options);
    case Verb::kStatus: return CmdStatus(options);
    case Verb::kWorkloads: return CmdWorkloads(options);
    case Verb::kServices: return CmdServices(options);
    case Verb::kPolicies: return CmdPolicies(options);
    case Verb::kCertificates: return CmdCertificates(options);
    case Verb::kConnections: return CmdConnections(options);
    case Verb::kCapture: return CmdCapture(options);
    case Verb::kNodeFeatures: return CmdNodeFeatures(options);
    case Verb::kLogs: return CmdLogs(options);
    case Verb::kWhy: return CmdWhy(options);
    case Verb::kHealth: return CmdHealth(options);
    case Verb::kManifests: return CmdManifests(options);
    case Verb::kInstall: return CmdInstall(options);
    case Verb::kUninstall: return CmdUninstall(options);
    case Verb::kVerify: return CmdVerify(options);
    case Verb::kCompletion:
      std::fputs(qanat::ctl::CompletionScript(options.shell, qanat::ctl::CommandShapes()).c_str(),
                 stdout);
      return qanat::ctl::kExitOk;
    case Verb::kWords: return CmdWords(options);
  }
  return qanat::ctl::kExitUsage;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    qanat::ctl::Options options;
    const int parsed = qanat::ctl::ParseCommandLine(argc, argv, options);
    return parsed >= 0 ? parsed : Dispatch(options);
  } catch (const std::exception& error) {  // what the JSON and command line libraries throw
    std::fprintf(stderr, "qanatctl: %s\n", error.what());
    return qanat::ctl::kExitError;
  }
}
