// SPDX-License-Identifier: Apache-2.0
#include "agent/publish/publisher.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "common/base/log.h"

namespace qanat::agent {
namespace {

using Json = nlohmann::json;

constexpr const char* kAnnotation = "ambient.istio.io/redirection";
constexpr size_t kMaxMessage = 1000;  // the API refuses longer ones from 1024 on

const kube::Resource kPods{"", "v1", "pods", "Pod", true};
const kube::Resource kEvents{"", "v1", "events", "Event", true};

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string RedirectionPatch(const std::string& uid, const std::string& value) {
  // With the uid: a pod of the same name that was made meanwhile is not meant.
  return Dump({{"metadata",
                {{"uid", uid},
                 {"annotations", {{kAnnotation, value.empty() ? Json(nullptr) : Json(value)}}}}}});
}

PodEvent EventOf(const PodView& pod) {
  if (pod.cut_off) return {"Warning", "QanatRefused", pod.reason};
  if (pod.uncapturable) return {"Warning", "QanatCannotCapture", pod.reason};
  if (pod.redirection == "enabled") {
    std::string said = "captured and proven";
    for (const std::string& note : pod.notes) said += "; " + note;
    return {"Normal", "QanatEnrolled", std::move(said)};
  }
  if (pod.redirection != "pending" || pod.reason.empty()) return {};
  if (pod.netns.empty() && !pod.refused) return {};
  if (pod.blocked)
    return {"Warning", "QanatRefused", "not in the mesh, left as it was: " + pod.reason};
  return {"Warning", "QanatPending", "not in the mesh yet: " + pod.reason};
}

PodEvent UncapturedOf(const PodView& pod, const std::set<std::string>& told) {
  if (pod.redirection != "enabled") return {};
  std::string kinds;
  for (const std::string& kind : pod.outside)
    if (!told.contains(kind)) kinds += (kinds.empty() ? "" : ", ") + kind;
  if (kinds.empty()) return {};
  return {"Normal", "QanatUncaptured",
          "not everything of this pod goes through the mesh: " + kinds +
              " (amounts: qanatctl capture)"};
}

std::string EventBody(const PodView& pod, const PodEvent& event, const std::string& node,
                      const std::string& timestamp, const std::string& name) {
  return Dump({{"apiVersion", "v1"},
               {"kind", "Event"},
               {"metadata", {{"name", name}, {"namespace", pod.ns}}},
               {"involvedObject",
                {{"apiVersion", "v1"},
                 {"kind", "Pod"},
                 {"namespace", pod.ns},
                 {"name", pod.name},
                 {"uid", pod.uid}}},
               {"type", event.type},
               {"reason", event.reason},
               {"message", event.message.substr(0, kMaxMessage)},
               {"source", {{"component", "qanat-agent"}, {"host", node}}},
               {"reportingComponent", "qanat-agent"},
               {"reportingInstance", node},
               {"firstTimestamp", timestamp},
               {"lastTimestamp", timestamp},
               {"count", 1}});
}

struct Publisher::Told {
  PodView view;
  std::string shown;            // the annotation, as far as we know
  std::string last_patch;       // last value written
  event::TimePoint patch_at{};  // not before
  event::TimePoint patched{};
  bool patched_once = false;
  kube::HandlePtr call;
  PodEvent told;                     // last Event
  std::set<std::string> uncaptured;  // kinds of traffic that were told
  event::TimePoint since{};          // of the present state
  kube::HandlePtr event_call;

