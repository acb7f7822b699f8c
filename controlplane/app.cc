// SPDX-License-Identifier: Apache-2.0
#include "controlplane/app.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <utility>

#include "common/admin/server.h"
#include "common/base/log.h"
#include "common/event/event_loop.h"
#include "common/metrics/registry.h"
#include "controlplane/ads/codec.h"
#include "controlplane/ads/grpc_server.h"
#include "controlplane/ads/hub.h"
#include "controlplane/ca/ca_service.h"
#include "controlplane/debug/pages.h"
#include "controlplane/envoy/translate.h"
#include "controlplane/source/folder.h"

namespace qanat::controlplane {
namespace {

using Page = std::function<std::string(const admin::Request&)>;

tls::Time WallClock() { return std::chrono::system_clock::now(); }

Result<std::string> FolderOf(const std::string& source) {
  constexpr std::string_view kPrefix = "folder:";
  if (source.starts_with(kPrefix) && source.size() > kPrefix.size()) {
    return source.substr(kPrefix.size());
  }
  return Fail(
      Code::kInvalidArgument,
      fmt::format("--source {}: give folder:DIR (the folder that holds the YAML files)", source));
}

}  // namespace

class App::Impl final : public RpcService {
 public:
  explicit Impl(AppOptions options)
      : options_(std::move(options)),
        signals_(loop_, {SIGTERM, SIGINT},
                 [this](int) {
                   LOG_INFO("app", "shutting down");
                   loop_.Stop();
                 }),
        tokens_(options_.token_jwks),
        hub_(tokens_, BuildWaypoint, WallClock, registry_),
        triggers_(registry_.AddGauge("pilot_push_triggers", "Why configuration was sent again.",
                                     {"type"})),
        services_(registry_.AddGauge("pilot_services", "Services known.").Get()),
        virtual_services_(
            registry_.AddGauge("pilot_virt_services", "VirtualServices known.").Get()),
        workloads_(registry_.AddGauge("qanat_workloads", "Pods known.").Get()),
        issues_gauge_(registry_.AddGauge("qanat_source_issues",
                                         "Problems in the sources, by severity.", {"severity"})),
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

  ~Impl() {
    http_.reset();  // its pages post to the loop
    grpc_.reset();
    http_thread_.reset();
  }

  Status Start() {
    QANAT_ASSIGN_OR_RETURN(const std::string folder, FolderOf(options_.source));
    QANAT_ASSIGN_OR_RETURN(CertificateAuthority authority,
                           CertificateAuthority::OpenOrCreate(options_.ca, WallClock()));
    authority_ = std::make_unique<CertificateAuthority>(std::move(authority));
    ca_ = std::make_unique<CaService>(
        *authority_, tokens_, options_.trusted_nodes, [this] { return hub_.snapshot()->world; },
        WallClock, registry_);
    LOG_INFO("app", "root certificate of {} valid until {}", options_.ca.directory,
             tls::FormatTime(authority_->root().not_after()));
    source_ = std::make_unique<FolderSource>(loop_, folder, options_.overlay,
                                             options_.ca.directory + "/last-good");
    QANAT_RETURN_IF_ERROR(source_->Start([this] { Rebuild("config"); }));
    // Nobody is served before the sources have been read: an empty mesh would be a lie.
    Rebuild("init");
    QANAT_RETURN_IF_ERROR(StartHttp());
    QANAT_RETURN_IF_ERROR(StartGrpc());
    ready_ = true;
    LOG_INFO("app", "serving on {} (port {}), pages on {}, metrics on {}", options_.listen,
             grpc_->port(), pages_address_.ToString(), metrics_address_.ToString());
    return {};
  }

  int Run() {
    loop_.Run();
    ready_ = false;
    return 0;
  }

  // --- RpcService ------------------------------------------------------------------------------
  std::unique_ptr<StreamHandler> OnAdsStream(const CallInfo& call, StreamWriter& writer) override {
    source_->CatchUp();
    return hub_.OnStream(call, writer);
  }

