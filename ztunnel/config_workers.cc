// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/config_workers.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace qanat::ztunnel {
namespace {

// A Kubernetes quantity of CPU ("2", "1500m", "0.5") in whole cores, rounded up.
std::optional<unsigned> ReadCores(EnvironmentReader& reader, const char* name) {
  const char* value = reader.Value(name);
  if (value == nullptr) return std::nullopt;
  std::string_view text = value;
  const bool milli = text.ends_with('m');
  if (milli) text.remove_suffix(1);
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || !(number >= 0) || number > 1e6) {
    reader.Bad(name, "CPUs as 2, 1.5 or 500m");
    return std::nullopt;
  }
  const double whole = std::ceil(milli ? number / 1000 : number);
  if (whole == 0) return std::nullopt;  // "0" is Kubernetes' way to say no limit
  return static_cast<unsigned>(whole);
}

}  // namespace

unsigned ReadWorkers(EnvironmentReader& reader, unsigned cores,
                     std::optional<uint16_t> concurrency) {
  cores = std::max(1u, cores);
  const auto limit = ReadCores(reader, "ZTUNNEL_RESOURCE_CPU_LIMIT");
  const auto request = ReadCores(reader, "ZTUNNEL_RESOURCE_CPU_REQUEST");
  // What a percentage, and 0, are of: the limit where the chart passes one, else the machine.
  cores = ReadCores(reader, "ZTUNNEL_CPU_LIMIT").value_or(cores);
  const unsigned least = request.value_or(1);
  const unsigned automatic =
      limit ? std::max(*limit, least) : std::max({2u, least, (cores + 3) / 4});

  unsigned n = automatic;
  const char* value = reader.Value("ZTUNNEL_WORKER_THREADS");
  if (value == nullptr) {
    if (concurrency) n = *concurrency == 0 ? cores : *concurrency;
  } else if (std::string_view(value) != "auto") {
    std::string_view text = value;
    const bool percent = text.ends_with('%');
    if (percent) text.remove_suffix(1);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
    if (error != std::errc() || end != text.data() + text.size() || n > 100000) {
      reader.Bad("ZTUNNEL_WORKER_THREADS", "a number, a percentage or auto");
      n = automatic;
    } else if (percent) {
      n = std::max(1u, (cores * n + 99) / 100);
    } else if (n == 0) {
      n = cores;
    }
  }
  return std::min(n, kMaxWorkers);
}

}  // namespace qanat::ztunnel
