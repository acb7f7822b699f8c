// SPDX-License-Identifier: Apache-2.0
// The small mesh for tests (common/route), with pods as the proxy has them.
#pragma once

#include <memory>
#include <string>

#include "common/route/mesh_for_test.h"
#include "ztunnel/pod.h"

namespace qanat::ztunnel {

using route::At;
using route::Ip;
using route::IpBytes;
using route::TestMesh;

inline PodPtr LocalPod(const std::string& name, const std::string& ip,
                       const std::string& account = "") {
  auto pod = std::make_shared<Pod>();
  static_cast<route::PodFacts&>(*pod) = TestMesh::LocalPod(name, ip, account);
  pod->uid = "uid-" + name;
  return pod;
}

}  // namespace qanat::ztunnel
