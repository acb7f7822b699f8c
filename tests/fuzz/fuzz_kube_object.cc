// SPDX-License-Identifier: Apache-2.0
// Any text as an object of the API server: it is read, decoded, indexed, and everything that the
// leader would write for it is made. Nothing may crash or throw, and what is written is JSON.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "controlplane/kube/ca_secret.h"
#include "controlplane/kube/conditions.h"
#include "controlplane/kube/gateway_status.h"
#include "controlplane/kube/root_config.h"
#include "controlplane/kube/status_writes.h"
#include "controlplane/kube/token_review_authenticator.h"
#include "controlplane/kube/waypoint_objects.h"
#include "controlplane/source/json.h"
#include "controlplane/source/store.h"

using namespace qanat::controlplane;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  ParseRootConfig(text);
  (void)ClaimsOfReview(text);
  (void)CaFilesOfSecret(text, "Secret a/b");
  const auto node = ParseJsonObject(text);
  if (!node) return 0;
  ObjectStore store;
  store.Update(ObjectStore::Layer::kUser, "Kind ns/name", DecodeObject(*node));
  SourceSnapshot snapshot = store.Assemble();
  const std::vector<Issue> issues = snapshot.issues;
  const auto world = World::Build(std::move(snapshot.objects), {});
  const qanat::YamlNode* status = node->Find("status");
  const Writes writes = StatusWrites(
      *world, BuildStatus(*world), issues,
      [&](std::string_view, const NamespacedName&) { return status; }, "2026-11-22T05:22:27Z");
  for (const auto& [object, write] : writes) {
    if (!nlohmann::json::accept(write.request.body)) std::abort();
  }
  const WaypointSettings settings = {"image:1", "https://a:1", "https://b:1"};
  for (const Gateway& gateway : world->objects().gateways) {
    for (const nlohmann::json& made : {WaypointServiceAccount(gateway), WaypointService(gateway),
                                       WaypointDeployment(gateway, world->mesh(), settings)}) {
      if (!nlohmann::json::accept(ToText(made)) || SpecHashOf(made).empty()) std::abort();
    }
    const auto refusal = RefusalOf(gateway, {});
    const GatewayState state =
        StateOf(gateway, *world, refusal, {}, world->FindService(gateway.meta.key()));
    GatewayStatusWrite(gateway, state, status, "2026-11-22T05:22:27Z");
    GatewayStatusRetreat(gateway, "a", status);
  }
  return 0;
}
