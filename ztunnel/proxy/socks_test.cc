// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/socks.h"

#include <gtest/gtest.h>

namespace qanat::ztunnel {
namespace {

using namespace std::string_literals;
using State = SocksParser::State;

// Gives the parser exactly what it asks for, as the socket's reader does; what is left comes back.
std::string Feed(SocksParser& parser, std::string_view& bytes, size_t step = 100) {
  std::string answers;
  while (!bytes.empty() && parser.state() == State::kReading) {
    const size_t n = std::min({bytes.size(), parser.wanted(), step});
    answers += parser.Take(bytes.substr(0, n));
    bytes.remove_prefix(n);
  }
  return answers;
}

const std::string kOk = "\x05\x00\x00\x01\0\0\0\0\0\0"s;

TEST(Socks, ConnectsToAddressesAndLeavesTheRest) {
  const struct {
    std::string request, destination;
  } cases[] = {{"\x05\x01\x00\x05\x01\x00\x01\x0a\x60\x00\x0a\x00\x50"s, "10.96.0.10:80"},
               {"\x05\x02\x02\x00\x05\x01\x00\x04\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\x1f\x90"s,
                "[fd00::2]:8080"}};
  for (const auto& c : cases) {
    for (const size_t step : {1, 2, 100}) {
      SocksParser parser;
      const std::string all = c.request + "GET /";
      std::string_view bytes = all;
      EXPECT_EQ(Feed(parser, bytes, step), "\x05\x00"s + kOk);
      ASSERT_EQ(parser.state(), State::kConnect);
      EXPECT_EQ(parser.destination().ToString(), c.destination);
      EXPECT_EQ(bytes, "GET /");
    }
  }
}

TEST(Socks, RefusesWithTheCodeOfTheRfc) {
  const std::string hello = "\x05\x01\x00"s, ok = "\x05\x00"s;
  const auto reply = [](char code) { return "\x05"s + code + "\x00\x01\0\0\0\0\0\0"s; };
  const struct {
    const char* name;
    std::string bytes, answer;
  } cases[] = {
      {"SOCKS4", "\x04\x01\x00\x50"s, ""},
      {"no method", "\x05\x00"s, ""},
      {"only passwords", "\x05\x01\x02"s, "\x05\xff"s},
      {"BIND", hello + "\x05\x02\x00\x01\x01\x02\x03\x04\x00\x50"s, ok + reply(7)},
      {"a name", hello + "\x05\x01\x00\x03\x01x\x00\x50"s, ok + reply(8)},
      {"another kind", hello + "\x05\x01\x00\x09"s, ok + reply(8)},
      {"port 0", hello + "\x05\x01\x00\x01\x01\x02\x03\x04\x00\x00"s, ok + reply(1)},
      {"another version", hello + "\x04\x01\x00\x01"s, ok + reply(1)},
  };
  for (const auto& c : cases) {
    SocksParser parser;
    std::string_view bytes = c.bytes;
    EXPECT_EQ(Feed(parser, bytes), c.answer) << c.name;
    EXPECT_EQ(parser.state(), State::kRefused) << c.name;
  }
}

}  // namespace
}  // namespace qanat::ztunnel
