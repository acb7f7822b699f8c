// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/own_stack.h"

#include <gtest/gtest.h>

namespace qanat::agent {
namespace {

const std::vector<rtnl::Interface> kInterfaces = {{1, "lo", "", true, true},
                                                  {7, "eth0", "veth", false, true}};
constexpr std::string_view kHead =
    "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n";

TEST(OwnStackTest, APacketSocketIsSeenWhateverItsProtocol) {
  const std::string head(kHead);
  EXPECT_EQ(PacketSocketIn(head + "0000000012345678 3      3    0003   7     1 0      0      99\n",
                           kInterfaces),
            "a packet socket on eth0");
  EXPECT_EQ(PacketSocketIn(head + "0000000012345678 3      3    0806   7     1 0      0      99\n",
                           kInterfaces),
            "a packet socket on eth0");
  EXPECT_EQ(PacketSocketIn(head + "0000000012345678 3      2    0003   0     1 0      0      99\n",
                           kInterfaces),
            "a packet socket on every interface");
}

TEST(OwnStackTest, NoneOfLoOfAStrangeInterfaceOrOfGarbage) {
  const std::string head(kHead);
  EXPECT_EQ(PacketSocketIn(head, kInterfaces), "");
  EXPECT_EQ(PacketSocketIn("", kInterfaces), "");
  EXPECT_EQ(PacketSocketIn(head + "0000000012345678 3 3 0003 1 1 0 0 99\n", kInterfaces), "");
  EXPECT_EQ(PacketSocketIn(head + "0000000012345678 3 3 0003 9 1 0 0 99\n", kInterfaces), "");
  EXPECT_EQ(PacketSocketIn(head + "what is this\n\n\x01\x02", kInterfaces), "");
}

TEST(OwnStackTest, ATapDeviceIsASignByItself) {
  std::vector<rtnl::Interface> interfaces = kInterfaces;
  for (const char* kind : {"tun", "macvtap"}) {
    interfaces.resize(2);
    interfaces.push_back({8, "tap0_kata", kind, false, true});
    auto sign = SignOfOwnStack(interfaces);
    ASSERT_TRUE(sign) << sign.error().message;
    EXPECT_EQ(*sign, "the tap device tap0_kata");
  }
}

}  // namespace
}  // namespace qanat::agent
