// SPDX-License-Identifier: Apache-2.0
// A kernel record of a closed connection, read. Pure.
#pragma once

#include <cstdint>
#include <string_view>

#include "bpf/include/abi.h"

namespace qanat::agent::telemetry {

// How a connection ended; whose doing it was.
enum class Ending : uint8_t {
  kClient,         // the client closed first, in order
  kServer,         // the server did
  kResetByClient,  //
  kResetByServer,  //
  kRefused,        // never established: the other end said no
  kTimeout,        // no answer, or none any more; unreachable
  kGivenUp,        // its owner closed it before it was established
};
inline constexpr int kEndings = 7;
std::string_view ToString(Ending ending);
Ending EndingOf(const qanat_record& record);

enum class Path : uint8_t { kProxied, kDirect, kProbe };
std::string_view ToString(Path path);
Path PathOf(const qanat_record& record);

struct Figures {
  bool server = false;
  bool established = false;
  bool details = false;  // the kernel told the last four
  Path path = Path::kProxied;
  Ending ending = Ending::kClient;
  uint64_t duration_us = 0;
  uint64_t connect_us = 0;
  uint64_t srtt_us = 0, min_rtt_us = 0;  // 0: never measured
  uint64_t rate = 0;                     // bytes a second, as last measured
  // From the last byte that came in to the last one sent, without the time in which something was
  // on its way: what a server's program took.
  uint64_t response_us = 0;
  uint64_t busy_us = 0, window_us = 0, buffer_us = 0;
  uint64_t retransmits_permille = 0, window_permille = 0;
};
// `tick_us`: how long one of the kernel's ticks is.
Figures FiguresOf(const qanat_record& record, uint64_t tick_us);
uint64_t TickMicroseconds();

}  // namespace qanat::agent::telemetry
