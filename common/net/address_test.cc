// SPDX-License-Identifier: Apache-2.0
#include "common/net/address.h"

#include <gtest/gtest.h>

namespace qanat::net {
namespace {

IpAddress Ip(std::string_view text) { return *IpAddress::Parse(text); }

TEST(IpAddressTest, ParsesAndPrints) {
  EXPECT_EQ(Ip("10.1.2.3").ToString(), "10.1.2.3");
  EXPECT_EQ(Ip("fd00::1").ToString(), "fd00::1");
  EXPECT_EQ(Ip("255.255.255.255").ToString(), "255.255.255.255");
  EXPECT_EQ(Ip("0.0.0.0").ToString(), "0.0.0.0");
  const std::string longest = "2001:db8:1111:2222:3333:4444:5555:6666";
  EXPECT_EQ(Ip(longest).ToString(), longest);
  EXPECT_EQ(SocketAddress(Ip(longest), 65535).ToString(), "[" + longest + "]:65535");
  EXPECT_EQ(SocketAddress(Ip("10.0.0.1"), 0).ToString(), "10.0.0.1:0");
  EXPECT_EQ(Ip("::ffff:10.1.2.3"), Ip("10.1.2.3")) << "one address, one representation";
  for (const char* bad : {"", "10.1.2", "10.1.2.3.4", "10.1.2.256", "fd00:::1", "[::1]", "a"}) {
    EXPECT_FALSE(IpAddress::Parse(bad)) << bad;
  }
}

TEST(IpAddressTest, Classes) {
  EXPECT_TRUE(Ip("127.3.4.5").is_loopback());
  EXPECT_TRUE(Ip("::1").is_loopback());
  EXPECT_FALSE(Ip("::2").is_loopback());
  EXPECT_TRUE(Ip("0.0.0.0").is_unspecified());
  EXPECT_TRUE(Ip("::").is_unspecified());
  EXPECT_FALSE(IpAddress().is_unspecified());
  EXPECT_TRUE(Ip("169.254.1.1").is_link_local());
  EXPECT_TRUE(Ip("fe80::1").is_link_local());
  EXPECT_TRUE(Ip("239.1.1.1").is_multicast());
  EXPECT_TRUE(Ip("ff02::1").is_multicast());
}

TEST(SocketAddressTest, ParsesAndPrints) {
  EXPECT_EQ(SocketAddress::Parse("10.1.2.3:80")->ToString(), "10.1.2.3:80");
  EXPECT_EQ(SocketAddress::Parse("[fd00::1]:80")->ToString(), "[fd00::1]:80");
  for (const char* bad : {"10.1.2.3", "10.1.2.3:", "10.1.2.3:70000", "fd00::1:80", "[fd00::1]",
                          "10.1.2.3:8a", ":80"}) {
    EXPECT_FALSE(SocketAddress::Parse(bad)) << bad;
  }
}

TEST(SocketAddressTest, SockaddrRoundTrip) {
  sockaddr_storage storage;
  for (const char* text : {"10.1.2.3:80", "[fd00::1]:65535"}) {
    for (bool as_v6 : {false, true}) {
      auto address = *SocketAddress::Parse(text);
      address.ToSockaddr(storage, as_v6);
      EXPECT_EQ(SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&storage)), address);
    }
  }
}

TEST(CidrTest, Contains) {
  Cidr block = *Cidr::Parse("10.1.255.0/18");
  EXPECT_EQ(block.ToString(), "10.1.192.0/18");
  EXPECT_TRUE(block.Contains(Ip("10.1.200.9")));
  EXPECT_FALSE(block.Contains(Ip("10.1.128.9")));
  EXPECT_FALSE(block.Contains(Ip("fd00::1")));
  EXPECT_FALSE(block.Contains(IpAddress()));
  EXPECT_TRUE(Cidr::Parse("0.0.0.0/0")->Contains(Ip("1.2.3.4")));
  EXPECT_FALSE(Cidr::Parse("0.0.0.0/0")->Contains(Ip("::1")));
  EXPECT_TRUE(Cidr::Parse("fd00::/9")->Contains(Ip("fd7f::1")));
  EXPECT_FALSE(Cidr::Parse("fd00::/9")->Contains(Ip("fd80::1")));
  EXPECT_TRUE(Cidr::Parse("10.0.0.1")->Contains(Ip("10.0.0.1")));
  for (const char* bad : {"10.0.0.0/33", "fd00::/129", "10.0.0.0/", "10.0.0.0/-1", "/8", "x/8"}) {
    EXPECT_FALSE(Cidr::Parse(bad)) << bad;
  }
  EXPECT_FALSE(Cidr().Contains(Ip("0.0.0.0"))) << "no block contains nothing";
}

}  // namespace
}  // namespace qanat::net