  Result<std::string> OnCreateCertificate(const CallInfo& call, std::string_view bytes) override {
    source_->CatchUp();
    QANAT_ASSIGN_OR_RETURN(const CertificateRequest request, DecodeCertificateRequest(bytes));
    QANAT_ASSIGN_OR_RETURN(const std::vector<std::string> chain,
                           ca_->CreateCertificate(call.authorization, request));
    return EncodeCertificateResponse(chain);
  }

 private:
  void Rebuild(const char* trigger) {
    const event::TimePoint began = event::Clock::now();
    SourceSnapshot now = source_->Snapshot();
    std::shared_ptr<const World> world = World::Build(std::move(now.objects), options_.mesh);
    const std::shared_ptr<const ConfigSnapshot> snapshot =
        BuildSnapshot(std::move(world), ++generation_);
    const std::chrono::duration<double> took = event::Clock::now() - began;
    ReportIssues(std::move(now.issues));
    services_.Set(static_cast<int64_t>(snapshot->world->objects().services.size()));
    virtual_services_.Set(static_cast<int64_t>(snapshot->world->objects().virtual_services.size()));
    workloads_.Set(static_cast<int64_t>(snapshot->world->objects().pods.size()));
    triggers_.With({trigger})->Add();
    push_time_.Observe(took.count());
    LOG_DEBUG("app", "state {} ({}) in {:.1f} ms", generation_, trigger, took.count() * 1e3);
    hub_.Publish(snapshot, began);
  }

  // Each problem is logged when it appears and once more when it is gone.
  void ReportIssues(std::vector<Issue> issues) {
    const std::set<Issue> now(issues.begin(), issues.end());
    const std::set<Issue> before(issues_.begin(), issues_.end());
    int64_t errors = 0;
    for (const Issue& issue : now) {
      const bool error = issue.severity == Issue::Severity::kError;
      errors += error ? 1 : 0;
      if (before.contains(issue)) continue;
      const std::string text =
          fmt::format("{}:{}: {}{}{}{}{}", issue.file, issue.line, issue.object,
                      issue.object.empty() ? "" : ": ", issue.message,
                      issue.remedy.empty() ? "" : " - ", issue.remedy);
      if (error) {
        LOG_ERROR("source", "{}", text);
      } else {
        LOG_WARN("source", "{}", text);
      }
    }
    for (const Issue& issue : before) {
      if (!now.contains(issue)) {
        LOG_INFO("source", "{}:{}: no longer: {}", issue.file, issue.line, issue.message);
      }
    }
    issues_gauge_.With({"error"})->Set(errors);
    issues_gauge_.With({"warning"})->Set(static_cast<int64_t>(now.size()) - errors);
    issues_ = std::move(issues);
  }

  Status StartGrpc() {
    std::vector<std::string> dns = {"istiod.istio-system.svc",
                                    "qanat-controlplane.qanat-system.svc", "localhost"};
    std::vector<std::string> ips = {"127.0.0.1", "::1"};
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
    QANAT_ASSIGN_OR_RETURN(grpc_, GrpcServer::Start(loop_, *this, std::move(options)));
    return {};
  }

  // A page's content is made on the control plane's loop, everything else of it on the HTTP thread.
  void AddPage(admin::Server& server, const std::string& path, Page page) {
    server.RouteDeferred(
        "GET", path, [this, page](const admin::Request& request, admin::Responder responder) {
          if (!options_.debug_from_anywhere && !request.peer.ip().is_loopback()) {
            return responder.Send(admin::Text(
                403,
                "the /debug pages answer on loopback only: ask from the control plane's own "
                "network namespace, or start it with --debug-from-anywhere\n"));
          }
          loop_.Post([this, page, request, responder]() mutable {
            std::string body = page(request);
            http_thread_->loop().Post([body = std::move(body), responder]() mutable {
              responder.Send(admin::Json(200, std::move(body)));
            });
          });
        });
  }

  Status StartHttp() {
    http_thread_ = std::make_unique<event::LoopThread>("cp-http");
    std::promise<Status> started;
    http_thread_->loop().Post([&] { started.set_value(ListenHttp()); });
    return started.get_future().get();
  }

