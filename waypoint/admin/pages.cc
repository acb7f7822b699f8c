// SPDX-License-Identifier: Apache-2.0
#include "waypoint/admin/pages.h"

#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "common/base/log.h"

namespace qanat::waypoint {
namespace {

using nlohmann::json;

std::string Dump(const json& value) {
  return value.dump(2, ' ', false, json::error_handler_t::replace);
}

std::string Iso(identity::SystemTime t) {
  auto seconds = std::chrono::system_clock::to_time_t(t);
  std::tm tm{};
  gmtime_r(&seconds, &tm);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", tm.tm_year + 1900, tm.tm_mon + 1,
                     tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

json RoutesJson(const RouteTable& table) {
  json hosts = json::array();
  for (const VirtualHost& vh : table.hosts) {
    json routes = json::array();
    for (const Route& r : vh.routes) {
      json one = {{"name", r.name}, {"origin", r.origin}, {"match", r.match.path.Describe()}};
      for (const HeaderMatch& h : r.match.headers) one["headers"].push_back(h.Describe());
      for (const QueryMatch& q : r.match.query) one["query"].push_back(q.Describe());
      if (const auto* forward = std::get_if<ForwardAction>(&r.action)) {
        for (const ClusterWeight& c : forward->clusters) {
          one["clusters"].push_back({{"cluster", c.cluster}, {"weight", c.weight}});
        }
        one["timeout_ms"] = forward->timeout.count();
        if (forward->retry) one["retries"] = forward->retry->num_retries;
      } else if (const auto* redirect = std::get_if<RedirectAction>(&r.action)) {
        one["redirect"] = redirect->status;
      } else if (const auto* direct = std::get_if<DirectResponse>(&r.action)) {
        one["direct_response"] = direct->status;
      }
      routes.push_back(std::move(one));
    }
    json rbac = json::array();
    for (const auto& [filter, rules] : vh.overrides.rbac) {
      json policies = json::array();
      for (const Rbac& r : rules->rules) {
        for (const RbacPolicy& p : r.policies) policies.push_back(p.name);
      }
      rbac.push_back({{"filter", filter}, {"policies", std::move(policies)}});
    }
    hosts.push_back({{"name", vh.name},
                     {"domains", vh.domains},
                     {"rbac", std::move(rbac)},
                     {"routes", std::move(routes)}});
  }
  return {{"name", table.name}, {"virtual_hosts", std::move(hosts)}};
}

json ConfigDump(const AdminSources& s) {
  json out;
  const SnapshotPtr snapshot = s.store->snapshot();
  out["generation"] = snapshot->generation;
  out["version"] = QANAT_VERSION;
  out["identity"] = s.settings->proxy.identity;
  out["listeners"] = json::array();
  for (const auto& [name, listener] : snapshot->listeners) {
    json chains = json::array();
    for (const auto& [address, chain] : listener->chains.by_address) {
      chains.push_back({{"destination", address.ToString()}, {"chain", chain->name}});
    }
    for (const auto& [ip, chain] : listener->chains.by_ip) {
      chains.push_back({{"destination", ip.ToString()}, {"chain", chain->name}});
    }
    for (const auto& [authority, chain] : listener->chains.by_authority) {
      chains.push_back({{"authority", authority}, {"chain", chain->name}});
    }
    out["listeners"].push_back({{"name", name}, {"chains", std::move(chains)}});
  }
  out["routes"] = json::array();
  for (const auto& [name, table] : snapshot->routes) out["routes"].push_back(RoutesJson(*table));
  out["clusters"] = json::array();
  for (const auto& [name, cluster] : snapshot->clusters) {
    if (cluster->plumbing) continue;
    json endpoints = json::array();
    if (auto set = snapshot->EndpointsOf(*cluster)) {
      for (const Endpoint& e : set->endpoints) {
        endpoints.push_back({{"address", e.address.ToString()},
                             {"hbone", e.hbone},
                             {"tunnel", e.hbone ? e.tunnel.ToString() : ""},
                             {"identity", e.identity},
                             {"workload", e.labels.workload},
                             {"weight", e.weight},
                             {"healthy", e.healthy}});
      }
    }
    out["clusters"].push_back({{"name", name},
                               {"service", cluster->service_host},
                               {"subset", cluster->subset},
                               {"endpoints", std::move(endpoints)}});
  }
  out["problems"] = json::array();
  for (const auto& p : s.store->problems()) {
    out["problems"].push_back({{"type", p.type}, {"name", p.name}, {"message", p.message}});
  }
  out["versions"] = json::array();
  for (const auto& v : s.store->versions()) {
    out["versions"].push_back({{"type", v.type}, {"name", v.name}, {"version", v.version}});
  }
  // The private key is nowhere in here: it lives in the TLS contexts only.
  out["certificates"] = json::array();
  if (auto c = s.certificate()) {
    json chain = json::array();
    for (const auto& info : c->chain) {
      chain.push_back({{"serialNumber", info.serial},
                       {"validFrom", Iso(info.not_before)},
                       {"expirationTime", Iso(info.not_after)},
                       {"pem", info.pem}});
    }
    out["certificates"].push_back({{"identity", c->identity.ToString()},
                                   {"state", "Available"},
                                   {"certChain", std::move(chain)}});
  } else {
    out["certificates"].push_back(
        {{"identity", s.settings->proxy.identity}, {"state", "Initializing"}});
  }
  if (const auto* xds = s.xds()) {
    out["xds"] = {{"connected", xds->connected()},
                  {"synced", xds->synced()},
                  {"last_error", xds->last_error()}};
  }
  out["notReady"] = s.not_ready();
  return out;
}

admin::Response Why(const AdminSources& s, const admin::Request& request) {
  WhyRequest why;
  why.identity = request.Parameter("src_identity").value_or("");
  if (!why.identity.empty() && !why.identity.starts_with("spiffe://")) {
    why.identity = "spiffe://" + why.identity;
  }
  why.source_ip = request.Parameter("src_ip").value_or("");
  why.authority = request.Parameter("authority").value_or("");
  why.method = request.Parameter("method").value_or("GET");
  why.path = request.Parameter("path").value_or("/");
  why.host = request.Parameter("host").value_or("");
  if (auto port = request.Parameter("port")) {
    if (auto address = net::SocketAddress::Parse("0.0.0.0:" + *port)) why.port = address->port();
  }
  for (const auto& [name, value] : http::ParseQuery(request.query)) {
    if (name != "header") continue;
    size_t colon = value.find(':');
    if (colon == std::string::npos) return admin::Text(400, "header must be NAME:VALUE\n");
    std::string text = value.substr(colon + 1);
    while (text.starts_with(' ')) text.erase(0, 1);
    why.headers.emplace_back(value.substr(0, colon), text);
  }
  if (why.authority.empty()) {
    return admin::Text(400,
                       "usage: /debug/why?src_identity=&src_ip=&authority=HOST:PORT&method=&path="
                       "&header=NAME:VALUE\n");
  }
  return admin::Json(200, WhyJson(*s.store->snapshot(), why));
}

std::string ClustersText(const std::vector<WorkerStats>& workers) {
  std::string out;
  for (size_t i = 0; i < workers.size(); ++i) {
    const WorkerStats& w = workers[i];
    out += fmt::format(
        "worker {}: tunnels {} http {} tcp {} upstream {} hbone out: tunnels {} dialing {} waiting "
        "{} dialed {} failed {}\n",
        i, w.tunnels, w.http_connections, w.tcp_connections, w.upstream_connections, w.pool.tunnels,
        w.pool.dialing, w.pool.waiting, w.pool.dialed, w.pool.failed);
    for (const auto& h : w.hosts) {
      out += fmt::format("{}::{}::rq_active::{}{}\n", h.cluster, h.address, h.active,
                         h.ejected ? "::ejected" : "");
    }
  }
  return out;
}

}  // namespace

void AddAdminPages(admin::Server& server, AdminSources sources) {
  auto s = std::make_shared<AdminSources>(std::move(sources));
  server.Route("GET", "/", [](const admin::Request&) {
    return admin::Text(200,
                       "qanat-waypoint admin\n"
                       "  GET  /config_dump\n  GET  /clusters\n  GET  /certs\n  GET  /ready\n"
                       "  GET  /metrics\n  GET  /stats/prometheus\n"
                       "  GET  /debug/why?src_identity=&src_ip=&authority=&port=&method=&path="
                       "&header=k:v\n"
                       "  POST /logging?level=info | ?level=SCOPE:debug\n  POST /quitquitquit\n");
  });
  server.Route("GET", "/config_dump",
               [s](const admin::Request&) { return admin::Json(200, Dump(ConfigDump(*s))); });
  server.Route("GET", "/certs", [s](const admin::Request&) {
    return admin::Json(200, Dump(ConfigDump(*s)["certificates"]));
  });
  server.Route("GET", "/ready", [s](const admin::Request&) {
    std::string why = s->not_ready();
    return why.empty() ? admin::Text(200, "LIVE\n") : admin::Text(503, "pending: " + why + "\n");
  });
  server.Route("GET", "/debug/why", [s](const admin::Request& r) { return Why(*s, r); });
  server.RouteDeferred("GET", "/clusters", [s](const admin::Request&, admin::Responder responder) {
    s->proxy->CollectStats([responder](std::vector<WorkerStats> workers) mutable {
      responder.Send(admin::Text(200, ClustersText(workers)));
    });
  });
  auto logging = [](const admin::Request& r) {
    std::string level = r.Parameter("level").value_or("");
    if (level.empty()) return admin::Text(200, "current log level is " + log::Levels() + "\n");
    if (Status status = log::SetLevels(level); !status) {
      return admin::Text(400, status.error().message + "\n");
    }
    return admin::Text(200, "current log level is " + log::Levels() + "\n");
  };
  server.Route("POST", "/logging", logging);
  server.Route("POST", "/quitquitquit", [s](const admin::Request&) {
    s->drain();
    return admin::Text(200, "shutdown now\n");
  });
}

}  // namespace qanat::waypoint
