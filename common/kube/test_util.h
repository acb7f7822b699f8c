// SPDX-License-Identifier: Apache-2.0
// For tests of this folder: a loop to run until something is so, and a recording reflector.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/kube/reflector.h"

namespace qanat::kube::testing {

inline bool RunUntil(event::EventLoop& loop, const std::function<bool()>& so,
                     std::chrono::milliseconds limit = std::chrono::seconds(60)) {
  const auto end = event::Clock::now() + limit;
  while (!so()) {
    if (event::Clock::now() > end) return false;
    loop.RunOnce(std::chrono::milliseconds(5));
  }
  return true;
}
inline void RunFor(event::EventLoop& loop, std::chrono::milliseconds time) {
  // At least so many rounds: on a busy machine the time alone may be one round.
  int rounds = 0;
  const auto end = event::Clock::now() + time;
  while (++rounds <= 20 || event::Clock::now() < end) loop.RunOnce(std::chrono::milliseconds(1));
}

inline const Resource& Pods() {
  static const Resource resource{"", "v1", "pods", "Pod", true};
  return resource;
}
inline const Resource& Routes() {
  static const Resource resource{"gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute",
                                 true};
  return resource;
}

// One call, waited for.
inline Result<CallResponse> Wait(event::EventLoop& loop, Client& client, CallRequest request) {
  Result<CallResponse> out = Fail(Code::kInternal, "the test waited in vain");
  bool done = false;
  const HandlePtr call = client.Call(std::move(request), [&](Result<CallResponse> result) {
    out = std::move(result);
    done = true;
  });
  RunUntil(loop, [&] { return done; });
  return out;
}

// A reflector and what it said: "+key", "-key", "sync", "error", "absent".
struct Recorder {
  Recorder(Client& client, const Resource& resource, ReflectorOptions options = {})
      : reflector(
            std::make_unique<Reflector>(client, resource, Quick(std::move(options)), Events())) {}
  static ReflectorOptions Quick(ReflectorOptions options) {
    options.backoff_first = std::chrono::milliseconds(10);
    options.backoff_max = std::chrono::milliseconds(50);
    options.absent_retry = std::chrono::milliseconds(50);
    return options;
  }
  ReflectorEvents Events() {
    ReflectorEvents out;
    out.on_sync = [this] {
      ++syncs;
      log.emplace_back("sync");
    };
    out.on_upsert = [this](const std::string& key, std::string_view json) {
      log.push_back("+" + key);
      objects[key] = json;
      if (on_upsert) on_upsert();
    };
    out.on_gone = [this](const std::string& key) {
      log.push_back("-" + key);
      objects.erase(key);
    };
    out.on_error = [this](const Error& error) {
      log.emplace_back("error");
      errors.push_back(error.message);
    };
    out.on_absent = [this](const Error& error) {
      log.emplace_back("absent");
      errors.push_back(error.message);
    };
    return out;
  }
  size_t Count(const std::string& entry) const {
    return static_cast<size_t>(std::count(log.begin(), log.end(), entry));
  }

  std::vector<std::string> log;
  std::vector<std::string> errors;
  std::map<std::string, std::string> objects;
  int syncs = 0;
  std::function<void()> on_upsert;
  std::unique_ptr<Reflector> reflector;
};

}  // namespace qanat::kube::testing
