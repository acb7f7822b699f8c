// SPDX-License-Identifier: Apache-2.0
#include "controlplane/app.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <utility>

#include "common/base/log.h"
#include "common/metrics/registry.h"
#include "controlplane/ads/codec.h"
#include "controlplane/ads/grpc_server.h"
#include "controlplane/ads/hub.h"
#include "controlplane/ads/object_status.h"
#include "controlplane/ca/ca_service.h"
#include "controlplane/ca/jwks_authenticator.h"
#include "controlplane/debug/pages.h"
#include "controlplane/envoy/translate.h"
#include "controlplane/http_pages.h"
#include "controlplane/issue_log.h"
#include "controlplane/source/folder.h"

namespace qanat::controlplane {
namespace {

constexpr std::string_view kFolder = "folder:";

tls::Time WallClock() { return std::chrono::system_clock::now(); }

}  // namespace

class App::Impl final : public RpcService {
 public:
  explicit Impl(AppOptions options)
      : options_(std::move(options)),
        signals_(loop_, {SIGTERM, SIGINT}, [this](int) { Shutdown(); }),
        issues_(registry_),
        pages_(loop_, {options_.http, options_.metrics, options_.debug_from_anywhere}),
        triggers_(registry_.AddGauge("pilot_push_triggers", "Why configuration was sent again.",
                                     {"type"})),
        services_(registry_.AddGauge("pilot_services", "Services known.").Get()),
        virtual_services_(
            registry_.AddGauge("pilot_virt_services", "VirtualServices known.").Get()),
        workloads_(registry_.AddGauge("qanat_workloads", "Pods known.").Get()),
        push_time_(registry_
                       .AddHistogram("pilot_pushcontext_init_seconds",
                                     "Seconds to build and translate a new state.",
                                     {.01, .1, .5, 1, 3, 5})
                       .Get()) {
    registry_.AddProcessMetrics();
    registry_.AddGauge("istio_build", "Who this is.", {"component", "tag"})
        .With({"pilot", "qanat-" QANAT_VERSION})
        ->Set(1);
  }

  Status Start() {
    if (options_.source == "kubernetes") return StartCluster();
    if (options_.source.starts_with(kFolder) && options_.source.size() > kFolder.size()) {
      return StartFolder(options_.source.substr(kFolder.size()));
    }
    return Fail(Code::kInvalidArgument,
                fmt::format("--source {}: give folder:DIR (the folder that holds the YAML files) "
                            "or kubernetes",
                            options_.source));
  }

  int Run() {
    loop_.Run();
    pages_.set_ready(false);
    return exit_code_;
  }

  // --- RpcService ------------------------------------------------------------------------------
  std::unique_ptr<StreamHandler> OnAdsStream(const CallInfo& call, StreamWriter& writer) override {
    source_->CatchUp();
    return hub_->OnStream(call, writer);
  }

  PendingPtr OnCreateCertificate(const CallInfo& call, std::string_view bytes,
                                 Answer done) override {
    source_->CatchUp();
    Result<CertificateRequest> request = DecodeCertificateRequest(bytes);
    if (!request) {
      done(Fail(request.error()));
      return nullptr;
    }
    return ca_->CreateCertificate(
        call.authorization, std::move(*request),
        [done = std::move(done)](const Result<std::vector<std::string>>& chain) {
          done(chain ? EncodeCertificateResponse(*chain)
                     : Result<std::string>(Fail(chain.error())));
        });
  }

 private:
  // --- Starting --------------------------------------------------------------------------------
  Status StartFolder(const std::string& folder) {
    if (options_.ca.directory.empty() || options_.token_jwks.empty()) {
      return Fail(Code::kInvalidArgument, "--source folder:DIR needs --ca-dir and --token-jwks");
    }
    QANAT_ASSIGN_OR_RETURN(CertificateAuthority authority,
                           CertificateAuthority::OpenOrCreate(options_.ca, WallClock()));
    authority_ = std::make_unique<CertificateAuthority>(std::move(authority));
    jwks_ = std::make_unique<JwksAuthenticator>(options_.token_jwks);
    folder_ = std::make_unique<FolderSource>(loop_, folder, options_.overlay,
                                             options_.ca.directory + "/last-good");
    UseParts(*folder_, *jwks_);
    QANAT_RETURN_IF_ERROR(source_->Start([this] { OnSource(); }));
    // Before the pages: nobody sees a control plane that does not serve yet.
    QANAT_RETURN_IF_ERROR(Serve());
    return StartPages();
  }

