// SPDX-License-Identifier: Apache-2.0
// Where a captured connection wanted to go, and what the kernel says of it by its mark. As root.
#include "ztunnel/proxy/original_destination.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "common/lb/draw.h"
#include "common/net/socket.h"

namespace qanat::ztunnel {
namespace {

class OriginalDestinationTest : public ::testing::Test {
 protected:
  // Of a connection to some other port than the proxy's, as the listener lookup gives them.
  std::optional<OriginalDestination> Find(uint32_t mark, uint16_t listener_port) {
    const Fd listener = *net::Listen({.address = *net::SocketAddress::Parse("127.0.0.1:0")});
    at_ = *net::SocketAddress::OfLocal(listener.get());
    const Fd client = *net::StartConnect({.to = at_});
    const Fd accepted(accept(listener.get(), nullptr, nullptr));
    EXPECT_EQ(setsockopt(accepted.get(), SOL_SOCKET, SO_MARK, &mark, sizeof mark), 0);
    return FindOriginalDestination(accepted.get(), listener_port);
  }
  net::SocketAddress at_;
};

TEST_F(OriginalDestinationTest, IsTheSocketsOwnUnderOurAgent) {
  const auto found = Find(0, 15001);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->address, at_);
  EXPECT_FALSE(found->by_nat);
  EXPECT_EQ(found->drawn, 0u);
}

TEST_F(OriginalDestinationTest, TheMarkSaysWhatWasDrawn) {
  const uint32_t code = lb::DrawCode("Kubernetes//Pod/shop/backend-1");
  EXPECT_EQ(Find(code << 12 | 0x53d, 15001)->drawn, code);
  EXPECT_EQ(Find(0x53d, 15001)->drawn, 0u);
  for (const uint32_t other :
       {0x53au, 0x539u, code << 12, code << 12 | 0x53a, code << 12 | 0x111}) {
    EXPECT_EQ(Find(other, 15001)->drawn, 0u) << std::hex << other;
  }
  EXPECT_EQ(Find(code << 12 | 0x53d, 15006)->drawn, 0u) << "what comes in was not drawn here";
}

}  // namespace
}  // namespace qanat::ztunnel
