// SPDX-License-Identifier: Apache-2.0
// DNS messages of applications and of name servers: every reader, and what is built from them.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "common/dns/message.h"
#include "common/dns/response.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qanat::dns;
  const Bytes message(data, size);
  const auto require = [](bool holds) {
    if (!holds) std::abort();
  };

  if (const auto query = ReadQuery(message)) {
    require(query->question.name.size() <= kMaxName);
    // A name's text is its name: back to wire form it is the same.
    if (const auto host = HostOf(query->question.name)) {
      const auto wire = WireOf(*host);
      require(wire && SameName(*wire, query->question.name));
    }
    // An answer that we build is one to the query, in the limit, and readable.
    AnswerBuilder builder(message, *query, Rcode::kNoError, true, query->UdpLimit());
    builder.AddCname(query->question.name, 30);
    const auto v4 = qanat::net::IpAddress::V4(0x0a000001);
    for (size_t i = 0; i < size % 64; ++i) builder.AddAddress(v4, 30);
    const auto answer = std::move(builder).Finish();
    require(answer.size() <= query->UdpLimit() && ReadQuery(answer).has_value());
    if (query->header.opcode() == 0) require(Answers(message, answer));
    require(ReadQuery(Truncated(message, *query, answer)).has_value());
    if (query->edns) require(ReadQuery(BadVersion(message, *query)).has_value());
  }

  const Lifetime life = LifetimeOf(message);
  std::vector<uint8_t> copy(message.begin(), message.end());
  if (life.cacheable) {
    AgeTtls(copy, life.ttl_at, 1, 0);
    AgeTtls(copy, life.ttl_at, UINT32_MAX, 3);
    SetTtls(copy, life.ttl_at, 30);
    LifetimeOf(copy);  // a hostile name may lead into a TTL: then it is another message now
  }
  AddressesIn(message, type::kA);
  AddressesIn(message, type::kAaaa);
  // One half of the input as the answer to the other.
  Answers(message.first(size / 2), message.subspan(size / 2));
  return 0;
}
