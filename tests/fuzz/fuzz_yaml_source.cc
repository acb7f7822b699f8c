// SPDX-License-Identifier: Apache-2.0
// Any text as a YAML file of the folder source: it is read, laid over a good file, indexed,
// translated for node proxies and a waypoint, and its statuses are made. Nothing may crash, and the
// text must not take the good file's policy away.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "controlplane/envoy/translate.h"
#include "controlplane/source/store.h"
#include "controlplane/translate/address.h"
#include "controlplane/translate/authorization.h"
#include "controlplane/translate/status.h"

using namespace qanat::controlplane;

namespace {
constexpr std::string_view kGood =
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: good, "
    "namespace: "
    "zz-good}\nspec: {}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: "
    "{name: w, namespace: default}\nspec: {gatewayClassName: qanat-waypoint, listeners: [{name: "
    "mesh, "
    "port: 15008, protocol: HBONE}]}\nstatus: {addresses: [{value: 10.96.0.9}]}\n";
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  ObjectStore store;
  store.Update(ObjectStore::Layer::kUser, "a.yaml", DecodeFile("a.yaml", kGood));
  store.Update(ObjectStore::Layer::kUser, "b.yaml", DecodeFile("b.yaml", text));
  store.Update(ObjectStore::Layer::kOverlay, "o.yaml", DecodeFile("o.yaml", text));
  SourceSnapshot snapshot = store.Assemble();
  const auto world = World::Build(std::move(snapshot.objects), {});
  TranslateAddresses(*world);
  const ResourcesByName policies = TranslateAuthorizations(*world);
  if (!policies.contains("zz-good/good")) std::abort();
  BuildWaypoint(*world, {"default", "w"});
  BuildStatus(*world);
  CheckWorld(*world);
  return 0;
}
