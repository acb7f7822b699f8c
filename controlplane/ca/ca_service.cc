// SPDX-License-Identifier: Apache-2.0
#include "controlplane/ca/ca_service.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/base/log.h"
#include "common/tls/spiffe.h"

namespace qanat::controlplane {

CaService::CaService(const CertificateAuthority& authority, Authenticator& tokens,
                     std::set<std::string> trusted_nodes, GetWorld world, Clock clock,
                     metrics::Registry& registry)
    : authority_(authority),
      tokens_(tokens),
      trusted_nodes_(std::move(trusted_nodes)),
      world_(std::move(world)),
      clock_(std::move(clock)),
      // Gauges by type, counters by nature: stock names end without the _total of a counter.
      requests_(registry.AddGauge("citadel_server_csr_count", "Signing requests received.").Get()),
      issued_(
          registry.AddGauge("citadel_server_success_cert_issuance_count", "Certificates issued.")
              .Get()),
      not_authenticated_(registry
                             .AddGauge("citadel_server_authentication_failure_count",
                                       "Callers whose token was refused.")
                             .Get()),
      bad_requests_(registry
                        .AddGauge("citadel_server_csr_parsing_err_count",
                                  "Signing requests that could not be read.")
                        .Get()),
      refusals_(registry.AddCounter("qanat_ca_refusals", "Certificates refused, by reason.",
                                    {"reason"})) {
  const auto expiry = std::chrono::duration_cast<std::chrono::seconds>(
      authority.root().not_after().time_since_epoch());
  registry
      .AddGauge("citadel_server_root_cert_expiry_timestamp",
                "When the root expires, in seconds since the epoch.")
      .Get()
      .Set(expiry.count());
}

tl::unexpected<Error> CaService::Refuse(const char* reason, Error error, const std::string& who) {
  refusals_.With({reason})->Add();
  LOG_WARN("ca", "certificate refused to {}: {} ({})", who.empty() ? "?" : who, error.message,
           reason);
  return Fail(std::move(error));
}

Result<std::string> CaService::Grant(const Caller& caller, const std::string& impersonated,
                                     const World& world) {
  if (impersonated.empty()) return caller.identity;
  const std::string account = caller.ns + "/" + caller.service_account;
  if (!trusted_nodes_.contains(account)) {
    return Refuse("not_a_node_proxy",
                  {Code::kPermissionDenied,
                   fmt::format("{} may not ask for another's identity: it is not a trusted node "
                               "account (--trusted-node-account)",
                               account)},
                  account);
  }
  const std::optional<tls::SpiffeParts> wanted = tls::ParseSpiffe(impersonated);
  if (!wanted) {
    return Refuse("bad_identity",
                  {Code::kInvalidArgument,
                   "ImpersonatedIdentity is not of the form spiffe://TRUST-DOMAIN/ns/NS/sa/SA"},
                  account);
  }
  if (wanted->trust_domain != world.mesh().trust_domain) {
    return Refuse(
        "foreign_trust_domain",
        {Code::kPermissionDenied, fmt::format("{} is of another trust domain than this mesh ({})",
                                              impersonated, world.mesh().trust_domain)},
        account);
  }
  // The node of the caller's own pod decides, never anything that the request says. Pods of the
  // host's network are never in the mesh, and often mighty: nobody needs their identity.
  for (const Pod* pod : world.PodsInNamespace(wanted->ns)) {
    if (pod->service_account == wanted->service_account && pod->node == caller.node &&
        !caller.node.empty() && !pod->terminal() && !pod->host_network) {
      return impersonated;
    }
  }
  return Refuse(
      "no_such_pod_on_node",
      {Code::kPermissionDenied, fmt::format("no pod on node {} runs as {}/{}", caller.node,
                                            wanted->ns, wanted->service_account)},
      account + " on " + caller.node);
}

PendingPtr CaService::CreateCertificate(std::string_view authorization, CertificateRequest request,
                                        Done done) {
  requests_.Add();
  return tokens_.Authenticate(
      authorization, clock_(),
      [this, request = std::move(request), done = std::move(done)](
          const Result<TokenClaims>& claims) { done(Answer(claims, request)); });
}

Result<std::vector<std::string>> CaService::Answer(const Result<TokenClaims>& claims,
                                                   const CertificateRequest& request) {
  const std::shared_ptr<const World> world = world_();
  const tls::Time now = clock_();
  const Result<Caller> caller =
      claims ? Identify(*claims, *world) : Result<Caller>(Fail(claims.error()));
  if (!caller) {
    not_authenticated_.Add();
    return Refuse(caller.error().code == Code::kUnavailable ? "unavailable" : "not_authenticated",
                  caller.error(), "");
  }
  const std::string who =
      fmt::format("{}/{} (pod {})", caller->ns, caller->service_account, caller->pod_name);
  QANAT_ASSIGN_OR_RETURN(const std::string identity, Grant(*caller, request.impersonated, *world));
  const Result<tls::Csr> csr = tls::ParseCsr(request.csr);
  if (!csr) {
    bad_requests_.Add();
    return Refuse("bad_csr", {Code::kInvalidArgument, csr.error().message}, who);
  }
  // Only the key of a request counts; but one that asks for other names than it gets is refused, so
  // that nobody believes to hold what it does not.
  const bool own_name =
      csr->sans.count() == 1 && csr->sans.uri.size() == 1 && csr->sans.uri.front() == identity;
  if (csr->sans.count() != 0 && !own_name) {
    return Refuse("csr_names",
                  {Code::kPermissionDenied,
                   fmt::format("the signing request names {}; the only name that this caller may "
                               "have is uri:{}",
                               csr->sans.ToString(), identity)},
                  who);
  }
  Result<std::vector<std::string>> chain = authority_.SignWorkload(
      csr->key, identity,
      std::chrono::seconds(std::clamp<int64_t>(request.validity_seconds, 0, 10LL * 365 * 86400)),
      now);
  if (!chain) return Refuse("signing", chain.error(), who);
  issued_.Add();
  LOG_DEBUG("ca", "certificate for {} issued to {}", identity, who);
  return chain;
}

}  // namespace qanat::controlplane
