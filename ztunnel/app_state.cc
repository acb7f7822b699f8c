// SPDX-License-Identifier: Apache-2.0
// App's part that keeps the last good mesh state: loading it at the start, saying how old it is,
// and what follows from that. Main thread.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>

#include "common/base/log.h"
#include "ztunnel/app.h"

namespace qanat::ztunnel {
namespace {

using state::Freshness;
using std::chrono::seconds;

constexpr auto kLookInterval = seconds(60);
// A clock that was set back by more says nothing about ages.
constexpr auto kClockSlack = std::chrono::minutes(5);

}  // namespace

std::string TimeText(std::chrono::system_clock::time_point time) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     fmt::gmtime(std::chrono::system_clock::to_time_t(time)));
}

void App::AddStateMetrics() {
  const auto add = [this](metrics::Kind kind, const char* name, const char* help,
                          std::function<double()> value) {
    registry_.AddCallback(kind, name, help, [value = std::move(value)] {
      return std::vector<metrics::Sample>{{{}, value()}};
    });
  };
  add(metrics::Kind::kGauge, "qanat_saved_state_age_seconds",
      "How old the saved mesh state in force is; 0 once the control plane has confirmed it",
      [this] { return static_cast<double>(StateAge().count()); });
  add(metrics::Kind::kGauge, "qanat_saved_state_expired",
      "1 while the mesh state in force is older than QANAT_MAX_STALE",
      [this] { return snapshot_->freshness() == Freshness::kExpired ? 1.0 : 0.0; });
  add(metrics::Kind::kCounter, "qanat_xds_on_demand_questions",
      "Names that the control plane was asked for, since XDS_ON_DEMAND is on",
      [this] { return on_demand_ ? static_cast<double>(on_demand_->questions()) : 0.0; });
  add(metrics::Kind::kGauge, "qanat_xds_on_demand_absent", "Names of them that nobody has",
      [this] { return on_demand_ ? static_cast<double>(on_demand_->absent()) : 0.0; });
  add(metrics::Kind::kCounter, "qanat_saved_state_errors",
      "Saved states that could not be used, and changes that could not be saved",
      [this] { return saved_ ? static_cast<double>(saved_->errors()) : 0.0; });
}

seconds App::StateAge() const {
  if (snapshot_->freshness() == Freshness::kLive) return seconds(0);
  return std::chrono::duration_cast<seconds>(std::chrono::system_clock::now() -
                                             snapshot_->current_at());
}

bool App::LoadSaved() {
  const Config& config = environment_.config;
  if (config.state_dir.empty() || config.control_plane.xds_address.empty()) return false;
  saved_ = std::make_unique<SavedState>(config.state_dir);
  look_at_saved_.Start(kLookInterval);
  auto loaded = saved_->Load(mesh_state_);
  if (!loaded) {
    if (loaded.error().code == Code::kNotFound) {
      LOG_INFO("state", "{}; it will be kept from now on", loaded.error().message);
    } else {
      LOG_ERROR("state", "{}; waiting for the control plane, no pod is served before",
                loaded.error().message);
    }
    return false;
  }
  held_addresses_ = std::move(loaded->addresses);
  held_policies_ = std::move(loaded->policies);
  mesh_state_.SetFreshness(Freshness::kSaved, loaded->current_at);
  Publish(loaded->names);
  LOG_WARN("state",
           "the mesh state of {} is in force until the control plane answers: {} workloads, {} "
           "services. Keys are not saved: what needs a certificate waits for the CA",
           TimeText(loaded->current_at), snapshot_->workload_count(), snapshot_->service_count());
  LookAtSaved();
  return true;
}

void App::LookAtSaved() {
  look_at_saved_.Start(kLookInterval);
  if (snapshot_->freshness() == Freshness::kLive) {
    if (xds_ && xds_->connected() && xds_->synced()) saved_->Confirm();
    return;
  }
  if (snapshot_->freshness() == Freshness::kExpired) return;
  const seconds age = StateAge();
  const seconds left = environment_.config.max_stale - age;
  if (left > seconds(0) && age >= -kClockSlack) {
    look_at_saved_.Start(std::min<seconds>(kLookInterval, left));
    return;
  }
  LOG_ERROR("state",
            "the mesh state of {} is older than {} s (QANAT_MAX_STALE): workloads with a DENY "
            "policy refuse everything until the control plane answers",
            TimeText(snapshot_->current_at()), environment_.config.max_stale.count());
  SetFreshness(Freshness::kExpired);
}

void App::SetFreshness(Freshness freshness) {
  mesh_state_.SetFreshness(freshness, freshness == Freshness::kLive
                                          ? decltype(snapshot_->current_at()){}
                                          : snapshot_->current_at());
  Publish({});
  UpdateReadiness();
}

void App::OnSynced() {
  if (snapshot_->freshness() != Freshness::kLive) {
    LOG_INFO("state", "the control plane is back; the saved state was {} s old",
             StateAge().count());
    SetFreshness(Freshness::kLive);
  }
  if (saved_) saved_->Complete();
  StartPods();
}

}  // namespace qanat::ztunnel
