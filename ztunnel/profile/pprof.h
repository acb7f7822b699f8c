// SPDX-License-Identifier: Apache-2.0
// Samples of call stacks as a profile.proto of pprof (github.com/google/pprof), uncompressed, which
// its readers take as well. Addresses are given with the files they were mapped from; names come
// from the program's own file when the profile is looked at: go tool pprof qanat-ztunnel FILE.
// Pure.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace qanat::ztunnel::profile {

struct Mapping {
  uint64_t start = 0, end = 0, offset = 0;
  std::string file;
};
// The executable ones of /proc/self/maps' text.
std::vector<Mapping> ParseMappings(const std::string& maps);
// This process's; not pure.
std::vector<Mapping> OwnMappings();

struct Profile {
  struct Type {
    std::string kind, unit;  // "cpu" in "nanoseconds"
  };
  std::vector<Type> types;  // of a stack's values
  std::string shown;        // the kind that readers show at first; "": the last
  Type period_type;         // between two samples
  int64_t period = 0;
  std::chrono::nanoseconds started{0}, duration{0};
  // Stack (innermost first) -> a value of each type.
  std::map<std::vector<uint64_t>, std::vector<int64_t>> stacks;
  std::vector<Mapping> mappings;
};
std::string EncodeProfile(const Profile& profile);

}  // namespace qanat::ztunnel::profile
