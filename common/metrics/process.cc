// SPDX-License-Identifier: Apache-2.0
// What every Prometheus client tells of its own process, read from /proc at each scrape.
#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <memory>

#include "common/metrics/registry.h"

namespace qanat::metrics {
namespace {

double OpenFds() {
  std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir("/proc/self/fd"), closedir);
  if (!dir) return 0;
  double n = 0;
  while (readdir(dir.get()) != nullptr) ++n;
  return n - 3;  // ".", ".." and the directory itself
}

double MaxFds() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<double>(limit.rlim_cur);
}

double ResidentBytes() {
  std::unique_ptr<FILE, int (*)(FILE*)> file(fopen("/proc/self/statm", "re"), fclose);
  long size = 0;
  long resident = 0;
  if (!file || fscanf(file.get(), "%ld %ld", &size, &resident) != 2) return 0;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double CpuSeconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

}  // namespace

void Registry::AddProcessMetrics() {
  auto one = [](double (*read)()) { return [read] { return std::vector<Sample>{{{}, read()}}; }; };
  AddCallback(Kind::kGauge, "process_open_fds", "Open file descriptors", one(OpenFds));
  AddCallback(Kind::kGauge, "process_max_fds", "Limit of open file descriptors", one(MaxFds));
  AddCallback(Kind::kGauge, "process_resident_memory_bytes", "Resident memory", one(ResidentBytes));
  AddCallback(Kind::kCounter, "process_cpu_seconds", "User and system time", one(CpuSeconds));
  const double start = static_cast<double>(time(nullptr));
  AddCallback(Kind::kGauge, "process_start_time_seconds", "Start of the process, unix time",
              [start] { return std::vector<Sample>{{{}, start}}; });
}

}  // namespace qanat::metrics
