// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/direct_log.h"

#include "bpf/user/node_maps.h"
#include "common/base/log.h"
#include "common/model/reason.h"

namespace qanat::agent::telemetry {

using model::Reason;
using qanat::telemetry::Flow;
using qanat::telemetry::FlowEnd;
using qanat::telemetry::Reporter;

Flow FlowOf(const qanat_record& record, const Ends& ends) {
  Flow flow;
  flow.reporter = (record.flags & QANAT_RECORD_SERVER) ? Reporter::kDestination : Reporter::kSource;
  flow.source = {bpf::FromKernel(record.tuple.src), record.tuple.sport};
  flow.destination = {bpf::FromKernel(record.tuple.dst), record.tuple.dport};
  flow.target = flow.destination;
  flow.source_workload = ends.source;
  flow.destination_workload = ends.destination;
  flow.service = ends.service;
  flow.source_identity = ends.source_identity;
  flow.destination_identity = ends.destination_identity;
  return flow;
}

FlowEnd FlowEndOf(const qanat_record& record, const Figures& figures) {
  FlowEnd end;
  end.opened = figures.established;
  end.bytes_up = figures.server ? record.bytes_received : record.bytes_sent;
  end.bytes_down = figures.server ? record.bytes_sent : record.bytes_received;
  end.duration = std::chrono::milliseconds(figures.duration_us / 1000);
  switch (figures.ending) {
    case Ending::kClient:
    case Ending::kServer: break;
    case Ending::kRefused:
      end.reason = Reason::kConnectFailed;
      end.error = "connection refused";
      break;
    case Ending::kTimeout:
      end.reason = figures.established ? Reason::kReset : Reason::kConnectTimeout;
      end.error = figures.established ? "the other end does not answer any more" : "";
      break;
    case Ending::kGivenUp:
      end.reason = Reason::kReset;
      end.error = "given up by the client before it was answered";
      break;
    case Ending::kResetByClient:
      end.reason = Reason::kReset;
      end.error = "reset by the client";
      break;
    case Ending::kResetByServer:
      end.reason = Reason::kReset;
      end.error = "reset by the server";
      break;
  }
  return end;
}

void DirectLog::Tell(const qanat_record& record, const Figures& figures, const Ends& ends) {
  Flow flow = FlowOf(record, ends);
  const FlowEnd end = FlowEndOf(record, figures);
  Report(flow, end);
  if (figures.server || figures.established) return;
  flow.reporter = Reporter::kDestination;  // no socket of its own will tell
  Report(flow, end);
}

void DirectLog::Report(const Flow& flow, const FlowEnd& end) {
  const metrics::LabelValues plain = FlowLabels(flow, Reason::kNone);
  if (end.opened) {
    metrics_.opened.With(plain)->Add();
    metrics_.sent.With(plain)->Add(end.bytes_down);
    metrics_.received.With(plain)->Add(end.bytes_up);
  }
  const bool flagged = ResponseFlag(end.reason) != ResponseFlag(Reason::kNone);
  const metrics::LabelValues labels = flagged ? FlowLabels(flow, end.reason) : plain;
  if (flagged) metrics_.failed.With(labels)->Add();
  if (end.opened) metrics_.closed.With(labels)->Add();
  if (log::Enabled("access", LevelOf(end)))
    log::WriteRaw(AccessLine(flow, end, log::CurrentFormat(), log::Timestamp()));
}

}  // namespace qanat::agent::telemetry
