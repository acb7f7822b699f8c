// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/gateway_controller.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "common/base/log.h"
#include "controlplane/kube/conditions.h"
#include "controlplane/kube/gateway_status.h"
#include "controlplane/kube/kinds.h"
#include "controlplane/source/json.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds kAskAgain{10};  // whether a name that was taken is free

bool IsOurs(const Labels& labels) {
  const auto it = labels.find(std::string(kPartOf));
  return it != labels.end() && it->second == kPartOfQanat;
}

// That something is part of Qanat does not make it a waypoint's: the control plane's own Service is
// so too, and a Gateway may have its name.
bool MadeForGateway(const ObjectMeta& meta) {
  const std::string* name = meta.Label(kGatewayNameLabel);
  return IsOurs(meta.labels) && meta.Label(kManagedLabel) != nullptr && name != nullptr &&
         *name == meta.name;
}

NamespacedName SplitKey(const std::string& key) {
  const size_t slash = key.find('/');
  if (slash == std::string::npos) return {"", key};
  return {key.substr(0, slash), key.substr(slash + 1)};
}

}  // namespace

GatewayController::GatewayController(event::EventLoop& loop, kube::Client& client,
                                     WaypointSettings settings, std::function<void()> on_change)
    : loop_(loop),
      client_(client),
      settings_(std::move(settings)),
      on_change_(std::move(on_change)),
      again_(loop, [this] { on_change_(); }) {
  kube::ReflectorEvents events;
  events.on_sync = [this] {
    synced_ = true;
    on_change_();
  };
  events.on_upsert = [this](const std::string& key, std::string_view text) {
    deployments_[SplitKey(key)] = Parse(text);
    probes_.erase(SplitKey(key));
    on_change_();
  };
  events.on_gone = [this](const std::string& key) {
    deployments_.erase(SplitKey(key));
    settled_.erase(SplitKey(key));
    on_change_();
  };
  events.on_error = [](const Error& error) {
    LOG_WARN("gateways", "{}; waypoints stay as they are until it works", error.message);
  };
  events.on_absent = [](const Error&) {};
  kube::ReflectorOptions options;
  options.label_selector = std::string(kManagedLabel);
  reflector_ =
      std::make_unique<kube::Reflector>(client_, Deployments(), options, std::move(events));
}

GatewayController::~GatewayController() = default;

GatewayController::Found GatewayController::Parse(std::string_view text) {
  Found out;
  const Result<YamlNode> node = ParseJsonObject(text);
  if (!node) return out;
  const YamlNode* metadata = node->Find("metadata");
  const YamlNode* labels = At(metadata, "labels");
  out.ours = TextAt(labels, kPartOf) == kPartOfQanat && At(labels, kManagedLabel) != nullptr &&
             TextAt(labels, kGatewayNameLabel) == TextAt(metadata, "name");
  out.spec_hash = TextAt(At(metadata, "annotations"), kSpecHash);
  out.generation = std::strtoll(TextAt(metadata, "generation").c_str(), nullptr, 10);
  return out;
}

const GatewayController::Probe* GatewayController::Ask(const NamespacedName& key) {
  Probe& probe = probes_[key];
  const event::TimePoint now = event::Clock::now();
  if (probe.answered && (!probe.taken || now - probe.at < kAskAgain)) return &probe;
  if (probe.call != nullptr) return probe.answered ? &probe : nullptr;
  probe.call = client_.Call(kube::Get(Deployments(), key.ns, key.name),
                            [this, key](Result<kube::CallResponse> answer) {
                              const auto it = probes_.find(NamespacedName(key));
                              if (it == probes_.end()) return;
                              Probe& asked = it->second;
                              asked.call.reset();
                              asked.at = event::Clock::now();
                              if (answer) {
                                asked.answered = true;
                                asked.taken = !Parse(answer->body).ours;
                              } else if (answer.error().code == Code::kNotFound) {
                                asked.answered = true;
                                asked.taken = false;
                              } else {
                                LOG_WARN("gateways", "{}", answer.error().message);
                              }
                              if (!asked.answered || asked.taken) return again_.Start(kAskAgain);
                              on_change_();
                            });
  return probe.answered ? &probe : nullptr;
}

