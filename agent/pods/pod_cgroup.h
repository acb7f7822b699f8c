// SPDX-License-Identifier: Apache-2.0
// Which pod a process belongs to, read from the names that kubelets give to control groups. Pure.
#pragma once

#include <string>
#include <string_view>

namespace qanat::agent {

// The pod's UID in one path of control groups, "" when it is none of a pod. Knows both drivers:
//   cgroupfs  /kubepods/burstable/pod1f2e...-.../CONTAINER
//   systemd   /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1f2e..._....slice/...
// also below other groups (kind: /kubelet/kubepods/...). Static pods have 32 hex digits as UID.
std::string PodUidOfCgroupPath(std::string_view path);

// Of a whole /proc/PID/cgroup (v1, v2 or both): the first line that names a pod.
std::string PodUidOfProcCgroup(std::string_view text);

// The kubelet's group that a path is in or below ("/kubepods.slice", "/kubelet/kubepods"); "" when
// it is in none.
std::string KubepodsOfCgroupPath(std::string_view path);

}  // namespace qanat::agent
