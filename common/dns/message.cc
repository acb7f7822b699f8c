// SPDX-License-Identifier: Apache-2.0
#include "common/dns/message.h"

#include <algorithm>
#include <array>
#include <utility>

namespace qanat::dns {
namespace {

constexpr size_t kOptSize = 11;
constexpr size_t kLargestUdp = 4096;  // larger ones are lost in fragments, or not sent at all
constexpr uint16_t kQr = 0x8000, kAa = 0x0400, kTc = 0x0200, kRd = 0x0100, kRa = 0x0080,
                   kCd = 0x0010;
constexpr uint32_t kDnssecOk = 0x8000;  // in an OPT record's TTL

uint16_t Get16(Bytes m, size_t at) { return static_cast<uint16_t>((m[at] << 8) | m[at + 1]); }
uint32_t Get32(Bytes m, size_t at) {
  return (static_cast<uint32_t>(Get16(m, at)) << 16) | Get16(m, at + 2);
}
void Put16(std::vector<uint8_t>& out, uint32_t value) {
  out.push_back(static_cast<uint8_t>(value >> 8));
  out.push_back(static_cast<uint8_t>(value));
}
void Put32(std::vector<uint8_t>& out, uint32_t value) {
  Put16(out, value >> 16);
  Put16(out, value & 0xffff);
}
void Set16(std::vector<uint8_t>& out, size_t at, uint32_t value) {
  out[at] = static_cast<uint8_t>(value >> 8);
  out[at + 1] = static_cast<uint8_t>(value);
}

void PutOpt(std::vector<uint8_t>& out, const Edns& edns, unsigned extended_rcode) {
  out.push_back(0);  // the root
  Put16(out, type::kOpt);
  // The client's own limit, as the stock proxy says it.
  Put16(out, std::max<uint32_t>(edns.udp_limit, kPlainUdpLimit));
  Put32(out, (extended_rcode << 24) | (edns.dnssec_ok ? kDnssecOk : 0));
  Put16(out, 0);
}

uint16_t AnswerFlags(const Header& header, unsigned rcode, bool authoritative) {
  return static_cast<uint16_t>(kQr | (header.flags & (0x7800 | kRd | kCd)) | kRa |
                               (authoritative ? kAa : 0) | (rcode & 0xf));
}

}  // namespace

std::string_view TypeName(uint16_t type) {
  static constexpr std::array<std::pair<uint16_t, std::string_view>, 16> kNames{{
      {type::kA, "A"},
      {type::kNs, "NS"},
      {type::kCname, "CNAME"},
      {type::kSoa, "SOA"},
      {type::kPtr, "PTR"},
      {type::kMx, "MX"},
      {type::kTxt, "TXT"},
      {type::kAaaa, "AAAA"},
      {type::kSrv, "SRV"},
      {type::kNaptr, "NAPTR"},
      {type::kSvcb, "SVCB"},
      {type::kHttps, "HTTPS"},
      {type::kIxfr, "IXFR"},
      {type::kAxfr, "AXFR"},
      {type::kAny, "ANY"},
      {type::kCaa, "CAA"},
  }};
  for (const auto& [number, name] : kNames) {
    if (number == type) return name;
  }
  return "unknown";
}

std::optional<Header> ReadHeader(Bytes message) {
  if (message.size() < kHeaderSize) return std::nullopt;
  return Header{Get16(message, 0), Get16(message, 2), Get16(message, 4),
                Get16(message, 6), Get16(message, 8), Get16(message, 10)};
}

void WriteId(std::span<uint8_t> message, uint16_t id) {
  message[0] = static_cast<uint8_t>(id >> 8);
  message[1] = static_cast<uint8_t>(id);
}

std::optional<Question> ReadQuestion(Bytes message, const Header& header) {
  if (header.questions != 1) return std::nullopt;
  Question question;
  size_t at = kHeaderSize;
  if (!ReadName(message, at, &question.name) || at + 4 > message.size()) return std::nullopt;
  // The first name has only the header to point into: that would be another name in the answer.
  if (at - kHeaderSize != question.name.size()) return std::nullopt;
  question.type = Get16(message, at);
  question.klass = Get16(message, at + 2);
  question.end = at + 4;
  return question;
}

RecordReader::RecordReader(Bytes message, const Header& header, size_t at)
    : message_(message), at_(at), left_{header.answers, header.authorities, header.additionals} {}

std::optional<Record> RecordReader::Next() {
  if (!ok_) return std::nullopt;
  size_t section = 0;
  while (section < 3 && left_[section] == 0) ++section;
  if (section == 3) return std::nullopt;
  --left_[section];
  Record record;
  record.section = static_cast<Record::Section>(section);
  record.name_at = at_;
  ok_ = ReadName(message_, at_, nullptr) && at_ + 10 <= message_.size();
  if (!ok_) return std::nullopt;
  record.type = Get16(message_, at_);
  record.klass = Get16(message_, at_ + 2);
  record.ttl_at = at_ + 4;
  record.ttl = Get32(message_, at_ + 4);
  record.data_size = Get16(message_, at_ + 8);
  record.data_at = at_ + 10;
  ok_ = record.data_at + record.data_size <= message_.size();
  if (!ok_) return std::nullopt;
  at_ = record.data_at + record.data_size;
  return record;
}

size_t Query::UdpLimit() const {
  return edns ? std::clamp<size_t>(edns->udp_limit, kPlainUdpLimit, kLargestUdp) : kPlainUdpLimit;
}

std::optional<Query> ReadQuery(Bytes message) {
  const auto header = ReadHeader(message);
  if (!header) return std::nullopt;
  auto question = ReadQuestion(message, *header);
  if (!question) return std::nullopt;
  Query query{*header, std::move(*question), {}};
  RecordReader records(message, *header, query.question.end);
  while (const auto record = records.Next()) {
    if (record->type != type::kOpt) continue;
    if (query.edns) return std::nullopt;
    query.edns = Edns{record->klass, static_cast<uint8_t>(record->ttl >> 16),
                      (record->ttl & kDnssecOk) != 0};
  }
  if (!records.ok()) return std::nullopt;
  return query;
}

AnswerBuilder::AnswerBuilder(Bytes message, const Query& query, Rcode rcode, bool authoritative,
                             size_t limit)
    : query_(query), limit_(std::min(limit, kMaxMessage) - (query.edns ? kOptSize : 0)) {
  out_.reserve(256);
  Put16(out_, query.header.id);
  Put16(out_, AnswerFlags(query.header, static_cast<unsigned>(rcode), authoritative));
  Put16(out_, 1);
  Put16(out_, 0);
  Put32(out_, 0);
  // As it came: its case is an answer's proof for some clients.
  const Bytes question = message.subspan(kHeaderSize, query.question.end - kHeaderSize);
  out_.insert(out_.end(), question.begin(), question.end());
}

bool AnswerBuilder::AddRecord(uint16_t type, uint32_t ttl, std::string_view data) {
  if (full_ || out_.size() + 12 + data.size() > limit_) {
    full_ = true;
    return false;
  }
  Put16(out_, 0xc000u | owner_);
  Put16(out_, type);
  Put16(out_, kClassIn);
  Put32(out_, ttl);
  Put16(out_, static_cast<uint32_t>(data.size()));
  out_.insert(out_.end(), data.begin(), data.end());
  ++answers_;
  return true;
}

void AnswerBuilder::AddCname(std::string_view wire, uint32_t ttl) {
  if (AddRecord(type::kCname, ttl, wire)) owner_ = static_cast<uint16_t>(out_.size() - wire.size());
}

void AnswerBuilder::AddAddress(const net::IpAddress& ip, uint32_t ttl) {
  const auto bytes = ip.bytes();
  AddRecord(ip.is_v4() ? type::kA : type::kAaaa, ttl,
            {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

std::vector<uint8_t> AnswerBuilder::Finish() && {
  Set16(out_, 6, answers_);
  if (full_) out_[2] |= kTc >> 8;
  if (query_.edns) {
    Set16(out_, 10, 1);
    PutOpt(out_, *query_.edns, 0);
  }
  return std::move(out_);
}

std::vector<uint8_t> BareAnswer(const Header& header, Rcode rcode) {
  std::vector<uint8_t> out;
  Put16(out, header.id);
  Put16(out, AnswerFlags(header, static_cast<unsigned>(rcode), false));
  Put32(out, 0);
  Put32(out, 0);
  return out;
}

std::vector<uint8_t> BadVersion(Bytes message, const Query& query) {
  Query plain = query;
  plain.edns.reset();
  auto out = AnswerBuilder(message, plain, Rcode::kNoError, false, kMaxMessage).Finish();
  Set16(out, 10, 1);
  PutOpt(out, *query.edns, kBadVers >> 4);
  return out;
}

std::vector<uint8_t> BuildQuery(uint16_t id, std::string_view wire_name, uint16_t type,
                                uint16_t udp_limit) {
  std::vector<uint8_t> out;
  Put16(out, id);
  Put16(out, kRd);
  Put16(out, 1);
  Put32(out, 0);
  Put16(out, 1);
  out.insert(out.end(), wire_name.begin(), wire_name.end());
  Put16(out, type);
  Put16(out, kClassIn);
  PutOpt(out, Edns{udp_limit, 0, false}, 0);
  return out;
}

}  // namespace qanat::dns