// One evaluation.
class GatewayController::Round {
 public:
  Round(GatewayController& owner, const World& world, const Observed& observed,
        const std::string& now)
      : owner_(owner), world_(world), observed_(observed), now_(now) {
    for (const ServiceAccount& account : world.objects().service_accounts) {
      accounts_[account.meta.key()] = &account.meta;
    }
    for (const Service& service : world.objects().services) {
      if (!service.synthetic) services_[service.meta.key()] = &service;
    }
  }

  Outcome Run() {
    for (const Gateway& gateway : world_.objects().gateways) {
      if (gateway.meta.terminating || gateway.meta.uid.empty()) continue;
      if (const GatewayClass* gateway_class = Deployed(gateway)) {
        Manage(gateway, RefusalOf(gateway, *gateway_class));
      } else {
        Retire(gateway);
      }
    }
    return std::move(out_);
  }

 private:
  // The Gateway's class, when it says that we deploy it.
  const GatewayClass* Deployed(const Gateway& gateway) {
    const auto& classes = world_.objects().gateway_classes;
    const auto it = std::find_if(classes.begin(), classes.end(), [&](const GatewayClass& c) {
      return c.meta.name == gateway.class_name;
    });
    if (it == classes.end()) return nullptr;  // ours are about to be made
    if (it->controller == kControllerName || IsOurs(it->meta.labels)) return &*it;
    if (world_.IsWaypoint(gateway)) {
      out_.issues.push_back(
          {Issue::Severity::kWarning, "", 0,
           fmt::format("Gateway {}", gateway.meta.key().ToString()),
           fmt::format("its class {} was made by another mesh, which is left to deploy it",
                       gateway.class_name),
           fmt::format(
               "use class qanat-waypoint, or, if that mesh is gone, delete GatewayClass {}: "
               "it is then made anew",
               gateway.class_name)});
    }
    return nullptr;
  }

  // What is there already of a refused one stays as it is: traffic may go through it.
  void Manage(const Gateway& gateway, const std::optional<StatusCondition>& refusal) {
    const NamespacedName key = gateway.meta.key();
    if (!owner_.synced_) return;
    const auto service = services_.find(key);
    const std::vector<std::string> taken = Taken(key);
    // Half a waypoint is none: first it must be known that every name is free.
    if (!owner_.deployments_.contains(key) && owner_.Ask(key) == nullptr) return;
    if (taken.empty() && !refusal) {
      WantAccount(gateway);
      WantService(gateway);
      WantDeployment(gateway);
    }
    WantStatus(gateway, StateOf(gateway, world_, refusal, taken,
                                service == services_.end() ? nullptr : service->second));
  }

  // Which objects of this name exist and were made by somebody else.
  std::vector<std::string> Taken(const NamespacedName& key) {
    std::vector<std::string> out;
    const auto account = accounts_.find(key);
    if (account != accounts_.end() && !MadeForGateway(*account->second)) {
      out.push_back("ServiceAccount");
    }
    const auto service = services_.find(key);
    if (service != services_.end() && !MadeForGateway(service->second->meta)) {
      out.push_back("Service");
    }
    const auto deployment = owner_.deployments_.find(key);
    if (deployment != owner_.deployments_.end()) {
      if (!deployment->second.ours) out.push_back("Deployment");
    } else {
      const Probe* probe = owner_.Ask(key);
      if (probe != nullptr && probe->taken) out.push_back("Deployment");
    }
    return out;
  }

  static bool Current(const ObjectMeta& meta, const std::string& hash) {
    const std::string* there = meta.Annotation(kSpecHash);
    return there != nullptr && *there == hash && MadeForGateway(meta);
  }

  void Apply(const kube::Resource& resource, const NamespacedName& key, const json& object,
             std::string meaning, std::function<void()> done = {}) {
    Write write;
    write.request = kube::Apply(resource, key.ns, key.name, ToText(object), kFieldManager);
    write.meaning = std::move(meaning);
    write.done = std::move(done);
    out_.objects[resource.kind + " " + key.ToString()] = std::move(write);
  }

