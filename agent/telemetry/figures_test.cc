// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/figures.h"

#include <gtest/gtest.h>
#include <netinet/tcp.h>

#include <cerrno>

namespace qanat::agent::telemetry {
namespace {

qanat_record Record(uint8_t last_state, uint16_t error = 0, bool server = false) {
  qanat_record record{};
  record.flags = QANAT_RECORD_ESTABLISHED | QANAT_RECORD_DETAILS;
  if (server) record.flags |= QANAT_RECORD_SERVER;
  record.last_state = last_state;
  record.error = error;
  record.min_rtt_us = ~uint32_t{0};
  return record;
}

TEST(Ending, IsTheSameAtBothEnds) {
  struct Case {
    Ending ending;
    uint8_t client_state;
    uint16_t client_error;
    uint8_t server_state;
    uint16_t server_error;
  };
  for (const Case& c :
       {Case{Ending::kClient, TCP_FIN_WAIT2, 0, TCP_LAST_ACK, 0},
        Case{Ending::kServer, TCP_LAST_ACK, 0, TCP_FIN_WAIT2, 0},
        Case{Ending::kResetByServer, TCP_ESTABLISHED, ECONNRESET, TCP_ESTABLISHED, 0},
        Case{Ending::kResetByClient, TCP_ESTABLISHED, 0, TCP_ESTABLISHED, ECONNRESET},
        Case{Ending::kResetByClient, TCP_CLOSE_WAIT, 0, TCP_LAST_ACK, EPIPE},
        Case{Ending::kTimeout, TCP_ESTABLISHED, ETIMEDOUT, TCP_ESTABLISHED, ETIMEDOUT}}) {
    EXPECT_EQ(ToString(EndingOf(Record(c.client_state, c.client_error))), ToString(c.ending));
    EXPECT_EQ(ToString(EndingOf(Record(c.server_state, c.server_error, true))), ToString(c.ending));
  }
}

TEST(Ending, OfWhatWasNeverEstablished) {
  qanat_record record = Record(TCP_SYN_SENT, ECONNREFUSED);
  record.flags = 0;
  EXPECT_EQ(EndingOf(record), Ending::kRefused);
  record.error = EHOSTUNREACH;
  EXPECT_EQ(EndingOf(record), Ending::kTimeout);
  record.error = 0;
  EXPECT_EQ(EndingOf(record), Ending::kGivenUp);
}

TEST(Figures, UnitsAreOurs) {
  qanat_record record = Record(TCP_LAST_ACK, 0, true);
  record.start_ns = 1'000'000'000;
  record.end_ns = 3'000'000'000;
  record.srtt_us = 77;
  record.rate_delivered = 10;
  record.rate_interval_us = 1000;
  record.mss = 1448;
  record.busy = 5;
  record.rwnd_limited = 2;
  record.response = 30;
  record.segments_out = 200;
  record.retransmits = 3;
  const Figures f = FiguresOf(record, 4000);
  EXPECT_EQ(f.duration_us, 2'000'000u);
  EXPECT_EQ(f.srtt_us, 77u);
  EXPECT_EQ(f.min_rtt_us, 0u) << "never measured";
  EXPECT_EQ(f.rate, 14'480'000u);
  EXPECT_EQ(f.busy_us, 20'000u);
  EXPECT_EQ(f.window_us, 8'000u);
  EXPECT_EQ(f.window_permille, 4u);
  EXPECT_EQ(f.response_us, 100'000u) << "what the network took is not the program's";
  EXPECT_EQ(f.retransmits_permille, 15u);
}

TEST(Figures, OfNothingAreNothing) {
  const Figures f = FiguresOf(qanat_record{}, 4000);
  EXPECT_EQ(f.rate + f.response_us + f.retransmits_permille + f.window_permille + f.duration_us,
            0u);
}

TEST(Figures, TheTickIsThisKernels) {
  const uint64_t tick = TickMicroseconds();
  EXPECT_GE(tick, 1000u);
  EXPECT_LE(tick, 10000u);
}

}  // namespace
}  // namespace qanat::agent::telemetry
