// SPDX-License-Identifier: Apache-2.0
// The format of the saved mesh state: a header, then records in the order in which things happened.
// Pure: bytes in, bytes out; ztunnel/saved_state.h has the file.
//
// A journal is used as a whole or not at all. A prefix of it would be a mesh without the policies
// that stood behind, and a missing DENY opens what was shut. Hence the header says how long the
// records are and what their checksum is, and it says beforehand that something is being appended:
// a file that was cut anywhere, or of which one bit is another one, is known as damaged.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace qanat::state {

inline constexpr size_t kJournalHeaderSize = 64;

struct JournalHeader {
  uint64_t length = 0;    // of the records that this header vouches for
  uint32_t checksum = 0;  // CRC-32C of those
  // Every type was received in full once: from here on the records are a mesh. Before, policies may
  // be missing that no record speaks of.
  bool complete = false;
  // A batch is being appended; until it is all there, the file is not to be used.
  bool appending = false;
  int64_t current_at = 0;  // when this was last known to be the present state; seconds since 1970
  bool operator==(const JournalHeader&) const = default;
};
std::string EncodeJournalHeader(const JournalHeader& header);  // kJournalHeaderSize bytes

struct JournalRecord {
  enum class Op : uint8_t {
    kPut = 1,
    // In force here, but refused towards the server: it is not counted as received.
    kPutRefused = 2,
    kRemove = 3,
    kBatchEnd = 4,
  };
  enum class Type : uint8_t { kAddress = 1, kAuthorization = 2 };
  Op op = Op::kPut;
  Type type = Type::kAddress;
  std::string_view name, version, bytes;
};
void AppendJournalRecord(const JournalRecord& record, std::string& out);
void AppendBatchEnd(std::string& out);

// The whole file. Fails, and says why, when any of it is damaged, cut, of another version, or not
// complete; then nothing has been visited. The views point into `file`; batch ends are not visited.
using JournalVisit = std::function<void(const JournalRecord&)>;
Result<JournalHeader> ReadJournal(std::string_view file, const JournalVisit& visit);

// The same mesh in as few records as it takes, in the order of the file's: the last word on each
// name. Of what was removed only that of policies is kept (the latest ones), since a workload that
// was sent before may still name one. `records` are whole: what follows the header.
std::string CompactRecords(std::string_view records);

}  // namespace qanat::state