  void WantAccount(const Gateway& gateway) {
    const json object = WaypointServiceAccount(gateway);
    const std::string hash = SpecHashOf(object);
    const auto it = accounts_.find(gateway.meta.key());
    if (it != accounts_.end() && Current(*it->second, hash)) return;
    Apply(*FindKind("ServiceAccount"), gateway.meta.key(), object, hash);
  }

  void WantService(const Gateway& gateway) {
    const json object = WaypointService(gateway);
    const std::string hash = SpecHashOf(object);
    const auto it = services_.find(gateway.meta.key());
    if (it != services_.end() && Current(it->second->meta, hash)) {
      // Services do not count their generations: look at what matters.
      const Labels selector = {{std::string(kGatewayNameLabel), gateway.meta.name}};
      std::set<int> ports;
      for (const ServicePort& port : it->second->ports) ports.insert(port.port);
      const json& wanted = object["spec"]["ports"];
      const bool same = it->second->selector == selector && ports.size() == wanted.size() &&
                        std::all_of(wanted.begin(), wanted.end(), [&](const json& port) {
                          return ports.contains(port["port"].get<int>());
                        });
      if (same) return;
    }
    Apply(*FindKind("Service"), gateway.meta.key(), object, hash);
  }

  void WantDeployment(const Gateway& gateway) {
    const NamespacedName key = gateway.meta.key();
    const json object = WaypointDeployment(gateway, world_.mesh(), owner_.settings_);
    const std::string hash = SpecHashOf(object);
    const auto there = owner_.deployments_.find(key);
    if (there == owner_.deployments_.end()) {
      return Apply(Deployments(), key, object, hash);
    }
    // Whoever changed the Deployment raised its generation; an apply puts our fields back, and
    // leaves those that are not ours (replicas).
    const std::pair<std::string, int64_t> state = {hash, there->second.generation};
    const auto settled = owner_.settled_.find(key);
    if (there->second.spec_hash == hash && settled != owner_.settled_.end() &&
        settled->second == state) {
      return;
    }
    Apply(Deployments(), key, object, fmt::format("{} {}", hash, there->second.generation),
          [owner = &owner_, key, state] {
            owner->settled_[key] = state;
            owner->on_change_();
          });
  }

  void WantStatus(const Gateway& gateway, const GatewayState& state) {
    const YamlNode* there = observed_("Gateway", gateway.meta.key());
    if (std::optional<Write> write = GatewayStatusWrite(gateway, state, there, now_)) {
      out_.statuses["Gateway " + gateway.meta.key().ToString()] = std::move(*write);
    }
  }

  // A Gateway that is no waypoint of ours (any more): what we made for it goes.
  void Retire(const Gateway& gateway) {
    const NamespacedName key = gateway.meta.key();
    if (const auto it = owner_.deployments_.find(key);
        it != owner_.deployments_.end() && it->second.ours) {
      Remove(Deployments(), key);
    }
    if (const auto it = services_.find(key);
        it != services_.end() && MadeForGateway(it->second->meta)) {
      Remove(*FindKind("Service"), key);
    }
    if (const auto it = accounts_.find(key); it != accounts_.end() && MadeForGateway(*it->second)) {
      Remove(*FindKind("ServiceAccount"), key);
    }
    if (std::optional<Write> write =
            GatewayStatusRetreat(gateway, world_.ServiceHostname(key), observed_("Gateway", key))) {
      out_.statuses["Gateway " + key.ToString()] = std::move(*write);
    }
  }

  void Remove(const kube::Resource& resource, const NamespacedName& key) {
    Write write;
    write.request = kube::Delete(resource, key.ns, key.name);
    write.meaning = "remove";
    out_.objects[resource.kind + " " + key.ToString()] = std::move(write);
  }

  GatewayController& owner_;
  const World& world_;
  const Observed& observed_;
  const std::string& now_;
  std::map<NamespacedName, const ObjectMeta*> accounts_;
  std::map<NamespacedName, const Service*> services_;
  Outcome out_;
};

GatewayController::Outcome GatewayController::Evaluate(const World& world, const Observed& observed,
                                                       const std::string& now) {
  return Round(*this, world, observed, now).Run();
}

}  // namespace qanat::controlplane
