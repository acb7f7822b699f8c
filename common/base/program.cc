// SPDX-License-Identifier: Apache-2.0
#include "common/base/program.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstring>

namespace qanat {

std::string_view Version() { return QANAT_VERSION; }

void RaiseFileLimit(rlim_t wanted) {
  const rlimit hard{wanted, wanted};
  if (wanted != 0 && setrlimit(RLIMIT_NOFILE, &hard) == 0) return;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

DescriptorBounds BoundDescriptors() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > INT_MAX) return {};
  const int all = static_cast<int>(limit.rlim_cur);
  const int kept = std::min(std::clamp(all / 16, 64, 4096), all / 2);
  return {all - kept, all - kept / 2};
}

std::optional<int> HandleArguments(int argc, char** argv, std::string_view program,
                                   std::string_view usage,
                                   std::initializer_list<std::string_view> ignored) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--version" || argument == "version") {
      fmt::print("{} {}\n", program, QANAT_VERSION);
      return 0;
    }
    if (argument == "--help" || argument == "-h" || argument == "help") {
      fmt::print("{}", usage);
      return 0;
    }
    if (std::find(ignored.begin(), ignored.end(), argument) == ignored.end()) {
      fmt::print(stderr, "{}: unknown argument \"{}\"\n{}", program, argument, usage);
      return 2;
    }
  }
  return std::nullopt;
}

void Wipe(std::string& secret) {
  secret.resize(secret.capacity());  // what an earlier, longer text left behind it
  explicit_bzero(secret.data(), secret.size());
  secret.clear();
}

std::vector<std::string> EnvironmentEntries() {
  std::vector<std::string> entries;
  for (char** entry = environ; *entry != nullptr; ++entry) entries.emplace_back(*entry);
  return entries;
}

}  // namespace qanat
