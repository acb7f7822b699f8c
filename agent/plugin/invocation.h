// SPDX-License-Identifier: Apache-2.0
// What a runtime asks of a CNI plugin: environment and configuration on stdin, and the answers of
// the protocol (CNI 0.3.0 to 1.1.0). Pure.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/net/address.h"

namespace qanat::plugin {

// Codes of the CNI specification; from 100 on they are ours.
enum CniCode {
  kIncompatibleVersion = 1,
  kInvalidEnvironment = 4,
  kIoFailure = 5,
  kDecodingFailure = 6,
  kInvalidConfig = 7,
  kTryAgainLater = 11,
  kNotEnrolled = 100,
};
struct CniError {
  int code = kTryAgainLater;
  std::string message;  // one line
  std::string details;  // cause and remedy
};

enum class Command { kAdd, kDel, kCheck, kVersion, kGc, kStatus };

struct Invocation {
  Command command = Command::kVersion;
  std::string cni_version;
  std::string container_id;
  std::string netns;
  std::string pod_namespace, pod_name, pod_uid;  // "" when no kubelet asks
  // Of our entry:
  std::string agent_socket, kubeconfig, cache, log_file;
  std::vector<std::string> exclude_namespaces;
  std::string own_list;  // the file that we were called from, when the agent made it
  // Of the plugins before us:
  std::string prev_result;  // its JSON; "" when there is none
  std::vector<net::IpAddress> ips;
};

using Environment = std::function<std::string(const char* name)>;  // "" when not set

// On an error `cni_version` of `*version` is what the answer must carry.
tl::expected<Invocation, CniError> ParseInvocation(const Environment& environment,
                                                   std::string_view stdin_text,
                                                   std::string* version);

// Of a network configuration's cniVersion; "" is what is not said.
bool SupportsCniVersion(std::string_view version);

std::string FormatError(const std::string& cni_version, const CniError& error);
std::string FormatVersions(const std::string& cni_version);

}  // namespace qanat::plugin
