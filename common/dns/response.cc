// SPDX-License-Identifier: Apache-2.0
#include "common/dns/response.h"

#include <algorithm>
#include <string>

namespace qanat::dns {
namespace {

uint32_t Get32(Bytes m, size_t at) {
  return (static_cast<uint32_t>(m[at]) << 24) | (static_cast<uint32_t>(m[at + 1]) << 16) |
         (static_cast<uint32_t>(m[at + 2]) << 8) | m[at + 3];
}
void Set32(std::span<uint8_t> m, size_t at, uint32_t value) {
  for (size_t i = 0; i < 4; ++i) m[at + i] = static_cast<uint8_t>(value >> (24 - 8 * i));
}

// A TTL with the highest bit set means zero (RFC 2181 §8).
uint32_t Ttl(uint32_t wire) { return (wire & 0x80000000u) != 0 ? 0 : wire; }

}  // namespace

bool Answers(Bytes query, Bytes response) {
  const auto asked = ReadHeader(query);
  const auto header = ReadHeader(response);
  if (!asked || !header || !header->response() || header->id != asked->id ||
      header->opcode() != asked->opcode()) {
    return false;
  }
  if (header->questions == 0) {
    return header->rcode() != static_cast<unsigned>(Rcode::kNoError) &&
           header->rcode() != static_cast<unsigned>(Rcode::kNxDomain) && header->answers == 0;
  }
  const auto question = ReadQuestion(query, *asked);
  const auto repeated = ReadQuestion(response, *header);
  return question && repeated && question->type == repeated->type &&
         question->klass == repeated->klass && SameName(question->name, repeated->name);
}

Lifetime LifetimeOf(Bytes response) {
  Lifetime out;
  const auto header = ReadHeader(response);
  if (!header || !header->response() || header->truncated()) return out;
  const bool nxdomain = header->rcode() == static_cast<unsigned>(Rcode::kNxDomain);
  if (header->rcode() != 0 && !nxdomain) return out;
  const auto question = ReadQuestion(response, *header);
  if (!question) return out;
  RecordReader records(response, *header, question->end);
  uint32_t least = UINT32_MAX;
  uint32_t negative = UINT32_MAX;
  bool answered = false;  // by a record of the type asked for, not only by an alias
  while (const auto record = records.Next()) {
    if (record->type == type::kOpt) {
      if ((record->ttl >> 24) != 0) return out;  // an extended error
      continue;
    }
    out.ttl_at.push_back(static_cast<uint16_t>(record->ttl_at));
    least = std::min(least, Ttl(record->ttl));
    if (record->section == Record::Section::kAnswer &&
        (record->type == question->type || question->type == type::kAny)) {
      answered = true;
    }
    if (record->section == Record::Section::kAuthority && record->type == type::kSoa &&
        record->data_size >= 22) {
      const uint32_t minimum = Get32(response, record->data_at + record->data_size - 4);
      negative = std::min(negative, std::min(Ttl(record->ttl), Ttl(minimum)));
    }
  }
  if (!records.ok() || response.size() > kMaxMessage) return Lifetime{};
  if (nxdomain || !answered) {
    if (negative == UINT32_MAX) return Lifetime{};
    least = std::min(least, negative);
  }
  out.seconds = least;
  out.cacheable = least > 0;
  return out;
}

void AgeTtls(std::span<uint8_t> message, const std::vector<uint16_t>& ttl_at, uint32_t seconds,
             uint32_t least) {
  for (const uint16_t at : ttl_at) {
    const uint32_t ttl = Ttl(Get32(message, at));
    Set32(message, at, std::max(least, ttl > seconds ? ttl - seconds : 0));
  }
}

void SetTtls(std::span<uint8_t> message, const std::vector<uint16_t>& ttl_at, uint32_t ttl) {
  for (const uint16_t at : ttl_at) Set32(message, at, ttl);
}

std::vector<uint8_t> Truncated(Bytes message, const Query& query, Bytes response) {
  auto out = AnswerBuilder(message, query, Rcode::kNoError, false, query.UdpLimit()).Finish();
  // The server's own flags and rcode, with TC.
  out[2] = static_cast<uint8_t>(response[2] | 0x02);
  out[3] = response[3];
  return out;
}

Addresses AddressesIn(Bytes response, uint16_t type) {
  Addresses out;
  const auto header = ReadHeader(response);
  if (!header || header->rcode() != 0) return out;
  const auto question = ReadQuestion(response, *header);
  if (!question) return out;
  uint32_t least = UINT32_MAX;
  std::string name = question->name;
  std::string owner;
  // Servers put aliases in order; those that do not are gone over again, a bounded number of times.
  for (int hop = 0; hop < 16; ++hop) {
    bool moved = false;
    RecordReader records(response, *header, question->end);
    while (const auto record = records.Next()) {
      if (record->section != Record::Section::kAnswer || record->klass != kClassIn) continue;
      if (record->type != type && record->type != type::kCname) continue;
      size_t at = record->name_at;
      if (!ReadName(response, at, &owner) || !SameName(owner, name)) continue;
      if (record->type == type) {
        const auto ip =
            net::IpAddress::FromBytes(response.subspan(record->data_at, record->data_size));
        if (!ip.is_set() || record->data_size != (type == type::kAaaa ? 16 : 4)) continue;
        out.ips.push_back(ip);
        least = std::min(least, Ttl(record->ttl));
      } else {
        at = record->data_at;
        if (!ReadName(response, at, &name)) return Addresses{};
        least = std::min(least, Ttl(record->ttl));
        moved = true;
      }
    }
    if (!moved || !out.ips.empty()) break;
  }
  out.ttl = out.ips.empty() ? 0 : least;
  return out;
}

}  // namespace qanat::dns
