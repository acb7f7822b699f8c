// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/leader_election.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>
#include <vector>

#include "common/base/log.h"
#include "controlplane/kube/kinds.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;

constexpr std::chrono::milliseconds kReleaseTimeout{1000};

// metav1.MicroTime.
std::string MicroTime() {
  const auto now =
      std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
  const auto micros = now.time_since_epoch().count() % 1'000'000;
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:06}Z",
                     fmt::gmtime(std::chrono::system_clock::to_time_t(now)), micros);
}

std::string Text(const json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || !it->is_string() ? std::string() : it->get<std::string>();
}

int64_t Number(const json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || !it->is_number_integer() ? 0 : it->get<int64_t>();
}

// Replicas that were started together do not ask together.
std::chrono::milliseconds Jitter(std::chrono::milliseconds base) {
  static thread_local std::minstd_rand random{std::random_device{}()};
  return base + std::chrono::milliseconds(
                    std::uniform_int_distribution<int64_t>(0, base.count() / 5)(random));
}

// Where the holder says its version.
constexpr char kVersion[] = "qanat.io/version";

// The numbers before a suffix; empty for what is no version.
std::vector<int> Numbers(std::string_view text) {
  if (text.starts_with('v')) text.remove_prefix(1);
  std::vector<int> out;
  while (!text.empty()) {
    int number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc()) return {};
    out.push_back(number);
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    if (!text.starts_with('.')) break;
    text.remove_prefix(1);
  }
  return out;
}

}  // namespace

bool IsNewer(std::string_view a, std::string_view b) {
  const std::vector<int> left = Numbers(a);
  const std::vector<int> right = Numbers(b);
  return !left.empty() && !right.empty() && left > right;
}

LeaderElection::LeaderElection(event::EventLoop& loop, kube::Client& client, LeaseOptions options,
                               std::function<void(bool)> on_change)
    : client_(client),
      options_(std::move(options)),
      on_change_(std::move(on_change)),
      timer_(loop, [this] { Ask(); }),
      expiry_(loop, [this] { Expire(); }) {
  timer_.Start(std::chrono::milliseconds(0));
}

bool LeaderElection::leading() const {
  return leading_ && event::Clock::now() - renewed_at_ < options_.deadline;
}

// Nothing that was begun as the leader, a write that waits for a connection least of all, may reach
// the API server when another may lead: so at the deadline, not at the next try.
void LeaderElection::Expire() {
  if (!leading_) return;
  LOG_WARN("leader", "the lease {}/{} could not be renewed for {} s: no longer the leader",
           options_.ns, options_.name,
           std::chrono::duration_cast<std::chrono::seconds>(options_.deadline).count());
  SetLeading(false);
}

void LeaderElection::Ask() {
  if (released_) return;
  if (leading_ && event::Clock::now() - renewed_at_ >= options_.deadline) Expire();
  asked_at_ = event::Clock::now();
  if (leading_ && !version_.empty()) return Write(version_, acquired_, transitions_);
  kube::CallRequest request = kube::Get(Leases(), options_.ns, options_.name);
  request.timeout = options_.deadline / 2;
  call_ =
      client_.Call(std::move(request), [this](Result<kube::CallResponse> r) { Got(std::move(r)); });
}

void LeaderElection::Got(Result<kube::CallResponse> response) {
  if (!response) {
    if (response.error().code == Code::kNotFound) return Write("", "", -1);
    return Failed(response.error());
  }
  const json lease = json::parse(response->body, nullptr, false);
  const json empty = json::object();
  const auto part = [&](const char* key) -> const json& {
    return lease.is_object() && lease.contains(key) && lease[key].is_object() ? lease[key] : empty;
  };
  const json& spec = part("spec");
  const std::string holder = Text(spec, "holderIdentity");
  const json& metadata = part("metadata");
  const std::string version =
      metadata.contains("annotations") && metadata["annotations"].is_object()
          ? Text(metadata["annotations"], kVersion)
          : "";
  const std::string record =
      fmt::format("{} {} {}", holder, Text(spec, "renewTime"), Text(metadata, "resourceVersion"));
  // Clocks of replicas differ: what counts is how long we ourselves saw no change.
  if (record != observed_record_) {
    if (holder != observed_holder_ && holder != options_.identity && !holder.empty()) {
      LOG_INFO("leader", "{}{} leads", holder, version.empty() ? "" : " of version " + version);
    }
    if (version != observed_version_ && !version.empty() && version != options_.version) {
      LOG_WARN(
          "leader",
          "two versions of the control plane run, or did: the lease {}/{} is of {}, this is {}; "
          "{} (kubectl rollout status deployment/qanat-controlplane -n {}; qanatctl verify)",
          options_.ns, options_.name, version, options_.version,
          IsNewer(version, options_.version) ? "the newer one writes; finish or undo its rollout"
                                             : "this one writes when the other has ended",
          options_.ns);
    }
    observed_version_ = version;
    observed_record_ = record;
    observed_holder_ = holder;
    observed_at_ = event::Clock::now();
  }
  const bool mine = holder == options_.identity;
  if (!mine && leading_) {
    LOG_WARN("leader", "{} has taken the lease {}/{}: this replica no longer leads",
             holder.empty() ? "nobody" : holder, options_.ns, options_.name);
    SetLeading(false);
  }
  const auto valid =
      std::max(std::chrono::milliseconds(1000 * Number(spec, "leaseDurationSeconds")),
               std::chrono::milliseconds(1));
  if (!mine && event::Clock::now() - observed_at_ <
                   TakenAfter(holder.empty() ? std::chrono::milliseconds(0) : valid, version)) {
    return Again();
  }
  Write(Text(metadata, "resourceVersion"), mine ? Text(spec, "acquireTime") : "",
        Number(spec, "leaseTransitions"));
}

