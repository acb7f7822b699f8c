// SPDX-License-Identifier: Apache-2.0
#include "agent/direct/pages.h"

#include <nlohmann/json.hpp>

namespace qanat::agent::direct {
namespace {

using Json = nlohmann::json;

constexpr char kNoMesh[] = "the agent does not hear of the mesh (XDS_ADDRESS is not set)";

std::string Dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json MemberJson(uint32_t serial, const Member& member) {
  return {{"namespace", member.facts.ns},
          {"name", member.facts.name},
          {"serial", serial},
          {"wish", ToString(member.wish)},
          {"proved", member.path_proved}};
}

admin::Response VerdictOf(const Enforcer& enforcer, const admin::Request& request) {
  const std::string from = request.Parameter("from").value_or("");
  const auto to = net::SocketAddress::Parse(request.Parameter("to").value_or(""));
  if (!to || from.find('/') == std::string::npos) {
    return admin::Text(400, "expected ?from=NAMESPACE/NAME&to=IP:PORT\n");
  }
  VerdictKey key{0, 0, to->port(), to->ip().is_v6()};
  for (const auto& [serial, member] : enforcer.Members()) {
    if (member->facts.ns + "/" + member->facts.name == from) key.source = serial;
    if (member->facts.HasAddress(to->ip())) key.destination = serial;
  }
  const auto judged = enforcer.Judge(key);
  if (!judged) {
    return admin::Json(
        200, Dump({{"direct", false}, {"why", "not both of them are captured pods of this node"}}));
  }
  const EnforcerStats& stats = enforcer.stats();
  const bool direct = judged->direct && stats.leased;
  return admin::Json(200, Dump({{"direct", direct},
                                {"allowed", judged->allowed},
                                {"policy", judged->policy},
                                {"generation", stats.generation},
                                {"why", judged->direct ? stats.why_off : judged->why_not}}));
}

}  // namespace

std::string Page(const Service* service) {
  if (service == nullptr) return Dump({{"on", false}, {"why", kNoMesh}});
  const Enforcer& enforcer = service->enforcer();
  const EnforcerStats& stats = enforcer.stats();
  Json pods = Json::array();
  for (const auto& [serial, member] : enforcer.Members()) {
    pods.push_back(MemberJson(serial, *member));
  }
  return Dump({{"on", stats.leased},
               {"why", stats.why_off},
               {"generation", stats.generation},
               {"policyVersion", stats.policy_version},
               {"verdicts", stats.verdicts},
               {"direct", stats.direct},
               {"services", stats.vips},
               {"servicesDrawn", stats.drawn},
               {"answered", stats.answered},
               {"revocations", stats.revocations},
               {"ended", stats.ended},
               {"failures", stats.failures},
               {"pods", std::move(pods)}});
}

void AddRoutes(admin::Server& server, const Service* service) {
  server.Route("GET", "/direct",
               [service](const admin::Request&) { return admin::Json(200, Page(service)); });
  server.Route("GET", "/direct/verdict", [service](const admin::Request& request) {
    if (service == nullptr) return admin::Json(200, Dump({{"direct", false}, {"why", kNoMesh}}));
    return VerdictOf(service->enforcer(), request);
  });
}

void AddMetrics(metrics::Registry& registry, const Service& service) {
  using metrics::Kind;
  using metrics::Sample;
  const auto add = [&](Kind kind, const char* name, const char* help, auto value) {
    registry.AddCallback(kind, name, help, [&service, value]() -> std::vector<Sample> {
      return {{{}, static_cast<double>(value(service.enforcer().stats()))}};
    });
  };
  add(Kind::kGauge, "qanat_direct_on",
      "1 while connections between pods of this node may go straight",
      [](const EnforcerStats& s) { return s.leased; });
  add(Kind::kGauge, "qanat_direct_generation", "The generation of verdicts that is enforced",
      [](const EnforcerStats& s) { return s.generation; });
  registry.AddCallback(Kind::kGauge, "qanat_direct_verdicts",
                       "Verdicts in the kernel: of pairs of pods and a port, by what they say",
                       [&service]() -> std::vector<Sample> {
                         const EnforcerStats& s = service.enforcer().stats();
                         return {
                             {{{"verdict", "direct"}}, static_cast<double>(s.direct)},
                             {{{"verdict", "proxy"}}, static_cast<double>(s.verdicts - s.direct)}};
                       });
  add(Kind::kCounter, "qanat_direct_questions", "Questions of the kernel that were answered",
      [](const EnforcerStats& s) { return s.answered; });
  add(Kind::kCounter, "qanat_direct_revocations",
      "How often something that was direct had to be taken back",
      [](const EnforcerStats& s) { return s.revocations; });
  add(Kind::kCounter, "qanat_direct_ended",
      "Direct connections that were ended because they are no longer allowed",
      [](const EnforcerStats& s) { return s.ended; });
  add(Kind::kCounter, "qanat_direct_failures",
      "What the kernel did not take; the path was off until it did",
      [](const EnforcerStats& s) { return s.failures; });
}

}  // namespace qanat::agent::direct
