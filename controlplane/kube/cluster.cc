// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/cluster.h"

#include <utility>

#include "common/base/program.h"

namespace qanat::controlplane {

Cluster::Cluster(event::EventLoop& loop, kube::ClientConfig config, ClusterOptions options,
                 metrics::Registry& registry)
    : loop_(loop),
      options_(std::move(options)),
      registry_(registry),
      client_(loop, std::move(config)),
      source_(loop, client_),
      authenticator_(client_, [this] { source_.CatchUp(); }),
      leading_(registry.AddGauge("qanat_leading", "1 while this replica writes.").Get()) {}

Cluster::~Cluster() = default;

void Cluster::LoadAuthority(CaOptions options, CaSecretLoader::Done done,
                            std::function<void()> replaced) {
  loader_ =
      std::make_unique<CaSecretLoader>(loop_, client_, options_.ns, options_.ca_secret,
                                       std::move(options), std::move(done), std::move(replaced));
}

std::string Cluster::WaitingFor() const {
  std::string out = loader_ == nullptr || loader_->loaded() ? "" : loader_->problem();
  const std::string source = source_.WaitingFor();
  if (!out.empty() && !source.empty()) out += "; ";
  return out + source;
}

void Cluster::Lead(std::string root_pem, std::function<DutyState()> state) {
  Duties::Needs needs;
  needs.state = std::move(state);
  needs.observed = [this](std::string_view kind, const NamespacedName& key) {
    return source_.StatusOf(kind, key);
  };
  needs.kind_exists = [this](std::string_view kind) { return source_.KindExists(kind); };
  needs.may_write = [this] { return election_->leading(); };
  needs.root_pem = std::move(root_pem);
  needs.waypoint = options_.waypoint;
  source_.set_on_status([this] { Changed(); });
  LeaseOptions lease;
  lease.ns = options_.ns;
  lease.identity = options_.identity;
  lease.version = Version();
  election_ = std::make_unique<LeaderElection>(
      loop_, client_, std::move(lease), [this, needs = std::move(needs)](bool leading) {
        leading_.Set(leading ? 1 : 0);
        duties_ = leading ? std::make_unique<Duties>(loop_, client_, registry_, needs) : nullptr;
      });
}

void Cluster::Changed() {
  if (duties_ != nullptr) duties_->Changed();
}

std::vector<Issue> Cluster::issues() const {
  std::vector<Issue> out = duties_ == nullptr ? std::vector<Issue>() : duties_->issues();
  if (loader_ != nullptr && loader_->loaded() && !loader_->problem().empty()) {
    out.push_back(
        {Issue::Severity::kError, "", 0, "certificate authority", loader_->problem(), ""});
  }
  return out;
}

void Cluster::Release(std::function<void()> done) {
  if (election_ == nullptr) return done();
  election_->Release(std::move(done));
}

}  // namespace qanat::controlplane