std::chrono::milliseconds LeaderElection::TakenAfter(std::chrono::milliseconds valid,
                                                     const std::string& version) const {
  // A newer replica that runs asks several times meanwhile. When none does (somebody went back to
  // our version), we lead all the same.
  return IsNewer(version, options_.version) ? valid + options_.duration : valid;
}

// The write that says who holds the lease. `version` "": it is made.
kube::CallRequest LeaderElection::LeaseRequest(const std::string& holder,
                                               std::chrono::milliseconds valid,
                                               const std::string& version) const {
  json lease = {
      {"apiVersion", "coordination.k8s.io/v1"},
      {"kind", "Lease"},
      {"metadata",
       {{"name", options_.name},
        {"namespace", options_.ns},
        {"labels", {{kPartOf, kPartOfQanat}}},
        {"annotations", {{kVersion, options_.version}}}}},
      {"spec",
       {{"holderIdentity", holder},
        {"leaseDurationSeconds",
         std::max<int64_t>(1, std::chrono::duration_cast<std::chrono::seconds>(valid).count())},
        {"acquireTime", acquired_},
        {"renewTime", MicroTime()},
        {"leaseTransitions", transitions_}}}};
  if (!version.empty()) lease["metadata"]["resourceVersion"] = version;
  kube::CallRequest request =
      version.empty() ? kube::Create(Leases(), options_.ns, lease.dump())
                      : kube::Replace(Leases(), options_.ns, options_.name, lease.dump());
  request.timeout = options_.deadline / 2;
  return request;
}

// `acquired` "": the lease changes hands.
void LeaderElection::Write(const std::string& version, std::string acquired, int64_t transitions) {
  transitions_ = acquired.empty() ? transitions + 1 : transitions;
  acquired_ = acquired.empty() ? MicroTime() : std::move(acquired);
  call_ = client_.Call(LeaseRequest(options_.identity, options_.duration, version),
                       [this, made = version.empty()](Result<kube::CallResponse> r) {
                         Written(std::move(r), made);
                       });
}

void LeaderElection::Written(Result<kube::CallResponse> response, bool made) {
  if (!response) {
    const Code code = response.error().code;
    // A lease that cannot even be made for want of a place: its namespace is missing.
    const bool no_place = code == Code::kNotFound && made;
    if (no_place || (code != Code::kFailedPrecondition && code != Code::kAlreadyExists &&
                     code != Code::kNotFound)) {
      return Failed(response.error());
    }
    // Somebody else has written it, or removed it: look who leads.
    version_.clear();
    return leading_ ? timer_.Start(std::chrono::milliseconds(0)) : Again();
  }
  const json lease = json::parse(response->body, nullptr, false);
  version_ = lease.is_object() && lease.contains("metadata") && lease["metadata"].is_object()
                 ? Text(lease["metadata"], "resourceVersion")
                 : "";
  renewed_at_ = asked_at_;
  observed_holder_ = options_.identity;
  last_error_.clear();
  expiry_.Start(std::max<event::Duration>(renewed_at_ + options_.deadline - event::Clock::now(),
                                          event::Duration::zero()));
  SetLeading(true);
  Again();
}

void LeaderElection::Failed(const Error& error) {
  if (error.message != last_error_) {
    LOG_WARN("leader", "lease {}/{}: {}{}", options_.ns, options_.name, error.message,
             leading_ ? ""
                      : "; without it nothing is written (statuses, waypoints, root "
                        "certificates), proxies are served all the same");
  }
  last_error_ = error.message;
  Again();
}

void LeaderElection::Again() { timer_.Start(Jitter(options_.retry)); }

void LeaderElection::SetLeading(bool leading) {
  if (std::exchange(leading_, leading) == leading) return;
  if (leading) LOG_INFO("leader", "this replica ({}) leads", options_.identity);
  on_change_(leading);
}

void LeaderElection::Release(std::function<void()> done) {
  timer_.Stop();
  expiry_.Stop();
  call_.reset();
  const bool held = leading() && !version_.empty();
  released_ = true;
  SetLeading(false);
  if (!held) return done();
  kube::CallRequest request = LeaseRequest("", std::chrono::seconds(1), version_);
  request.timeout = kReleaseTimeout;
  call_ = client_.Call(std::move(request),
                       [done = std::move(done)](const Result<kube::CallResponse>&) { done(); });
}

}  // namespace qanat::controlplane
