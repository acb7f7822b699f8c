// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/figures.h"

#include <netinet/tcp.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

namespace qanat::agent::telemetry {

std::string_view ToString(Ending ending) {
  switch (ending) {
    case Ending::kClient: return "client";
    case Ending::kServer: return "server";
    case Ending::kResetByClient: return "reset_by_client";
    case Ending::kResetByServer: return "reset_by_server";
    case Ending::kRefused: return "refused";
    case Ending::kTimeout: return "timeout";
    case Ending::kGivenUp: return "given_up";
  }
  return "";
}

std::string_view ToString(Path path) {
  switch (path) {
    case Path::kProxied: return "proxied";
    case Path::kDirect: return "direct";
    case Path::kProbe: return "probe";
  }
  return "";
}

Path PathOf(const qanat_record& record) {
  if (record.path == QANAT_PATH_DIRECT) return Path::kDirect;
  return record.path == QANAT_PATH_PROBE ? Path::kProbe : Path::kProxied;
}

Ending EndingOf(const qanat_record& record) {
  const bool server = (record.flags & QANAT_RECORD_SERVER) != 0;
  switch (record.error) {
    case 0: break;
    case ECONNREFUSED: return Ending::kRefused;
    case ECONNRESET:
    case EPIPE: return server ? Ending::kResetByClient : Ending::kResetByServer;
    case ECONNABORTED: return server ? Ending::kResetByServer : Ending::kResetByClient;
    default: return Ending::kTimeout;
  }
  if (!(record.flags & QANAT_RECORD_ESTABLISHED)) return Ending::kGivenUp;
  switch (record.last_state) {
    case TCP_LAST_ACK: return server ? Ending::kClient : Ending::kServer;
    case TCP_FIN_WAIT1:
    case TCP_FIN_WAIT2:
    case TCP_CLOSING:
    case TCP_TIME_WAIT: return server ? Ending::kServer : Ending::kClient;
    default: return server ? Ending::kResetByServer : Ending::kResetByClient;
  }
}

Figures FiguresOf(const qanat_record& record, uint64_t tick_us) {
  Figures f;
  f.server = (record.flags & QANAT_RECORD_SERVER) != 0;
  f.established = (record.flags & QANAT_RECORD_ESTABLISHED) != 0;
  f.details = (record.flags & QANAT_RECORD_DETAILS) != 0;
  f.path = PathOf(record);
  f.ending = EndingOf(record);
  f.duration_us = record.end_ns > record.start_ns ? (record.end_ns - record.start_ns) / 1000 : 0;
  f.connect_us = record.connect_us;
  f.srtt_us = record.srtt_us;
  if (record.min_rtt_us != ~uint32_t{0}) f.min_rtt_us = record.min_rtt_us;
  if (record.rate_interval_us != 0)
    f.rate = uint64_t{record.rate_delivered} * record.mss * 1000000 / record.rate_interval_us;
  f.busy_us = record.busy * tick_us;
  f.window_us = record.rwnd_limited * tick_us;
  f.buffer_us = record.sndbuf_limited * tick_us;
  const uint64_t response = record.response * tick_us;
  f.response_us = response > f.busy_us ? response - f.busy_us : 0;
  if (record.segments_out != 0)
    f.retransmits_permille =
        std::min<uint64_t>(1000, uint64_t{record.retransmits} * 1000 / record.segments_out);
  if (f.duration_us != 0)
    f.window_permille = std::min<uint64_t>(1000, f.window_us * 1000 / f.duration_us);
  return f;
}

uint64_t TickMicroseconds() {
  timespec length{};
  if (::clock_getres(CLOCK_MONOTONIC_COARSE, &length) != 0 || length.tv_nsec < 1000) return 4000;
  return static_cast<uint64_t>(length.tv_nsec) / 1000;
}

}  // namespace qanat::agent::telemetry
