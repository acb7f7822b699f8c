// SPDX-License-Identifier: Apache-2.0
// One function a subcommand, each in its own cmd_*.cc; they return the process's exit code.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "common/base/result.h"
#include "tools/qanatctl/options.h"

namespace qanat::ctl {

int CmdLocalUp(const Options& options);
int CmdLocalDown(const Options& options);
int CmdLocalStatus(const Options& options);
int CmdLocalExec(const Options& options);
int CmdLocalLogs(const Options& options);
int CmdLocalSupervise(const Options& options);
int CmdStatus(const Options& options);
int CmdWorkloads(const Options& options);
int CmdServices(const Options& options);
int CmdPolicies(const Options& options);
int CmdCertificates(const Options& options);
int CmdConnections(const Options& options);
int CmdCapture(const Options& options);
int CmdNodeFeatures(const Options& options);
int CmdLogs(const Options& options);
int CmdWhy(const Options& options);
int CmdHealth(const Options& options);
int CmdWords(const Options& options);
int CmdManifests(const Options& options);
int CmdInstall(const Options& options);
int CmdUninstall(const Options& options);
int CmdVerify(const Options& options);

// Prints the error in the one way of all commands and returns kExitError.
int Complain(const Error& error);
// Prints `value` as JSON or YAML.
void PrintData(const nlohmann::json& value, Output output);

}  // namespace qanat::ctl
