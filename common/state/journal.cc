// SPDX-License-Identifier: Apache-2.0
#include "common/state/journal.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <unordered_map>
#include <vector>

#include "common/state/crc32c.h"

namespace qanat::state {
namespace {

using Op = JournalRecord::Op;
using Type = JournalRecord::Type;

constexpr std::string_view kMagic = "QANATMSH";
constexpr uint32_t kVersion = 1;
constexpr size_t kFrame = 8;                 // length and checksum before each record
constexpr size_t kLeastPayload = 2 + 2 * 4;  // op, type, two lengths
constexpr size_t kMostRemovals = 1024;       // as many as the mesh state remembers

// Little endian, whatever the machine.
template <typename T>
void PutNumber(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>(value >> (8 * i) & 0xff));
}
template <typename T>
T TakeNumber(std::string_view& in) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value |= static_cast<T>(static_cast<T>(static_cast<uint8_t>(in[i])) << (8 * i));
  }
  in.remove_prefix(sizeof(T));
  return value;
}

tl::unexpected<Error> Damaged(std::string why) {
  return Fail(Code::kInvalidArgument, std::move(why));
}

Result<JournalHeader> ReadHeader(std::string_view file) {
  if (file.size() < kJournalHeaderSize) return Damaged("it is shorter than its header");
  const std::string_view whole = file.substr(0, kJournalHeaderSize);
  std::string_view in = whole;
  if (!in.starts_with(kMagic)) return Damaged("it does not begin like a saved mesh state");
  in.remove_prefix(kMagic.size());
  if (const auto version = TakeNumber<uint32_t>(in); version != kVersion) {
    return Damaged(fmt::format("it has format {}, this program knows {}", version, kVersion));
  }
  JournalHeader header;
  const auto flags = TakeNumber<uint32_t>(in);
  header.complete = (flags & 1) != 0;
  header.appending = (flags & 2) != 0;
  header.length = TakeNumber<uint64_t>(in);
  header.current_at = static_cast<int64_t>(TakeNumber<uint64_t>(in));
  header.checksum = TakeNumber<uint32_t>(in);
  std::string_view sum = whole.substr(kJournalHeaderSize - 4);
  if (Crc32c(whole.substr(0, kJournalHeaderSize - 4)) != TakeNumber<uint32_t>(sum)) {
    return Damaged("the checksum of its header is wrong");
  }
  return header;
}

// One record off the front; nothing where it is cut or damaged.
bool TakeRecord(std::string_view& in, JournalRecord& record) {
  if (in.size() < kFrame) return false;
  std::string_view frame = in.substr(0, kFrame);
  const auto size = TakeNumber<uint32_t>(frame);
  const auto sum = TakeNumber<uint32_t>(frame);
  if (size < kLeastPayload || size > in.size() - kFrame) return false;
  std::string_view payload = in.substr(kFrame, size);
  if (Crc32c(payload) != sum) return false;
  in.remove_prefix(kFrame + size);
  const auto op = static_cast<uint8_t>(payload[0]);
  const auto type = static_cast<uint8_t>(payload[1]);
  if (op < 1 || op > 4 || type < 1 || type > 2) return false;
  record.op = static_cast<Op>(op);
  record.type = static_cast<Type>(type);
  payload.remove_prefix(2);
  const size_t name = TakeNumber<uint32_t>(payload);
  const size_t version = TakeNumber<uint32_t>(payload);
  if (name > payload.size() || version > payload.size() - name) return false;
  record.name = payload.substr(0, name);
  record.version = payload.substr(name, version);
  record.bytes = payload.substr(name + version);
  return true;
}

// Whether these are whole records, the last of them a batch's end, and no other one before if only
// one batch is allowed.
bool AreWholeBatches(std::string_view records, bool one) {
  JournalRecord record;
  size_t ends = 0;
  bool at_end = true;
  while (!records.empty()) {
    if (!TakeRecord(records, record)) return false;
    at_end = record.op == Op::kBatchEnd;
    ends += at_end ? 1 : 0;
  }
  return at_end && (!one || ends == 1);
}

}  // namespace

