// SPDX-License-Identifier: Apache-2.0
// What the worker tells of its connections: counters, the access log, and the list for who asks.
#include "common/base/log.h"
#include "ztunnel/proxy/pod_entry.h"
#include "ztunnel/proxy/worker.h"

namespace qanat::ztunnel {

using model::Reason;

void Worker::ForgetSeries() {
  series_.ForgetRemoved();
  metrics_.ForgetRemoved();
  for (auto& [uid, entry] : pods_) {
    if (entry->dns) entry->dns->ForgetSeries();
  }
}

void Worker::CountRefused(Reporter reporter, Reason reason) {
  const char* who = reporter == Reporter::kSource ? "source" : "destination";
  metrics_.refused.With({who, std::string(ToString(reason))})->Add();
  if (reason == Reason::kCertificateRevoked) {
    metrics_.crl_rejections.With({who})->Add();
  }
}

void Worker::CountUntracked(Reporter reporter) {
  metrics_.crl_untracked.With({reporter == Reporter::kSource ? "source" : "destination"})->Add();
}

void Worker::CountTunnelError(Reason reason) {
  metrics_.tunnel_errors.With({std::string(ToString(reason))})->Add();
}

void Worker::LogFlow(const Flow& flow, const FlowEnd& end) {
  const Series& series = series_.For(flow, end.reason);
  if (end.reason != Reason::kNone) {
    CountRefused(flow.reporter, end.reason);
    // A reset by an application has no flag; and what goes on over another tunnel did not fail.
    if (series.failed && end.reason != Reason::kSourceUnproven) series.failed->Add();
  }
  if (end.opened) series.closed->Add();
  if (!log::Enabled("access", LevelOf(end))) return;
  log_.Write(AccessLine(flow, end, log::CurrentFormat(), log::Timestamp()));
}

void Worker::LogOpened(const Flow& flow) {
  if (!log::Enabled("access", log::Level::kDebug)) return;
  log_.Write(OpenedLine(flow, log::CurrentFormat(), log::Timestamp()));
}

size_t Worker::user_connections() const {
  size_t count = 0;
  for (const auto& [pointer, owned] : connections_) count += pointer->IsUserConnection() ? 1 : 0;
  return count;
}

std::vector<ConnectionInfo> Worker::Describe() const {
  std::vector<ConnectionInfo> out;
  for (const auto& [pointer, owned] : connections_) {
    if (auto info = pointer->Describe()) out.push_back(std::move(*info));
  }
  return out;
}

}  // namespace qanat::ztunnel
