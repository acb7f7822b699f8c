// SPDX-License-Identifier: Apache-2.0
#include "common/state/journal.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "common/state/crc32c.h"

namespace qanat::state {
namespace {

using Op = JournalRecord::Op;
using Type = JournalRecord::Type;

// What a file says in the end: (type, name) -> "op version bytes", removals included as such.
using Content = std::map<std::pair<Type, std::string>, std::string>;

void Note(const JournalRecord& r, Content& content) {
  content[{r.type, std::string(r.name)}] = std::to_string(static_cast<int>(r.op)) + " " +
                                           std::string(r.version) + " " + std::string(r.bytes);
}
Result<Content> ContentOf(const std::string& file) {
  Content content;
  const auto header = ReadJournal(file, [&](const JournalRecord& r) { Note(r, content); });
  if (!header) {
    EXPECT_TRUE(content.empty()) << "something was visited of a file that is not used";
    return Fail(header.error());
  }
  return content;
}
Content ContentOfRecords(const std::string& records) {
  JournalHeader header;
  header.length = records.size();
  header.checksum = Crc32c(records);
  header.complete = true;
  return ContentOf(EncodeJournalHeader(header) + records).value();
}

class Writer {
 public:
  Writer& Put(Type type, const std::string& name, const std::string& version,
              const std::string& bytes, Op op = Op::kPut) {
    AppendJournalRecord({op, type, name, version, bytes}, records);
    return *this;
  }
  Writer& Remove(Type type, const std::string& name) {
    AppendJournalRecord({Op::kRemove, type, name, {}, {}}, records);
    return *this;
  }
  Writer& End() {
    AppendBatchEnd(records);
    return *this;
  }
  // As it is when `vouched` bytes were written before and the rest is a batch that is being added.
  std::string File(size_t vouched, bool appending, bool complete = true) const {
    JournalHeader header;
    header.length = vouched;
    header.checksum = Crc32c(std::string_view(records).substr(0, vouched));
    header.complete = complete;
    header.appending = appending;
    header.current_at = 1'763'800'000;
    return EncodeJournalHeader(header) + records;
  }
  std::string File() const { return File(records.size(), false); }

