// SPDX-License-Identifier: Apache-2.0
// Bytes of a saved mesh state. What is read must be what a cleaning up of it leaves; a mesh is only
// made of a file that is whole. With the first byte odd the checksums are put right, so that what
// stands behind them is met too.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>

#include "common/state/crc32c.h"
#include "common/state/journal.h"
#include "common/state/mesh_state.h"

namespace {

using namespace qanat::state;
using Key = std::pair<JournalRecord::Type, std::string>;

void PutNumber(std::string& out, size_t at, uint32_t value) {
  for (size_t i = 0; i < 4; ++i) out[at + i] = static_cast<char>(value >> (8 * i) & 0xff);
}

// The records as they stand, every checksum made to fit, under a header that vouches for all.
std::string PutRight(std::string records) {
  for (size_t at = 0; at + 8 <= records.size();) {
    uint32_t size = 0;
    for (size_t i = 0; i < 4; ++i) {
      size |= static_cast<uint32_t>(static_cast<uint8_t>(records[at + i])) << (8 * i);
    }
    if (size > records.size() - at - 8) break;
    PutNumber(records, at + 4, Crc32c(std::string_view(records).substr(at + 8, size)));
    at += 8 + size;
  }
  JournalHeader header{records.size(), Crc32c(records), true, false, 1};
  return EncodeJournalHeader(header) + records;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string file(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 1) file = PutRight(std::move(file));
  std::map<Key, std::pair<JournalRecord::Op, std::string>> seen, left;
  MeshState mesh;
  size_t visited = 0;
  const auto read = ReadJournal(file, [&](const JournalRecord& r) {
    ++visited;
    seen[{r.type, std::string(r.name)}] = {r.op, std::string(r.bytes)};
    const bool address = r.type == JournalRecord::Type::kAddress;
    if (r.op == JournalRecord::Op::kRemove) {
      address ? mesh.RemoveAddress(r.name) : mesh.RemoveAuthorization(r.name);
    } else if (address) {
      (void)mesh.UpsertAddress(r.name, r.bytes);
    } else {
      (void)mesh.UpsertAuthorization(r.name, r.bytes);
    }
  });
  if (!read) {
    if (visited != 0) std::abort();
    return 0;
  }
  mesh.Publish();
  const std::string compact = CompactRecords(std::string_view(file).substr(kJournalHeaderSize));
  JournalHeader header{compact.size(), Crc32c(compact), true, false, 1};
  const auto again =
      ReadJournal(EncodeJournalHeader(header) + compact, [&](const JournalRecord& r) {
        left[{r.type, std::string(r.name)}] = {r.op, std::string(r.bytes)};
      });
  if (!again) std::abort();
  for (const auto& [key, value] : seen) {
    const bool gone =
        value.first == JournalRecord::Op::kRemove && key.first == JournalRecord::Type::kAddress;
    if (!gone && seen.size() <= 1024 && (!left.contains(key) || left[key] != value)) std::abort();
  }
  return 0;
}