  Status StartCluster() {
    QANAT_ASSIGN_OR_RETURN(kube::ClientConfig config,
                           kube::ClientConfig::Load(options_.kubeconfig));
    LOG_INFO("app", "API server {} ({})", config.server, config.origin);
    cluster_ = std::make_unique<Cluster>(loop_, std::move(config), options_.cluster, registry_);
    UseParts(cluster_->source(), cluster_->authenticator());
    QANAT_RETURN_IF_ERROR(StartPages());
    cluster_->LoadAuthority(
        options_.ca,
        [this](CertificateAuthority authority) {
          authority_ = std::make_unique<CertificateAuthority>(std::move(authority));
          ServeInCluster();
        },
        [this] {
          LOG_WARN("app", "ending, to be started again with the new certificate authority");
          Shutdown();
        });
    return source_->Start([this] { OnSource(); });
  }

  void UseParts(Source& source, Authenticator& authenticator) {
    source_ = &source;
    authenticator_ = &authenticator;
    hub_ = std::make_unique<AdsHub>(authenticator, BuildWaypoint, WallClock, registry_);
  }

  void ServeInCluster() {
    if (grpc_ != nullptr || authority_ == nullptr || !source_->synced()) return;
    if (const Status serving = Serve(); !serving) {
      LOG_ERROR("app", "cannot start: {}", serving.error().message);
      exit_code_ = 1;
      return loop_.Stop();
    }
    cluster_->Lead(authority_->root_pem(), [this] {
      return DutyState{hub_->snapshot()->world, ObjectStatuses(*hub_), issues_.issues()};
    });
  }

  // Nobody is served before the sources have been read: an empty mesh would be a lie.
  Status Serve() {
    ca_ = std::make_unique<CaService>(
        *authority_, *authenticator_, options_.trusted_nodes,
        [this] { return hub_->snapshot()->world; }, WallClock, registry_);
    LOG_INFO("app", "root certificate valid until {}",
             tls::FormatTime(authority_->root().not_after()));
    Rebuild("init");
    QANAT_RETURN_IF_ERROR(StartGrpc());
    pages_.set_ready(true);
    LOG_INFO("app", "serving on {} (port {})", options_.listen, grpc_->port());
    return {};
  }

  Status StartGrpc() {
    std::vector<std::string> dns = {"istiod.istio-system.svc",
                                    "qanat-controlplane.qanat-system.svc", "localhost"};
    std::vector<std::string> ips = {"127.0.0.1", "::1"};
    if (cluster_ != nullptr) {
      dns.push_back(fmt::format("qanat-controlplane.{}.svc", options_.cluster.ns));
    }
    for (const std::string& san : options_.sans) {
      if (const Result<net::IpAddress> ip = net::IpAddress::Parse(san)) {
        ips.push_back(ip->ToString());
      } else {
        dns.push_back(san);
      }
    }
    for (std::vector<std::string>* list : {&dns, &ips}) {
      std::sort(list->begin(), list->end());
      list->erase(std::unique(list->begin(), list->end()), list->end());
    }
    QANAT_ASSIGN_OR_RETURN(CertificateAuthority::Serving serving,
                           authority_->IssueServing(dns, ips, WallClock()));
    GrpcServerOptions options;
    options.listen = options_.listen;
    options.key_pem = std::move(serving.key_pem);
    options.chain_pem = std::move(serving.chain_pem);
    QANAT_ASSIGN_OR_RETURN(grpc_, GrpcServer::Start(loop_, *this, options));
    return {};
  }

