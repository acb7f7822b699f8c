// SPDX-License-Identifier: Apache-2.0
// A DNS message read in place, and small answers built. Values over the caller's bytes; any thread.
// Wire facts: RFC 1035 §4, RFC 6891 (EDNS), RFC 2181.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/dns/name.h"
#include "common/net/address.h"

namespace qanat::dns {

constexpr size_t kHeaderSize = 12;
constexpr size_t kPlainUdpLimit = 512;  // what every client takes
constexpr size_t kMaxMessage = 65535;

namespace type {
constexpr uint16_t kA = 1, kNs = 2, kCname = 5, kSoa = 6, kPtr = 12, kMx = 15, kTxt = 16,
                   kAaaa = 28, kSrv = 33, kNaptr = 35, kOpt = 41, kSvcb = 64, kHttps = 65,
                   kIxfr = 251, kAxfr = 252, kAny = 255, kCaa = 257;
}
constexpr uint16_t kClassIn = 1;
// "A", "SRV"; "unknown" for those that have no everyday name, so that metrics stay bounded.
std::string_view TypeName(uint16_t type);

enum class Rcode : uint8_t {
  kNoError = 0,
  kFormErr = 1,
  kServFail = 2,
  kNxDomain = 3,
  kNotImp = 4,
  kRefused = 5,
};
constexpr unsigned kBadVers = 16;  // extended, with EDNS only

struct Header {
  uint16_t id = 0;
  uint16_t flags = 0;
  uint16_t questions = 0, answers = 0, authorities = 0, additionals = 0;

  bool response() const { return (flags & 0x8000) != 0; }
  unsigned opcode() const { return (flags >> 11) & 0xf; }
  bool truncated() const { return (flags & 0x0200) != 0; }
  bool recursion_desired() const { return (flags & 0x0100) != 0; }
  unsigned rcode() const { return flags & 0xf; }
};
std::optional<Header> ReadHeader(Bytes message);
void WriteId(std::span<uint8_t> message, uint16_t id);  // of at least two bytes

struct Question {
  std::string name;  // wire form, the case as it came
  uint16_t type = 0;
  uint16_t klass = 0;
  size_t end = 0;  // where the first record begins
};
// The one question; nothing where the message has none, several, or a broken one.
std::optional<Question> ReadQuestion(Bytes message, const Header& header);

struct Record {
  enum class Section : uint8_t { kAnswer, kAuthority, kAdditional };
  Section section = Section::kAnswer;
  size_t name_at = 0;
  uint16_t type = 0;
  uint16_t klass = 0;  // of an OPT record: the sender's UDP limit
  uint32_t ttl = 0;    // of an OPT record: extended rcode, version, flags
  size_t ttl_at = 0;
  size_t data_at = 0;
  size_t data_size = 0;
};
// Walks over the records behind the question(s), in order.
class RecordReader {
 public:
  RecordReader(Bytes message, const Header& header, size_t at);
  // Nothing at the end and where a record is broken; ok() tells which.
  std::optional<Record> Next();
  bool ok() const { return ok_; }
  size_t position() const { return at_; }

 private:
  Bytes message_;
  size_t at_;
  size_t left_[3];
  bool ok_ = true;
};

struct Edns {
  uint16_t udp_limit = 0;
  uint8_t version = 0;
  bool dnssec_ok = false;
};

struct Query {
  Header header;
  Question question;
  std::optional<Edns> edns;
  // The largest answer that the client takes by UDP.
  size_t UdpLimit() const;
};
// A question of a client; nothing where it is broken or has more than one OPT record.
std::optional<Query> ReadQuery(Bytes message);

// An answer to a query: header, the question as it came, records, the OPT record that a query with
// EDNS is owed.
class AnswerBuilder {
 public:
  // `limit`: bytes that the answer may have; what does not fit sets TC.
  AnswerBuilder(Bytes message, const Query& query, Rcode rcode, bool authoritative, size_t limit);
  // An alias of the question's name; the addresses that follow belong to the alias.
  void AddCname(std::string_view wire, uint32_t ttl);
  void AddAddress(const net::IpAddress& ip, uint32_t ttl);
  std::vector<uint8_t> Finish() &&;

 private:
  bool AddRecord(uint16_t type, uint32_t ttl, std::string_view data);

  const Query& query_;
  size_t limit_;
  std::vector<uint8_t> out_;
  uint16_t owner_ = kHeaderSize;  // offset of the name that addresses belong to
  uint16_t answers_ = 0;
  bool full_ = false;
};

// For a message whose question cannot be read: the header with that rcode and no sections.
std::vector<uint8_t> BareAnswer(const Header& header, Rcode rcode);
// BADVERS for a query with an EDNS version that is not known (RFC 6891 §6.1.3).
std::vector<uint8_t> BadVersion(Bytes message, const Query& query);

// A recursive question, for those who ask themselves; with EDNS of that UDP limit.
std::vector<uint8_t> BuildQuery(uint16_t id, std::string_view wire_name, uint16_t type,
                                uint16_t udp_limit = 1232);

}  // namespace qanat::dns
