// SPDX-License-Identifier: Apache-2.0
// What one who relays answers must know of them without changing them: whether an answer belongs to
// a question, how long it may be kept, where its TTLs are; and which addresses it says. Pure.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "common/dns/message.h"

namespace qanat::dns {

// Whether `response` may be the answer to `query`: its id, the same question (the case of letters
// aside: some servers fold it). Errors without a question section are taken too: servers that do
// not understand a query cannot repeat it.
bool Answers(Bytes query, Bytes response);

struct Lifetime {
  bool cacheable = false;
  uint32_t seconds = 0;          // the least TTL; of a negative answer: its SOA's (RFC 2308 §5)
  std::vector<uint16_t> ttl_at;  // of every record but OPT
};
// Truncated answers, errors other than NXDOMAIN, negative answers without SOA and what cannot be
// read are not kept.
Lifetime LifetimeOf(Bytes response);

// Takes `seconds` off each TTL, down to `least`.
void AgeTtls(std::span<uint8_t> message, const std::vector<uint16_t>& ttl_at, uint32_t seconds,
             uint32_t least);
void SetTtls(std::span<uint8_t> message, const std::vector<uint16_t>& ttl_at, uint32_t ttl);

// An answer without its records and with TC: what is left of one that a client has no room for.
std::vector<uint8_t> Truncated(Bytes message, const Query& query, Bytes response);

struct Addresses {
  std::vector<net::IpAddress> ips;
  uint32_t ttl = 0;  // the least one on the way there
};
// The addresses of that family (A or AAAA) of the question's name, through its aliases.
Addresses AddressesIn(Bytes response, uint16_t type);

}  // namespace qanat::dns
