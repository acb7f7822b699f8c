// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/pod_cgroup.h"

#include <gtest/gtest.h>

namespace qanat::agent {
namespace {

constexpr const char* kUid = "1f2e3d4c-5b6a-4798-8765-0123456789ab";

TEST(PodCgroupTest, KnowsBothDriversAndNestedKubelets) {
  const std::string uid = kUid;
  const std::string slice = "1f2e3d4c_5b6a_4798_8765_0123456789ab";
  for (const std::string& path : {
           "/kubepods/burstable/pod" + uid + "/c0ffee",
           "/kubepods/pod" + uid + "/c0ffee",
           "/kubelet/kubepods/besteffort/pod" + uid + "/c0ffee",
           "/system.slice/docker-1.scope/kubelet/kubepods/pod" + uid,
           "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + slice +
               ".slice/cri-containerd-c0ffee.scope",
           "/kubepods.slice/kubepods-pod" + slice + ".slice/crio-c0ffee.scope",
           "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + slice + ".slice/x.scope",
           // A container that runs a kubelet of its own: the pod is the outermost.
           "/kubepods/pod" + uid + "/x/kubepods/pod00000000-0000-4000-8000-000000000000/y",
       })
    EXPECT_EQ(PodUidOfCgroupPath(path), uid) << path;
  EXPECT_EQ(PodUidOfCgroupPath("/kubepods/pod0123456789abcdef0123456789abcdef/x"),
            "0123456789abcdef0123456789abcdef")
      << "static pods";
}

TEST(PodCgroupTest, OtherGroupsAreNoPods) {
  const std::string uid = kUid;
  for (const std::string& path :
       {std::string(), std::string("/"), std::string("/init.scope"), "/pod" + uid + "/x",
        "/user.slice/pod" + uid, "/kubepods/pod" + uid.substr(1) + "/x",
        std::string("/kubepods/burstable"), "/kubepods/podX" + uid.substr(1),
        "/kubepods/" + uid + "/x", std::string("/kubepods/pod/x"),
        "/kubepods.slice/kubepods-pod" + uid + "_.slice"})
    EXPECT_EQ(PodUidOfCgroupPath(path), "") << path;
}

TEST(PodCgroupTest, ReadsHybridAndUnifiedProcFiles) {
  const std::string uid = kUid;
  EXPECT_EQ(PodUidOfProcCgroup("12:pids:/kubepods/pod" + uid + "/x\n1:name=systemd:/\n0::/\n"),
            uid);
  EXPECT_EQ(PodUidOfProcCgroup("3:cpu,cpuacct:/\n0::/kubepods/pod" + uid + "/x\n"), uid);
  EXPECT_EQ(PodUidOfProcCgroup("0::/kubepods/pod" + uid + "/x"), uid);
  EXPECT_EQ(PodUidOfProcCgroup("0::/a:b/kubepods/pod" + uid + "/x"), uid);
  EXPECT_EQ(PodUidOfProcCgroup("garbage\n::\n:\n\n"), "");
}

TEST(PodCgroupTest, FindsTheKubeletsGroup) {
  EXPECT_EQ(KubepodsOfCgroupPath("/kubepods/burstable/pod1/x"), "/kubepods");
  EXPECT_EQ(KubepodsOfCgroupPath("/kubelet/kubepods/pod1"), "/kubelet/kubepods");
  EXPECT_EQ(KubepodsOfCgroupPath("/kubepods.slice/kubepods-pod1.slice/x"), "/kubepods.slice");
  EXPECT_EQ(KubepodsOfCgroupPath("/kubelet.slice/kubelet-kubepods.slice/a"),
            "/kubelet.slice/kubelet-kubepods.slice");
  EXPECT_EQ(KubepodsOfCgroupPath("/kubepods"), "/kubepods");
  EXPECT_EQ(KubepodsOfCgroupPath("/system.slice/x"), "");
  EXPECT_EQ(KubepodsOfCgroupPath(""), "");
}

}  // namespace
}  // namespace qanat::agent