  std::string Wanted() const {
    if (view.redirection == "disabled") return "";
    // Nothing to be said of a pod without a sandbox: its runtime has not come to it yet. That of a
    // refused one is not looked for.
    if (view.redirection == "pending" && view.netns.empty() && !view.refused) return "";
    // Another mesh may have written what is there, and serve the pod.
    if (view.blocked && !view.enforced && !shown.empty()) return shown;
    return view.redirection;
  }
};

Publisher::Publisher(event::EventLoop& loop, kube::Client& client, PublisherOptions options)
    : loop_(loop),
      client_(client),
      options_(std::move(options)),
      event_tokens_(options_.events_burst),
      tokens_at_(loop.now()),
      pump_(loop, [this] { Pump(); }),
      flush_(loop, [this] {
        if (auto done = std::exchange(flushed_, nullptr)) done();
      }) {}

Publisher::~Publisher() = default;

void Publisher::OnPod(const PodView& view) {
  if (view.redirection.empty()) {  // gone: there is nothing left to write on
    if (auto it = pods_.find(view.uid); it != pods_.end()) {
      if (it->second->call) --running_;
      pods_.erase(it);
    }
    PumpSoon({});
    return;
  }
  auto& slot = pods_[view.uid];
  const bool fresh = !slot;
  if (fresh) slot = std::make_unique<Told>();
  Told& told = *slot;
  const bool changed = fresh || told.view.redirection != view.redirection ||
                       told.view.reason != view.reason || told.view.blocked != view.blocked;
  if (changed) told.since = loop_.now();
  told.view = view;
  if (!told.call) told.shown = view.published;
  // What an earlier agent told needs not be told again.
  if (fresh && view.redirection == "enabled" && view.published == "enabled") {
    told.told = EventOf(view);
    told.uncaptured.insert(view.outside.begin(), view.outside.end());
  }
  PumpSoon({});
}

void Publisher::PumpSoon(event::Duration delay) { pump_.Start(delay); }

void Publisher::Pump() {
  const auto now = loop_.now();
  event::Duration next = std::chrono::hours(1);
  bool more = false;
  auto wait = [&](event::TimePoint until) {
    more = true;
    next = std::min(next, std::max<event::Duration>(until - now, std::chrono::milliseconds(10)));
  };
  for (auto& [uid, told] : pods_) {
    const std::string wanted = told->Wanted();
    if (!told->call && wanted != told->shown) {
      event::TimePoint at = told->patch_at;
      if (wanted == "pending" && told->shown.empty())
        at = std::max<event::TimePoint>(at, told->since + options_.settle);
      if (told->patched_once && told->last_patch == wanted)
        at = std::max<event::TimePoint>(at, told->patched + options_.repeat);
      if (now < at || running_ >= options_.in_flight)
        wait(std::max<event::TimePoint>(at, now));
      else
        Patch(uid, *told);
    }
    const PodEvent event = EventOf(told->view);
    if (told->event_call) continue;
    if (event.reason.empty() ||
        (event.reason == told->told.reason && event.message == told->told.message)) {
      // Each kind once in a pod's life with this agent.
      const PodEvent uncaptured = UncapturedOf(told->view, told->uncaptured);
      if (uncaptured.reason.empty()) continue;
      told->uncaptured.insert(told->view.outside.begin(), told->view.outside.end());
      Announce(uid, *told, uncaptured);
      continue;
    }
    const auto at = event.type == "Normal" ? now : told->since + options_.event_after;
    if (now < at) {
      wait(at);
    } else {
      told->told = event;  // one attempt: an Event is a courtesy
      Announce(uid, *told, event);
    }
  }
  if (more) PumpSoon(next);
  if (flushed_ && Settled()) flush_.Start({});
}

void Publisher::Patch(const std::string& uid, Told& told) {
  const std::string value = told.Wanted();
  kube::CallRequest request =
      kube::MergePatch(kPods, told.view.ns, told.view.name, RedirectionPatch(uid, value), "status");
  request.timeout = std::chrono::seconds(10);
  told.last_patch = value;
  told.patched = loop_.now();
  told.patched_once = true;
  ++running_;
  told.call = client_.Call(std::move(request), [this, uid, value](Result<kube::CallResponse> done) {
    auto it = pods_.find(uid);
    if (it == pods_.end()) return;
    Told& t = *it->second;
    t.call.reset();
    --running_;
    if (done) {
      ++stats_.patches;
      t.shown = value;
      problem_.clear();
    } else if (done.error().code == Code::kNotFound ||
               done.error().code == Code::kFailedPrecondition) {
      t.shown = value;  // the pod is gone, or another one has its name: the source will say
    } else {
      ++stats_.patch_errors;
      if (problem_ != done.error().message)
        LOG_WARN("publish", "{}/{}: its redirection is not published: {}", t.view.ns, t.view.name,
                 done.error().message);
      problem_ = done.error().message;
      t.patch_at = loop_.now() + options_.retry;
      t.patched_once = false;
    }
    PumpSoon({});
  });
}

bool Publisher::TakeEventToken() {
  const auto now = loop_.now();
  const double earned = std::chrono::duration<double>(now - tokens_at_) /
                        std::chrono::duration<double>(options_.event_every);
  tokens_at_ = now;
  event_tokens_ = std::min<double>(event_tokens_ + earned, options_.events_burst);
  if (event_tokens_ < 1) return false;
  event_tokens_ -= 1;
  return true;
}

void Publisher::Announce(const std::string& uid, Told& told, const PodEvent& event) {
  if (!TakeEventToken()) {
    ++stats_.events_dropped;
    return;
  }
  const auto nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(
                               std::chrono::system_clock::now().time_since_epoch())
                               .count();
  const std::string name = fmt::format("{}.{:x}", told.view.name.substr(0, 200), nanoseconds);
  const std::string timestamp = log::Timestamp().substr(0, 19) + "Z";
  kube::CallRequest request = kube::Create(
      kEvents, told.view.ns, EventBody(told.view, event, options_.node_name, timestamp, name));
  request.timeout = std::chrono::seconds(10);
  told.event_call = client_.Call(std::move(request), [this, uid](Result<kube::CallResponse> done) {
    if (done)
      ++stats_.events;
    else if (++stats_.event_errors == 1)
      LOG_WARN("publish", "an Event is not written (later ones are only counted): {}",
               done.error().message);
    if (auto it = pods_.find(uid); it != pods_.end()) {
      it->second->event_call.reset();
      PumpSoon({});
    }
  });
}

bool Publisher::Settled() const {
  return std::all_of(pods_.begin(), pods_.end(), [](const auto& pod) {
    return !pod.second->call && pod.second->Wanted() == pod.second->shown;
  });
}

void Publisher::Flush(event::Duration limit, std::function<void()> done) {
  flushed_ = std::move(done);
  flush_.Start(Settled() ? event::Duration{} : limit);
}

}  // namespace qanat::agent
