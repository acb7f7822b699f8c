// SPDX-License-Identifier: Apache-2.0
#include "agent/cluster/own_daemonset.h"

#include <nlohmann/json.hpp>

#include "common/base/log.h"

namespace qanat::agent {
namespace {

const kube::Resource kDaemonSets{"apps", "v1", "daemonsets", "DaemonSet", true};

}  // namespace

bool IsBeingDeleted(std::string_view text) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("metadata") || !json["metadata"].is_object())
    return false;
  auto at = json["metadata"].find("deletionTimestamp");
  return at != json["metadata"].end() && at->is_string();
}

OwnDaemonSet::OwnDaemonSet(kube::Client& client, std::string ns, std::string name)
    : client_(client), ns_(std::move(ns)), name_(std::move(name)) {
  kube::ReflectorOptions options;
  options.ns = ns_;
  options.field_selector = "metadata.name=" + name_;
  kube::ReflectorEvents events;
  events.on_upsert = [this](const std::string&, std::string_view json) {
    ended_ = IsBeingDeleted(json);
  };
  events.on_gone = [this](const std::string&) { ended_ = true; };
  events.on_error = [](const Error& error) {
    LOG_WARN("cluster", "our own DaemonSet is not followed: {}", error.message);
  };
  reflector_ =
      std::make_unique<kube::Reflector>(client, kDaemonSets, std::move(options), std::move(events));
}

void OwnDaemonSet::AskWhetherItEnds(std::function<void(bool)> done) {
  if (ended_) return done(true);
  kube::CallRequest request = kube::Get(kDaemonSets, ns_, name_);
  request.timeout = std::chrono::seconds(2);
  call_ = client_.Call(
      std::move(request), [this, done = std::move(done)](Result<kube::CallResponse> response) {
        if (response) return done(IsBeingDeleted(response->body));
        if (response.error().code == Code::kNotFound) return done(true);
        LOG_WARN("cluster",
                 "whether this is an uninstallation is not known, so the node stays as it "
                 "is: {}",
                 response.error().message);
        done(ended_);
      });
}

}  // namespace qanat::agent
