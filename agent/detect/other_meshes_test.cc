// SPDX-License-Identifier: Apache-2.0
#include "agent/detect/other_meshes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qanat::agent {
namespace {

using ::testing::HasSubstr;

TEST(OtherMeshesTest, KnowsOursAndTheBalancers) {
  const auto foreign = JudgePrograms({{1, "qanat_connect4"},
                                      {2, "cil_sock4_conne"},
                                      {3, "calico_connect_"},
                                      {4, "watch_connects"},
                                      {5, ""}});
  ASSERT_EQ(foreign.size(), 4u);
  EXPECT_THAT(foreign[0].whose, HasSubstr("Cilium"));
  EXPECT_THAT(foreign[0].remedy, HasSubstr("hostNamespaceOnly"));
  EXPECT_THAT(foreign[1].whose, HasSubstr("Calico"));
  EXPECT_EQ(foreign[2].whose, "");
  EXPECT_EQ(foreign[3].name, "");
}

TEST(OtherMeshesTest, FindsASocketInProcNetTcp) {
  constexpr const char* kTable =
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
      "inode\n"
      "   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 "
      "111 1 0000000000000000 100 0 0 10 0\n"
      "   1: 0501F40A:9C40 0100600A:01BB 02 00000000:00000000 01:00000063 00000000     0        0 "
      "222 2 0000000000000000 100 0 0 10 0\n"
      "garbage\n";
  EXPECT_EQ(RemoteOfInode(kTable, 222)->ToString(), "10.96.0.1:443");
  EXPECT_EQ(RemoteOfInode(kTable, 333), std::nullopt);
  EXPECT_EQ(RemoteOfInode("", 1), std::nullopt);
  constexpr const char* kTable6 =
      "   0: 00000000000000000000000000000000:0050 000000FD000000000000000001000000:01BB 02 "
      "00000000:00000000 01:00000063 00000000     0        0 7 1\n";
  EXPECT_EQ(RemoteOfInode(kTable6, 7)->ToString(), "[fd00::1]:443");
}

TEST(OtherMeshesTest, FindsIstioInTheChain) {
  EXPECT_EQ(JudgeCniChain({{"a", R"({"plugins":[{"type":"ptp"},{"type":"qanat-cni"}]})"},
                           {"b", "{"},
                           {"c", R"({"plugins":"istio-cni"})"}}),
            "");
  EXPECT_THAT(
      JudgeCniChain({{"a", "{}"}, {"/etc/cni/net.d/x", R"({"plugins":[{"type":"istio-cni"}]})"}}),
      HasSubstr("/etc/cni/net.d/x"));
  EXPECT_NE(JudgeCniChain({{"a", R"({"type":"istio-cni"})"}}), "");
}

}  // namespace
}  // namespace qanat::agent
