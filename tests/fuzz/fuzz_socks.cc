// SPDX-License-Identifier: Apache-2.0
// A SOCKS5 client that says anything, in pieces of any size: the parser asks for bytes until it has
// a destination or refuses, and takes no more than it asked for.
#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "ztunnel/proxy/socks.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using qanat::ztunnel::SocksParser;
  if (size == 0) return 0;
  const size_t step = data[0] % 7 + 1;
  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  SocksParser parser;
  size_t said = 0;
  while (!bytes.empty() && parser.state() == SocksParser::State::kReading) {
    if (parser.wanted() == 0 || parser.wanted() > 255) std::abort();
    const size_t n = std::min({bytes.size(), parser.wanted(), step});
    said += parser.Take(bytes.substr(0, n)).size();
    bytes.remove_prefix(n);
  }
  if (said > 12) std::abort();  // two bytes, then ten
  if (parser.state() == SocksParser::State::kConnect &&
      (!parser.destination().is_set() || parser.destination().port() == 0)) {
    std::abort();
  }
  return 0;
}
