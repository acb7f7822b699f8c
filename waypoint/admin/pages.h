// SPDX-License-Identifier: Apache-2.0
// The admin pages: config_dump of what runs, /clusters, /debug/why, /logging, /quitquitquit.
// Main thread.
#pragma once

#include <functional>
#include <string>

#include "common/admin/server.h"
#include "common/identity/secret_manager.h"
#include "common/xds/delta_client.h"
#include "waypoint/config/store.h"
#include "waypoint/proxy/proxy.h"
#include "waypoint/settings.h"

namespace qanat::waypoint {

struct AdminSources {
  const Settings* settings = nullptr;
  const ConfigStore* store = nullptr;
  Proxy* proxy = nullptr;
  std::function<identity::CertificatePtr()> certificate;
  std::function<const identity::SecretManager*()> secrets;
  std::function<const xds::DeltaClient*()> xds;
  std::function<std::string()> not_ready;
  std::function<void()> drain;
};
void AddAdminPages(admin::Server& server, AdminSources sources);

// What the data path would do with a request, and why: verdict, reason, policy tree, route. Pure.
struct WhyRequest {
  std::string identity;  // spiffe://...
  std::string source_ip;
  std::string authority;  // HOST, HOST:PORT, IP or IP:PORT
  uint16_t port = 0;      // where the authority has none
  std::string method = "GET";
  std::string path = "/";
  std::string host;  // the request's Host; empty: the authority
  std::vector<std::pair<std::string, std::string>> headers;
};
std::string WhyJson(const ConfigSnapshot& snapshot, const WhyRequest& request);

}  // namespace qanat::waypoint
