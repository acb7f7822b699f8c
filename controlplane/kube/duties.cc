// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/duties.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/base/log.h"
#include "controlplane/kube/conditions.h"
#include "controlplane/kube/kinds.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;

constexpr std::chrono::milliseconds kSettle{50};
constexpr int kShareOfTime = 4;  // a round that took t is followed by the next after 4 t or more

struct ClassSpec {
  const char* name;
  std::string_view controller;
};
constexpr auto kClasses = std::to_array<ClassSpec>(
    {{"qanat-waypoint", kControllerName}, {"istio-waypoint", kStockControllerName}});

std::string NamespaceOf(const std::string& key) { return key.substr(0, key.find('/')); }

}  // namespace

Duties::Duties(event::EventLoop& loop, kube::Client& client, metrics::Registry& registry,
               Needs needs)
    : needs_(std::move(needs)),
      writer_(loop, client, needs_.may_write, registry),
      gateways_(loop, client, needs_.waypoint, [this] { Changed(); }),
      round_(loop, [this] { Round(); }),
      settle_(kSettle) {
  kube::ReflectorEvents events;
  events.on_sync = [this] {
    root_configs_synced_ = true;
    Changed();
  };
  events.on_upsert = [this](const std::string& key, std::string_view text) {
    root_configs_[NamespaceOf(key)] = ParseRootConfig(text);
    Changed();
  };
  events.on_gone = [this](const std::string& key) {
    root_configs_.erase(NamespaceOf(key));
    Changed();
  };
  events.on_error = [](const Error& error) {
    LOG_WARN("duties", "{}; root certificates stay as they are until it works", error.message);
  };
  events.on_absent = [](const Error&) {};
  kube::ReflectorOptions options;
  options.field_selector = fmt::format("metadata.name={}", kRootConfigMap);
  root_reflector_ =
      std::make_unique<kube::Reflector>(client, ConfigMaps(), options, std::move(events));
  Changed();
}

Duties::~Duties() = default;

void Duties::Changed() {
  if (!round_.armed()) round_.Start(settle_);
}

// The two classes, unless somebody has made them already.
Writes Duties::ClassWrites(const World& world) const {
  Writes out;
  if (!needs_.kind_exists("GatewayClass")) return out;
  for (const ClassSpec& spec : kClasses) {
    const auto& classes = world.objects().gateway_classes;
    if (std::any_of(classes.begin(), classes.end(),
                    [&](const GatewayClass& c) { return c.meta.name == spec.name; })) {
      continue;
    }
    const kube::Resource& resource = *FindKind("GatewayClass");
    const json body = {{"apiVersion", resource.ApiVersion()},
                       {"kind", resource.kind},
                       {"metadata", {{"name", spec.name}, {"labels", {{kPartOf, kPartOfQanat}}}}},
                       {"spec",
                        {{"controllerName", spec.controller},
                         {"description", "Layer 7 proxies of a Qanat mesh"}}}};
    Write write;
    write.request = kube::Create(resource, "", body.dump());
    write.request.query.emplace_back("fieldManager", kFieldManager);
    write.meaning = "make";
    out[spec.name] = std::move(write);
  }
  return out;
}

// Not for kinds that the API server does not have in our version: each would be refused.
Writes Duties::Possible(Writes statuses) const {
  std::erase_if(statuses, [&](const auto& pair) {
    return !needs_.kind_exists(pair.first.substr(0, pair.first.find(' ')));
  });
  return statuses;
}

void Duties::Round() {
  const event::TimePoint began = event::Clock::now();
  const DutyState state = needs_.state();
  const World& world = *state.world;
  const std::string now = Rfc3339Now();
  std::vector<Issue> issues;
  GatewayController::Outcome gateways = gateways_.Evaluate(world, needs_.observed, now);
  issues = std::move(gateways.issues);
  if (root_configs_synced_) {
    writer_.Want("root certificate",
                 RootConfigWrites(world, root_configs_, needs_.root_pem, issues));
  }
  writer_.Want("gateway class", ClassWrites(world));
  writer_.Want("waypoint", std::move(gateways.objects));
  writer_.Want("gateway status", Possible(std::move(gateways.statuses)));
  writer_.Want("status",
               Possible(StatusWrites(world, state.statuses, state.issues, needs_.observed, now)));
  issues_ = std::move(issues);
  settle_ = std::max<event::Duration>(kSettle, (event::Clock::now() - began) * kShareOfTime);
}

}  // namespace qanat::controlplane
