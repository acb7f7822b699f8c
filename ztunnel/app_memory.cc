// SPDX-License-Identifier: Apache-2.0
// App's part in keeping to the budget of memory. Main thread.
#include <fmt/format.h>

#include "common/base/log.h"
#include "ztunnel/app.h"
#include "ztunnel/profile/heap.h"

namespace qanat::ztunnel {
namespace {

constexpr const char* kProfiling = "/debug/pprof/heap/profiling";

// As the stock proxy's: on from the start, off and on again.
admin::Response HeapProfiling(const admin::Request& request) {
  const std::string activate = request.Parameter("activate").value_or("");
  if (activate == "true") {
    if (const Status begun = profile::StartHeapProfile(); !begun) {
      return admin::Text(503, begun.error().message + "\n");
    }
  } else if (activate != "false" && (!activate.empty() || request.method == "POST")) {
    return admin::Text(400, "activate: true or false\n");
  }
  if (!activate.empty()) profile::SetHeapSampling(activate == "true");
  return admin::Text(200, profile::HeapSampling() ? "on\n" : "off\n");
}

}  // namespace

void App::StartMemory() {
  memory_ = std::make_unique<MemoryKeeper>(
      loop_, environment_, workers_,
      [this] {
        std::vector<PodPtr> pods;
        if (!pods_) return pods;
        for (const auto& [uid, entry] : pods_->entries()) pods.push_back(entry.pod);
        if (pods_->self()) pods.push_back(pods_->self());
        return pods;
      },
      registry_);
  memory_->Start();
  if (const Status status = profile::StartHeapProfile(environment_.config.heap_profile_rate);
      !status) {
    LOG_WARN("profile", "no heap profile: {}", status.error().message);
  }
}

void App::AddHeapRoutes() {
  // Both give all four values, as Go does; they differ in what readers show at first.
  const auto add = [this](const std::string& name, const std::string& shown) {
    admin_->Route("GET", "/debug/pprof/" + name, [name, shown](const admin::Request&) {
      auto profile = profile::HeapProfile();
      if (!profile) return admin::Text(503, profile.error().message + "\n");
      if (!profile::HeapSampling()) {
        return admin::Text(409, fmt::format("off: POST {}?activate=true\n", kProfiling));
      }
      profile->shown = shown;
      admin::Response response = admin::Text(200, EncodeProfile(*profile));
      response.content_type = "application/octet-stream";
      response.headers.Set("content-disposition", "attachment; filename=\"" + name + "\"");
      return response;
    });
  };
  add("heap", "inuse_space");
  add("allocs", "alloc_space");
  for (const char* method : {"GET", "POST"}) admin_->Route(method, kProfiling, HeapProfiling);
}

}  // namespace qanat::ztunnel
