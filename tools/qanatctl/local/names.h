// SPDX-License-Identifier: Apache-2.0
// Every name that the local mode gives to something outside its process, so that `local down` finds
// all of it by prefix, with no supervisor and no state file. Pure.
#pragma once

#include <string>
#include <string_view>

#include "common/base/result.h"

namespace qanat::local {

// Letters and digits only: the prefix "qanat-<mesh>-" of one mesh can then never be a prefix of
// another mesh's.
Status CheckMeshName(std::string_view mesh);

struct Names {
  std::string mesh = "local";

  std::string RunDir() const { return "/run/qanat/" + mesh; }
  std::string MeshJson() const { return RunDir() + "/mesh.json"; }
  std::string CaDir() const { return RunDir() + "/ca"; }
  std::string TokensDir() const { return RunDir() + "/tokens"; }
  std::string OverlayDir() const { return RunDir() + "/overlay"; }
  std::string LogsDir() const { return RunDir() + "/logs"; }
  std::string NodeDir(const std::string& node) const { return RunDir() + "/nodes/" + node; }
  std::string NodePods(const std::string& node) const { return NodeDir(node) + "/pods"; }
  std::string NodeStatus(const std::string& node) const { return NodeDir(node) + "/status"; }
  std::string CniSocket(const std::string& node) const { return NodeDir(node) + "/cni.sock"; }
  // The sockets that the agent has for the node proxy, in a folder that it closes to others.
  std::string ZdsDir(const std::string& node) const { return NodeDir(node) + "/zds"; }
  std::string ZdsSocket(const std::string& node) const { return ZdsDir(node) + "/ztunnel.sock"; }
  // Where the agent takes the node proxy's listeners to keep them; and where we take the agent's.
  std::string HoldSocket(const std::string& node) const { return ZdsDir(node) + "/hold.sock"; }
  std::string AgentHoldSocket(const std::string& node) const {
    return NodeDir(node) + "/agent-hold.sock";
  }
  std::string ZtunnelState(const std::string& node) const {
    return NodeDir(node) + "/ztunnel-state";
  }
  std::string PodDir(const std::string& uid) const { return RunDir() + "/pods/" + uid; }

  std::string NetnsPrefix() const { return "qanat-" + mesh + "-"; }
  std::string FabricNetns() const { return NetnsPrefix() + "fabric"; }
  std::string NodeNetns(const std::string& node) const { return NetnsPrefix() + "node-" + node; }
  std::string PodNetns(const std::string& ns, const std::string& pod) const {
    return NetnsPrefix() + "pod-" + ns + "-" + pod;
  }
  static std::string NetnsPath(const std::string& name) { return "/run/netns/" + name; }

  std::string CgroupRoot() const { return "qanat-" + mesh; }  // below the cgroup2 mount
  std::string BpfPrefix() const { return mesh + "-"; }        // below /sys/fs/bpf/qanat
  std::string BpfDir(const std::string& node) const {
    return "/sys/fs/bpf/qanat/" + BpfPrefix() + node;
  }
};

// Host side of a pod's veth: 'v' and the first eight hex digits of the uid.
std::string PodVethName(std::string_view uid);

}  // namespace qanat::local
