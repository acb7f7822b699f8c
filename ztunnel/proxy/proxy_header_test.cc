// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/proxy_header.h"

#include <gtest/gtest.h>

namespace qanat::ztunnel {
namespace {

net::SocketAddress At(const char* text) { return net::SocketAddress::Parse(text).value(); }

std::string Hex(std::string_view bytes) {
  std::string out;
  for (const unsigned char c : bytes) {
    out.push_back("0123456789abcdef"[c >> 4]);
    out.push_back("0123456789abcdef"[c & 15]);
  }
  return out;
}

constexpr const char* kSignature = "0d0a0d0a000d0a515549540a";

// Written out by hand from the protocol's text.
TEST(ProxyHeader, Ipv4WithBothValues) {
  EXPECT_EQ(Hex(EncodeProxyV2({At("10.91.1.5:40000"), At("10.96.0.10:80"), "spiffe://a", "b.c"})),
            std::string(kSignature) + "2111" + "001f" + "0a5b0105" + "0a60000a" + "9c40" + "0050" +
                "d0000a" + "7370696666653a2f2f61" + "d10003" + "622e63");
}

TEST(ProxyHeader, Ipv6WithoutValues) {
  EXPECT_EQ(Hex(EncodeProxyV2({At("[fd91::5]:1"), At("[fd96::10]:65535"), "", ""})),
            std::string(kSignature) + "2121" + "0024" + "fd910000000000000000000000000005" +
                "fd960000000000000000000000000010" + "0001" + "ffff");
}

TEST(ProxyHeader, TwoFamiliesBecomeIpv6) {
  EXPECT_EQ(Hex(EncodeProxyV2({At("10.0.0.1:1"), At("[fd96::10]:2"), "", ""})),
            std::string(kSignature) + "2121" + "0024" + "00000000000000000000ffff0a000001" +
                "fd960000000000000000000000000010" + "0001" + "0002");
}

TEST(ProxyHeader, AValueThatIsTooLongIsLeftOut) {
  const std::string without = EncodeProxyV2({At("10.0.0.1:1"), At("10.0.0.2:2"), "", "h"});
  EXPECT_EQ(EncodeProxyV2({At("10.0.0.1:1"), At("10.0.0.2:2"), std::string(5000, 'x'), "h"}),
            without);
}

}  // namespace
}  // namespace qanat::ztunnel
