// SPDX-License-Identifier: Apache-2.0
// For tests of the control plane's Kubernetes side: a loop, a fake API server, a client of it, and
// objects put there as YAML. Header only.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "common/event/event_loop.h"
#include "common/kube/client.h"
#include "common/metrics/registry.h"
#include "common/yaml/yaml.h"
#include "controlplane/kube/conditions.h"
#include "controlplane/kube/kinds.h"
#include "tests/support/kube/fake_api_server.h"

namespace qanat::controlplane {

struct KubeBed {
  using Json = nlohmann::json;

  bool Until(const std::function<bool()>& so,
             std::chrono::milliseconds limit = std::chrono::seconds(60)) {
    const auto end = event::Clock::now() + limit;
    while (!so()) {
      if (event::Clock::now() > end) return false;
      loop.RunOnce(std::chrono::milliseconds(5));
    }
    return true;
  }
  void For(std::chrono::milliseconds time) {
    // At least so many rounds: on a busy machine the time alone may be one round.
    int rounds = 0;
    const auto end = event::Clock::now() + time;
    while (++rounds <= 20 || event::Clock::now() < end) loop.RunOnce(std::chrono::milliseconds(1));
  }

  static std::string PathOf(const Json& object) {
    const std::string kind = object["kind"];
    const kube::Resource* resource = FindKind(kind);
    for (const kube::Resource* other : {&Deployments(), &ConfigMaps(), &Secrets(), &Leases()}) {
      if (other->kind == kind) resource = other;
    }
    if (resource == nullptr) return {};
    const Json& metadata = object["metadata"];
    return resource->Path(resource->namespaced ? metadata.value("namespace", "default") : "",
                          metadata["name"].get<std::string>());
  }

  void Put(Json object) {
    const std::string path = PathOf(object);
    if (path.empty()) return;
    if (object["metadata"].is_object() && !object["metadata"].contains("creationTimestamp")) {
      object["metadata"]["creationTimestamp"] = "2026-11-22T05:00:00Z";
    }
    server.Put(path, object.dump());
  }
  void PutYaml(std::string_view text) {
    const YamlFile file = ParseYaml(text);
    ASSERT_TRUE(file.errors.empty()) << file.errors[0].message;
    for (const YamlNode& document : file.documents) Put(ToJson(document));
  }
  Json Get(const std::string& path) const {
    const std::string text = server.Get(path);
    return text.empty() ? Json() : Json::parse(text);
  }

  event::EventLoop loop;
  kube::testing::FakeApiServer server;
  kube::Client client{loop, server.Config()};
  metrics::Registry registry;
};

}  // namespace qanat::controlplane