  Status ListenHttp() {  // on the HTTP thread
    http_ = {new HttpServers(http_thread_->loop()), HttpDelete{http_thread_.get()}};
    admin::Server& pages = http_->pages;
    pages.Route("GET", "/ready", [this](const admin::Request&) {
      return ready_ ? admin::Text(200, "ready\n") : admin::Text(503, "starting\n");
    });
    AddPage(pages, "/debug/status",
            [this](const admin::Request&) { return StatusPage(hub_, issues_); });
    AddPage(pages, "/debug/clients", [this](const admin::Request&) { return ClientsPage(hub_); });
    AddPage(pages, "/debug/workloads",
            [this](const admin::Request&) { return WorkloadsPage(*hub_.snapshot()->world); });
    AddPage(pages, "/debug/services",
            [this](const admin::Request&) { return ServicesPage(*hub_.snapshot()->world); });
    AddPage(pages, "/debug/policies",
            [this](const admin::Request&) { return PoliciesPage(*hub_.snapshot()->world); });
    AddPage(pages, "/debug/waypoint", [this](const admin::Request& request) {
      const std::string gateway = request.Parameter("gateway").value_or("");
      const size_t slash = gateway.find('/');
      return WaypointPage(hub_,
                          slash == std::string::npos
                              ? WaypointKey{"default", gateway}
                              : WaypointKey{gateway.substr(0, slash), gateway.substr(slash + 1)});
    });
    http_->metrics.AddMetricsRoutes(registry_);
    QANAT_ASSIGN_OR_RETURN(pages_address_, Listen(pages, options_.http, "--http"));
    QANAT_ASSIGN_OR_RETURN(metrics_address_, Listen(http_->metrics, options_.metrics, "--metrics"));
    return {};
  }

  static Result<net::SocketAddress> Listen(admin::Server& server, const std::string& where,
                                           const char* flag) {
    net::ListenOptions options;
    Result<net::SocketAddress> address = net::SocketAddress::Parse(where);
    if (!address) return Fail(address.error().Annotate(flag));
    options.address = *address;
    options.dual_stack = address->ip().is_v6() && address->ip().is_unspecified();
    Result<net::SocketAddress> bound = server.Listen(options);
    if (!bound) return Fail(bound.error().Annotate(fmt::format("{} {}", flag, where)));
    return bound;
  }

  struct HttpServers {
    explicit HttpServers(event::EventLoop& loop) : pages(loop), metrics(loop) {}
    admin::Server pages;
    admin::Server metrics;
  };
  // The servers live and die on their thread.
  struct HttpDelete {
    event::LoopThread* thread;
    void operator()(HttpServers* servers) const {
      std::promise<void> gone;
      thread->loop().Post([&] {
        delete servers;
        gone.set_value();
      });
      gone.get_future().wait();
    }
  };

  const AppOptions options_;
  event::EventLoop loop_;
  event::SignalWatch signals_;
  metrics::Registry registry_;
  TokenAuthenticator tokens_;
  AdsHub hub_;
  std::unique_ptr<CertificateAuthority> authority_;
  std::unique_ptr<CaService> ca_;
  std::unique_ptr<FolderSource> source_;
  std::vector<Issue> issues_;
  uint64_t generation_ = 0;
  std::atomic<bool> ready_{false};
  net::SocketAddress pages_address_;
  net::SocketAddress metrics_address_;
  metrics::Family<metrics::Gauge>& triggers_;
  metrics::Gauge& services_;
  metrics::Gauge& virtual_services_;
  metrics::Gauge& workloads_;
  metrics::Family<metrics::Gauge>& issues_gauge_;
  metrics::Histogram& push_time_;
  std::unique_ptr<event::LoopThread> http_thread_;
  std::unique_ptr<HttpServers, HttpDelete> http_{nullptr, HttpDelete{nullptr}};
  std::unique_ptr<GrpcServer> grpc_;
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
