// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/profile/pprof.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>

namespace qanat::ztunnel::profile {
namespace {

// Protobuf by hand: four messages of integers do not need a generator.
class Writer {
 public:
  void Int(unsigned field, uint64_t value) {
    if (value == 0) return;
    Varint(field << 3);
    Varint(value);
  }
  void Bytes(unsigned field, const std::string& bytes) {
    Varint(field << 3 | 2);
    Varint(bytes.size());
    out_ += bytes;
  }
  void Packed(unsigned field, const std::vector<uint64_t>& values) {
    Writer inner;
    for (const uint64_t value : values) inner.Varint(value);
    Bytes(field, inner.out_);
  }
  void Varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) out_ += static_cast<char>(value | 0x80);
    out_ += static_cast<char>(value);
  }
  std::string Take() { return std::move(out_); }

 private:
  std::string out_;
};

class Strings {
 public:
  uint64_t Of(const std::string& text) {
    const auto [it, added] = index_.emplace(text, list_.size());
    if (added) list_.push_back(text);
    return it->second;
  }
  const std::vector<std::string>& list() const { return list_; }

 private:
  std::vector<std::string> list_ = {""};  // the first one must be empty
  std::map<std::string, uint64_t> index_ = {{"", 0}};
};

std::string ValueType(uint64_t type, uint64_t unit) {
  Writer w;
  w.Int(1, type);
  w.Int(2, unit);
  return w.Take();
}

}  // namespace

std::vector<Mapping> ParseMappings(const std::string& maps) {
  std::vector<Mapping> out;
  std::istringstream lines(maps);
  for (std::string line; std::getline(lines, line);) {
    unsigned long start = 0, end = 0, offset = 0;
    char rights[5] = {};
    int path = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx %4s %lx %*s %*s %n", &start, &end, rights, &offset,
                    &path) < 4 ||
        rights[2] != 'x') {
      continue;
    }
    const std::string file =
        path > 0 && static_cast<size_t>(path) < line.size() ? line.substr(path) : "";
    out.push_back({start, end, offset, file});
  }
  return out;
}

std::vector<Mapping> OwnMappings() {
  std::ifstream maps("/proc/self/maps");
  std::ostringstream text;
  text << maps.rdbuf();
  return ParseMappings(text.str());
}

std::string EncodeProfile(const Profile& profile) {
  Strings strings;
  Writer out;
  const auto type_of = [&strings](const Profile::Type& type) {
    const uint64_t kind = strings.Of(type.kind);
    return ValueType(kind, strings.Of(type.unit));
  };
  for (const Profile::Type& type : profile.types) out.Bytes(1, type_of(type));

  std::map<uint64_t, uint64_t> locations;  // address -> id, from 1
  for (const auto& [stack, values] : profile.stacks) {
    std::vector<uint64_t> ids;
    for (size_t i = 0; i < stack.size(); ++i) {
      // A return address lies behind its call, perhaps in the next function already.
      const uint64_t address = i == 0 ? stack[i] : stack[i] - 1;
      ids.push_back(locations.emplace(address, locations.size() + 1).first->second);
    }
    Writer sample;
    sample.Packed(1, ids);
    sample.Packed(2, {values.begin(), values.end()});
    out.Bytes(2, sample.Take());
  }
  for (size_t i = 0; i < profile.mappings.size(); ++i) {
    const Mapping& mapping = profile.mappings[i];
    Writer w;
    w.Int(1, i + 1);
    w.Int(2, mapping.start);
    w.Int(3, mapping.end);
    w.Int(4, mapping.offset);
    w.Int(5, strings.Of(mapping.file));
    out.Bytes(3, w.Take());
  }
  for (const auto& [address, id] : locations) {
    Writer w;
    w.Int(1, id);
    for (size_t i = 0; i < profile.mappings.size(); ++i) {
      const Mapping& mapping = profile.mappings[i];
      if (address >= mapping.start && address < mapping.end) w.Int(2, i + 1);
    }
    w.Int(3, address);
    out.Bytes(4, w.Take());
  }
  out.Int(9, static_cast<uint64_t>(profile.started.count()));
  out.Int(10, static_cast<uint64_t>(profile.duration.count()));
  out.Bytes(11, type_of(profile.period_type));
  out.Int(12, static_cast<uint64_t>(profile.period));
  out.Int(14, strings.Of(profile.shown));
  for (const std::string& text : strings.list()) out.Bytes(6, text);
  return out.Take();
}

}  // namespace qanat::ztunnel::profile