  Status StartPages() {
    pages_.AddDebugPage("/debug/status", [this](const admin::Request&) {
      std::vector<Issue> issues = issues_.issues();
      if (cluster_ != nullptr) {
        for (Issue& issue : cluster_->issues()) issues.push_back(std::move(issue));
      }
      return StatusPage(*hub_, issues);
    });
    pages_.AddDebugPage("/debug/clients",
                        [this](const admin::Request&) { return ClientsPage(*hub_); });
    AddWorldPage("/debug/workloads", WorkloadsPage);
    AddWorldPage("/debug/services", ServicesPage);
    AddWorldPage("/debug/policies", PoliciesPage);
    pages_.AddDebugPage("/debug/waypoint", [this](const admin::Request& request) {
      const std::string gateway = request.Parameter("gateway").value_or("");
      const size_t slash = gateway.find('/');
      return WaypointPage(*hub_,
                          slash == std::string::npos
                              ? WaypointKey{"default", gateway}
                              : WaypointKey{gateway.substr(0, slash), gateway.substr(slash + 1)});
    });
    QANAT_RETURN_IF_ERROR(pages_.Start(registry_, [this]() -> std::string {
      return cluster_ == nullptr ? "the sources" : cluster_->WaitingFor();
    }));
    LOG_INFO("app", "pages on {}, metrics on {}", pages_.pages_address().ToString(),
             pages_.metrics_address().ToString());
    return {};
  }

  void AddWorldPage(const char* path, std::string (*page)(const World&)) {
    pages_.AddDebugPage(path, [this, page](const admin::Request&) {
      return hub_->snapshot() == nullptr ? std::string("{}\n") : page(*hub_->snapshot()->world);
    });
  }

  // --- Running ---------------------------------------------------------------------------------
  void OnSource() {
    if (grpc_ != nullptr) return Rebuild("config");
    issues_.Report(source_->Snapshot().issues);
    ServeInCluster();
  }

  void Rebuild(const char* trigger) {
    const event::TimePoint began = event::Clock::now();
    SourceSnapshot now = source_->Snapshot();
    std::shared_ptr<const World> world = World::Build(std::move(now.objects), options_.mesh);
    const std::shared_ptr<const ConfigSnapshot> snapshot =
        BuildSnapshot(std::move(world), ++generation_);
    const std::chrono::duration<double> took = event::Clock::now() - began;
    issues_.Report(std::move(now.issues));
    const Objects& objects = snapshot->world->objects();
    services_.Set(static_cast<int64_t>(objects.services.size()));
    virtual_services_.Set(static_cast<int64_t>(objects.virtual_services.size()));
    workloads_.Set(static_cast<int64_t>(objects.pods.size()));
    triggers_.With({trigger})->Add();
    push_time_.Observe(took.count());
    LOG_DEBUG("app", "state {} ({}) in {:.1f} ms", generation_, trigger, took.count() * 1e3);
    hub_->Publish(snapshot, began);
    if (cluster_ != nullptr) cluster_->Changed();
  }

  void Shutdown() {
    LOG_INFO("app", "shutting down");
    if (cluster_ == nullptr) return loop_.Stop();
    cluster_->Release([this] { loop_.Stop(); });
  }

  const AppOptions options_;
  event::EventLoop loop_;
  event::SignalWatch signals_;
  metrics::Registry registry_;
  IssueLog issues_;
  // Of a folder, or of a cluster.
  std::unique_ptr<JwksAuthenticator> jwks_;
  std::unique_ptr<FolderSource> folder_;
  std::unique_ptr<Cluster> cluster_;
  Source* source_ = nullptr;
  Authenticator* authenticator_ = nullptr;

  std::unique_ptr<AdsHub> hub_;
  std::unique_ptr<CertificateAuthority> authority_;
  std::unique_ptr<CaService> ca_;
  uint64_t generation_ = 0;
  int exit_code_ = 0;
  std::unique_ptr<GrpcServer> grpc_;
  HttpPages pages_;  // ends first: its pages post to the loop
  metrics::Family<metrics::Gauge>& triggers_;
  metrics::Gauge& services_;
  metrics::Gauge& virtual_services_;
  metrics::Gauge& workloads_;
  metrics::Histogram& push_time_;
};

App::App(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
App::~App() = default;

Result<std::unique_ptr<App>> App::Create(AppOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  QANAT_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<App>(new App(std::move(impl)));
}

int App::Run() { return impl_->Run(); }

}  // namespace qanat::controlplane
