// SPDX-License-Identifier: Apache-2.0
// What a connection's setup is spent on: the tunnel's TLS handshake is told apart from the way to
// the other end, once for each tunnel that somebody waited for.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/integration/locks/echo.h"

namespace qanat::ztunnel::test {
namespace {

using ::testing::HasSubstr;

std::string Shown(const char* what, const std::string& phase, int count) {
  return std::string("qanat_connection_setup_seconds_") + what + "{reporter=\"source\",phase=\"" +
         phase + "\"} " + std::to_string(count) + "\n";
}

TEST(SetupPhases, OnlyWhoWaitedForTheHandshakeHasIt) {
  const Fd null(open("/dev/null", O_WRONLY | O_CLOEXEC));
  TwoNodes nodes({.log_fd = null.get()});
  const Echo server;
  for (const int connections : {1, 2, 3}) {
    Echo::Call();
    const std::string text = nodes.registry().Render();
    EXPECT_THAT(text, HasSubstr(Shown("count", "tls", 1)));
    EXPECT_THAT(text, HasSubstr(Shown("count", "connect", connections)));
    EXPECT_THAT(text, HasSubstr(Shown("count", "queue", connections)));
  }
  // It took some time, and no handshake takes more than that.
  const std::string text = nodes.registry().Render();
  EXPECT_THAT(text, Not(HasSubstr(Shown("sum", "tls", 0))));
  EXPECT_THAT(text, HasSubstr("phase=\"tls\",le=\"10\"} 1\n"));
}

}  // namespace
}  // namespace qanat::ztunnel::test
