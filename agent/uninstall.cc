// SPDX-License-Identifier: Apache-2.0
#include "agent/uninstall.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "agent/cni/install.h"
#include "agent/files/files.h"
#include "common/base/fd.h"

namespace qanat::agent {
namespace {

namespace fs = std::filesystem;

bool IsServed(const std::string& path) {
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof to.sun_path) return false;
  std::memcpy(to.sun_path, path.c_str(), path.size() + 1);
  const Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  return ::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) == 0 || errno == EAGAIN;
}

}  // namespace

Status Uninstall(const Config& config) {
  if (IsServed(config.zds_socket))
    return Fail(Code::kFailedPrecondition,
                "an agent serves " + config.zds_socket +
                    " and would enrol everything again: end it first (in a cluster delete its "
                    "DaemonSet, which does all of this on each node)");
  Status first;
  const auto keep = [&](Status status) {
    if (!status && first) first = std::move(status);
  };
  const auto remove_all = [&](const std::string& path) {
    std::error_code error;
    if (!path.empty()) fs::remove_all(path, error);
    if (error) keep(Fail(Code::kIo, "remove " + path + ": " + error.message()));
  };
  const std::string run_dir = fs::path(config.cni_socket).parent_path().string();
  const std::string zds_dir = fs::path(config.zds_socket).parent_path().string();

  // Before the pods: a pod that starts from now on must not wait for us.
  if (config.pod_source == "kubernetes") {
    cni::InstallOptions install;
    install.conf_dir = config.cni_conf_dir;
    install.bin_dir = config.cni_bin_dir;
    install.plugin = config.cni_plugin.empty() ? "qanat-cni" : config.cni_plugin;
    keep(cni::Installer::Remove(install));
    for (const char* file : {"/cni-kubeconfig", "/pods-cache"})
      if (!config.lib_dir.empty()) keep(RemoveFile(config.lib_dir + file));
    if (!run_dir.empty()) keep(RemoveFile(run_dir + "/cni.log"));
  }
  keep(Cleanup(config));
  for (const std::string& socket : {config.zds_socket, config.hold_socket, config.cni_socket})
    if (!socket.empty()) keep(RemoveFile(socket));
  remove_all(StateDir(config));
  // Folders that others gave us, when nothing of theirs is in them.
  for (const std::string& dir : {config.status_dir, zds_dir, run_dir,
                                 config.pod_source == "kubernetes" ? config.lib_dir : "",
                                 fs::path(config.bpf_dir).parent_path().string()})
    if (!dir.empty()) (void)::rmdir(dir.c_str());
  return first;
}

}  // namespace qanat::agent