  std::string records;
};

Writer Small() {
  Writer w;
  w.Put(Type::kAddress, "Kubernetes//Pod/shop/a", "1", "bytes of a");
  w.Put(Type::kAddress, "shop/web", "1", std::string("\0\1\2", 3)).End();
  w.Put(Type::kAuthorization, "shop/deny", "2", "deny all").End();
  w.Remove(Type::kAddress, "shop/web");
  w.Put(Type::kAuthorization, "shop/odd", "3", "half understood", Op::kPutRefused).End();
  return w;
}

TEST(Crc32c, KnownValues) {
  EXPECT_EQ(Crc32c(""), 0u);
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  const std::string text = "the quick brown fox jumps over the lazy dog";
  for (size_t i = 0; i <= text.size(); ++i) {
    EXPECT_EQ(Crc32c(text.substr(i), Crc32c(text.substr(0, i))), Crc32c(text)) << i;
  }
}

TEST(Journal, ReadsWhatWasWritten) {
  const Writer w = Small();
  const auto content = ContentOf(w.File());
  ASSERT_TRUE(content.has_value()) << content.error().message;
  const Content wanted = {
      {{Type::kAddress, "Kubernetes//Pod/shop/a"}, "1 1 bytes of a"},
      {{Type::kAddress, "shop/web"}, "3  "},
      {{Type::kAuthorization, "shop/deny"}, "1 2 deny all"},
      {{Type::kAuthorization, "shop/odd"}, "2 3 half understood"},
  };
  EXPECT_EQ(*content, wanted);
  const auto header = ReadJournal(w.File(), [](const JournalRecord&) {});
  EXPECT_EQ(header->current_at, 1'763'800'000);
  EXPECT_EQ(header->length, w.records.size());
  EXPECT_EQ(header->checksum, Crc32c(w.records));
}

TEST(Journal, NothingSavedIsAMeshToo) { EXPECT_EQ(ContentOf(Writer().File())->size(), 0u); }

// A policy that stood behind the cut would be missing: no prefix is ever used.
TEST(Journal, EveryTruncationIsKnown) {
  const std::string whole = Small().File();
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(ContentOf(whole.substr(0, size)).has_value()) << "cut to " << size;
  }
}

TEST(Journal, EveryFlippedBitIsKnown) {
  for (const bool appending : {false, true}) {
    Writer w = Small();
    const size_t before = w.records.size();
    w.Put(Type::kAuthorization, "shop/more", "4", "deny more").End();
    std::string file = w.File(appending ? before : w.records.size(), appending);
    ASSERT_TRUE(ContentOf(file).has_value());
    for (size_t bit = 0; bit < 8 * file.size(); ++bit) {
      file[bit / 8] = static_cast<char>(file[bit / 8] ^ (1 << bit % 8));
      EXPECT_FALSE(ContentOf(file).has_value()) << "bit " << bit;
      file[bit / 8] = static_cast<char>(file[bit / 8] ^ (1 << bit % 8));
    }
  }
}

// Killed while a batch was being added: all of the batch, or nothing at all. Never what was before
// it, which would lack a policy that was in force.
TEST(Journal, ABatchThatIsNotAllThere) {
  Writer w;
  w.Put(Type::kAddress, "a", "1", "x").End();
  const size_t vouched = w.records.size();
  w.Put(Type::kAuthorization, "shop/deny", "1", "deny all")
      .Put(Type::kAddress, "b", "1", "y")
      .End();
  const std::string whole = w.File(vouched, true);
  const auto content = ContentOf(whole);
  ASSERT_TRUE(content.has_value()) << content.error().message;
  EXPECT_EQ(content->size(), 3u);
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(ContentOf(whole.substr(0, size)).has_value()) << "cut to " << size;
  }
  EXPECT_FALSE(ContentOf(w.File(vouched, false)).has_value()) << "more than was written";
}

TEST(Journal, NotBeforeEverythingWasReceived) {
  const Writer w = Small();
  const auto content = ContentOf(w.File(w.records.size(), false, false));
  ASSERT_FALSE(content.has_value());
  EXPECT_NE(content.error().message.find("before everything"), std::string::npos);
}

TEST(Journal, AnotherFormatIsSaid) {
  std::string file = Small().File();
  file[8] = 2;
  for (int i = 0; i < 4; ++i) {
    const uint32_t crc = Crc32c(std::string_view(file).substr(0, kJournalHeaderSize - 4));
    file[kJournalHeaderSize - 4 + i] = static_cast<char>(crc >> (8 * i) & 0xff);
  }
  const auto content = ContentOf(file);
  ASSERT_FALSE(content.has_value());
  EXPECT_NE(content.error().message.find("format 2"), std::string::npos) << content.error().message;
}

// Any history: what is left after cleaning up says the same, in an order that keeps "this workload
// was sent before that policy was removed".
TEST(Journal, CleaningUpKeepsTheLastWord) {
  std::mt19937 random(20261122);
  for (int round = 0; round < 200; ++round) {
    Writer w;
    for (unsigned i = 0, n = random() % 60; i < n; ++i) {
      const Type type = random() % 2 == 0 ? Type::kAddress : Type::kAuthorization;
      const std::string name = "n" + std::to_string(random() % 8);
      if (random() % 4 == 0) {
        w.Remove(type, name);
      } else {
        w.Put(type, name, std::to_string(i), std::string(random() % 40, 'x'),
              random() % 8 == 0 ? Op::kPutRefused : Op::kPut);
      }
      if (random() % 3 == 0) w.End();
    }
    w.End();
    Content wanted = ContentOfRecords(w.records);
    std::erase_if(wanted, [](const auto& item) {
      return item.first.first == Type::kAddress && item.second.starts_with("3 ");
    });
    const std::string compact = CompactRecords(w.records);
    EXPECT_EQ(ContentOfRecords(compact), wanted);
    EXPECT_EQ(CompactRecords(compact), compact);
    EXPECT_LE(compact.size(), w.records.size());
  }
}

TEST(Journal, CleaningUpKeepsOrder) {
  Writer w;
  w.Put(Type::kAddress, "pod", "1", "names shop/gone").End();
  w.Put(Type::kAuthorization, "shop/gone", "1", "x").End();
  w.Remove(Type::kAuthorization, "shop/gone").End();
  std::vector<std::string> names;
  const std::string compact = CompactRecords(w.records);
  JournalHeader header{compact.size(), Crc32c(compact), true, false, 0};
  ASSERT_TRUE(ReadJournal(EncodeJournalHeader(header) + compact,
                          [&](const JournalRecord& r) { names.emplace_back(r.name); }));
  EXPECT_EQ(names, (std::vector<std::string>{"pod", "shop/gone"}));
}

}  // namespace
}  // namespace qanat::state