std::string EncodeJournalHeader(const JournalHeader& header) {
  std::string out(kMagic);
  PutNumber(out, kVersion);
  PutNumber<uint32_t>(out, (header.complete ? 1 : 0) | (header.appending ? 2 : 0));
  PutNumber(out, header.length);
  PutNumber(out, static_cast<uint64_t>(header.current_at));
  PutNumber(out, header.checksum);
  out.resize(kJournalHeaderSize - 4);
  PutNumber(out, Crc32c(out));
  return out;
}

void AppendJournalRecord(const JournalRecord& record, std::string& out) {
  const size_t frame = out.size();
  out.resize(frame + kFrame);
  out.push_back(static_cast<char>(record.op));
  out.push_back(static_cast<char>(record.type));
  PutNumber(out, static_cast<uint32_t>(record.name.size()));
  PutNumber(out, static_cast<uint32_t>(record.version.size()));
  out.append(record.name).append(record.version).append(record.bytes);
  const std::string_view payload = std::string_view(out).substr(frame + kFrame);
  std::string head;
  PutNumber(head, static_cast<uint32_t>(payload.size()));
  PutNumber(head, Crc32c(payload));
  out.replace(frame, kFrame, head);
}

void AppendBatchEnd(std::string& out) {
  AppendJournalRecord({Op::kBatchEnd, Type::kAddress, {}, {}, {}}, out);
}

Result<JournalHeader> ReadJournal(std::string_view file, const JournalVisit& visit) {
  QANAT_ASSIGN_OR_RETURN(JournalHeader header, ReadHeader(file));
  if (!header.complete) return Damaged("it ends before everything had been received");
  const std::string_view records = file.substr(kJournalHeaderSize);
  if (header.length > records.size()) return Damaged("it has been cut");
  const std::string_view vouched = records.substr(0, header.length);
  const std::string_view rest = records.substr(header.length);
  if (Crc32c(vouched) != header.checksum || !AreWholeBatches(vouched, false)) {
    return Damaged("the checksum of its records is wrong");
  }
  // Killed while it appended: all of that batch, or nothing of all this.
  if (header.appending && (rest.empty() || !AreWholeBatches(rest, true))) {
    return Damaged("its last change is not all there");
  }
  if (!header.appending && !rest.empty()) return Damaged("there is more in it than was written");
  JournalRecord record;
  for (std::string_view in = records; !in.empty();) {
    if (!TakeRecord(in, record)) return Damaged("a record cannot be read");
    if (record.op != Op::kBatchEnd) visit(record);
  }
  header.length = records.size();
  header.checksum = Crc32c(rest, header.checksum);
  header.appending = false;
  return header;
}

std::string CompactRecords(std::string_view records) {
  struct Last {
    size_t at = 0, size = 0;
    bool removed = false;
  };
  std::unordered_map<std::string, Last> last;  // by type and name
  JournalRecord record;
  const auto key = [&record] {
    return std::string(1, static_cast<char>(record.type)).append(record.name);
  };
  for (std::string_view in = records; !in.empty();) {
    const size_t at = records.size() - in.size();
    if (!TakeRecord(in, record)) break;
    if (record.op == Op::kBatchEnd) continue;
    last[key()] = {at, records.size() - in.size() - at, record.op == Op::kRemove};
  }
  std::vector<std::string_view> kept;
  size_t removals = 0;
  // From the end: the latest removals are the ones to keep.
  std::vector<std::pair<size_t, const Last*>> order;
  order.reserve(last.size());
  for (const auto& [name, entry] : last) {
    const bool policy = name.front() == static_cast<char>(Type::kAuthorization);
    if (!entry.removed || policy) order.emplace_back(entry.at, &entry);
  }
  std::sort(order.begin(), order.end(), std::greater<>());
  size_t bytes = 0;
  for (const auto& [at, entry] : order) {
    if (entry->removed && ++removals > kMostRemovals) continue;
    kept.push_back(records.substr(entry->at, entry->size));
    bytes += entry->size;
  }
  std::string out;
  out.reserve(bytes + 32);
  for (auto it = kept.rbegin(); it != kept.rend(); ++it) out.append(*it);
  AppendBatchEnd(out);
  return out;
}

}  // namespace qanat::state
