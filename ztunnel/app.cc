// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/app.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <future>

#include "common/base/log.h"
#include "common/base/program.h"
#include "ztunnel/telemetry/runtime_metrics.h"

namespace qanat::ztunnel {
namespace {

constexpr auto kSweepInterval = std::chrono::minutes(1);

// What one pod may have by default, so that it cannot take all of the others' descriptors. A
// connection has one or two.
uint32_t ShareOfDescriptors() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<uint32_t>(std::clamp<rlim_t>(limit.rlim_cur / 4, 256, 1 << 20));
}

}  // namespace

App::App(event::EventLoop& loop, Config config, std::function<void()> stopped)
    : loop_(loop),
      stopped_(std::move(stopped)),
      metrics_(registry_),
      pool_metrics_(registry_),
      sweep_(loop_, [this] { SweepSeries(); }),
      look_at_saved_(loop_, [this] { LookAtSaved(); }),
      drain_poll_(loop, [this] { CheckDrained(); }) {
  environment_.mesh = {config.network, config.control_plane.cluster_id};
  environment_.config = std::move(config);
  if (environment_.config.max_pod_connections == 0) {
    environment_.config.max_pod_connections = ShareOfDescriptors();
  }
  environment_.descriptors = BoundDescriptors();
  environment_.metrics = &metrics_;
  environment_.pools = &pool_metrics_;
  environment_.access_log = &access_log_;
  environment_.post_main = [&loop,
                            alive = std::weak_ptr<bool>(alive_)](std::function<void()> task) {
    loop.Post([alive, task = std::move(task)] {
      if (!alive.expired()) task();
    });
  };
  environment_.want_certificate = [this](const model::Identity& identity) {
    environment_.post_main([this, identity] { WantCertificate(identity); });
  };
  environment_.renew_certificate = [this](const model::Identity& identity) {
    environment_.post_main([this, identity] { secrets_->Renew(identity); });
  };
  environment_.reread_addresses = [this](const std::string& uid) {
    environment_.post_main([this, uid] {
      if (pods_) pods_->RereadAddresses(uid);
    });
  };
  if (environment_.config.xds_on_demand && !environment_.config.control_plane.xds_address.empty()) {
    environment_.want_names = [this](std::vector<std::string> names) {
      environment_.post_main([this, names = std::move(names)] {
        if (on_demand_) on_demand_->Want(names);
      });
    };
  }
  registry_.AddProcessMetrics();
  registry_.AddCallback(
      metrics::Kind::kCounter, "qanat_access_log_dropped",
      "Lines of the access log, and others of workers, that were dropped because who reads the log "
      "was too slow or gone",
      [this] {
        return std::vector<metrics::Sample>{{{}, static_cast<double>(access_log_.dropped())}};
      });
  registry_.AddCallback(metrics::Kind::kCounter, "qanat_certificate_failures",
                        "Calls of the CA that failed, renewals among them", [this] {
                          const uint64_t failed = secrets_ ? secrets_->counters().failures : 0;
                          return std::vector<metrics::Sample>{{{}, static_cast<double>(failed)}};
                        });
  AddStateMetrics();
  sweep_.Start(kSweepInterval);
  snapshot_ = mesh_state_.Publish();
}

App::~App() {
  predecessor_.reset();
  successor_.reset();
  zds_.reset();
  on_demand_.reset();
  xds_.reset();
  if (!workers_.empty()) {
    std::promise<void> gone;
    workers_.front()->loop().Post([this, &gone] {
      readiness_server_.reset();
      gone.set_value();
    });
    gone.get_future().wait();
  }
  watchdog_.reset();  // it asks the loops, and liveness asked it
  for (auto& worker : workers_) worker->Stop();
  profiler_.reset();  // after the threads that its timers interrupt
}

Status App::Start() {
  const Config& config = environment_.config;
  for (unsigned i = 0; i < config.workers; ++i) {
    workers_.push_back(std::make_unique<Worker>(i, environment_));
  }
  AddLoopMetrics();
  StartWatchdog();
  StartMemory();
  QANAT_RETURN_IF_ERROR(StartAdmin());
  QANAT_RETURN_IF_ERROR(StartReadiness());

  ca_channel_ = std::make_unique<grpc::Channel>(loop_, config.control_plane.Ca());
  identity::CaOptions ca_options;
  ca_options.validity = config.secret_ttl;
  ca_options.tls12 = config.tls12;
  ca_options.impersonate = config.mode == Config::Mode::kShared;
  ca_options.post_quantum_only = config.post_quantum_only;
  ca_options.resumption = config.tls_resumption;
  ca_client_ = identity::MakeGrpcCaClient(*ca_channel_, ca_options);
  clock_ = identity::MakeClock(loop_);
  identity::SecretManager::Options secret_options;
  secret_options.root_grace = config.root_grace;
  secrets_ = std::make_unique<identity::SecretManager>(
      *clock_, *ca_client_,
      [this](const model::Identity& id, identity::CertificatePtr certificate) {
        OnCertificate(id, certificate);
      },
      secret_options);

  trust_ = std::make_unique<Trust>(
      loop_, config.crl_path, registry_,
      Trust::Hooks{[this](const tls::RevocationListPtr& lists) {
                     for (auto& worker : workers_) {
                       worker->loop().Post(
                           [raw = worker.get(), lists] { raw->SetRevocations(lists); });
                     }
                   },
                   [this](const model::Identity& id) { secrets_->Renew(id); }});
  trust_->Start();

  stock_.AddPassed(config.passed_fds);
  keeper_ = std::make_unique<ListenerKeeper>(loop_, config.notify_socket, [this] {
    if (pods_) pods_->KeepAll();
  });
  pods_ = std::make_unique<Pods>(
      loop_, environment_, workers_, stock_, *keeper_,
      [this] {
        PrefetchNames();
        RefreshCertificates();
        UpdateReadiness();
      },
      [this](const std::string& uid) {
        if (successor_) successor_->OnPodRemoved(uid);
      });
  AddTakeoverMetrics();
  if (config.mode == Config::Mode::kShared) {
    zds_ = std::make_unique<zds::Client>(loop_, config.inpod_uds, *pods_);
  }
  AddZdsMetrics();
  const bool restored = LoadSaved();
  if (!config.local_xds_path.empty() || !config.local_xds.empty()) {
    local_ = std::make_unique<LocalSource>(
        loop_, config.local_xds_path, config.local_xds, mesh_state_,
        [this](const std::vector<std::string>& names) { Publish({names.begin(), names.end()}); });
    QANAT_RETURN_IF_ERROR(local_->Start());
  }
  if (config.control_plane.xds_address.empty()) {
    StartPods();
  } else {
    StartXds();
    if (restored) StartPods();
  }
  LOG_INFO("app", "qanat-ztunnel {} on node \"{}\": {} workers, admin {}, metrics {}, readiness {}",
           QANAT_VERSION, config.node_name, config.workers, admin_address_.ToString(),
           metrics_address_.ToString(), readiness_address_.ToString());
  return {};
}

// Pods are taken over only when the mesh is known (stock ztunnel): until then an earlier proxy may
// still serve them, and nothing could be decided here. A saved state is knowledge enough.
void App::StartPods() {
  const Config& config = environment_.config;
  if (!draining_ && !std::exchange(pods_started_, true)) {
    if (config.takeover_socket.empty()) {
      ServePods();
    } else {
      successor_ = std::make_unique<Successor>(
          loop_, config.takeover_socket, environment_, workers_, [this] { return pods_->Up(); },
          [this] { pods_->KeepAll(); });
      predecessor_ = std::make_unique<Predecessor>(loop_, config.takeover_socket, stock_,
                                                   environment_, workers_,
                                                   Predecessor::Events{[this] { ServePods(); },
                                                                       [this] {
                                                                         taken_over_ = true;
                                                                         successor_->Listen();
                                                                         UpdateReadiness();
                                                                       }});
      predecessor_->Start();
    }
  }
  UpdateReadiness();
}

void App::ServePods() {
  const Config& config = environment_.config;
  if (draining_) return;
  pods_served_ = true;
  if (config.self_proxy()) {
    const Status status =
        pods_->AddSelf({config.pod_namespace, config.pod_name, config.service_account});
    if (!status) {
      LOG_WARN("app", "no HBONE for the proxy's own pod (metrics stay reachable plainly): {}",
               status.error().message);
    }
  }
  if (zds_) {
    zds_->Start();
  } else {
    pods_->AddDedicated(config.dedicated);
  }
  UpdateReadiness();
}

void App::AddTakeoverMetrics() {
  registry_.AddCallback(
      metrics::Kind::kCounter, "qanat_takeover_items",
      "Listeners of pods and connections that went from one process of the proxy to the next",
      [this] {
        std::vector<metrics::Sample> out;
        const auto add = [&out](const char* side, const takeover::SessionCounts& counts) {
          for (const auto& [result, value] : {std::pair{"moved", counts.moved},
                                              {"refused", counts.refused},
                                              {"withdrawn", counts.withdrawn}}) {
            out.push_back({{{"side", side}, {"result", result}}, static_cast<double>(value)});
          }
        };
        if (predecessor_) add("new", predecessor_->counts());
        if (successor_) add("old", successor_->counts());
        return out;
      });
}

void App::AddLoopMetrics() {
  AddRuntimeMetrics(registry_, [this] {
    RuntimeLoad load;
    for (const auto& pool : {pool_metrics_.direct(), pool_metrics_.inner()}) {
      const hbone::PoolStats stats = pool->Read();
      load.tasks += stats.tunnels + stats.dialing;
    }
    for (const auto& worker : workers_) {
      load.workers.push_back(worker->loop().load());
      load.tasks += worker->connections();
    }
    return load;
  });
}

void App::Publish(const std::vector<KeptText>& touched) {
  auto snapshot = mesh_state_.Publish();
  if (snapshot == snapshot_) return;
  snapshot_ = snapshot;
  PostSnapshot();
  NoteNodeWorkloads(touched);
  PrefetchNames();
  RefreshCertificates();
}

void App::PostSnapshot() {
  for (auto& worker : workers_) {
    worker->loop().Post([raw = worker.get(), snapshot = snapshot_] { raw->SetSnapshot(snapshot); });
  }
}

void App::SweepSeries() {
  sweep_.Start(kSweepInterval);
  std::vector<model::WorkloadPtr> here;
  if (pods_) {
    for (const auto& [uid, entry] : pods_->entries()) {
      auto found = route::IdentifyPod(*snapshot_, environment_.mesh, *entry.pod);
      if (found.workload != nullptr) here.push_back(std::move(found.workload));
    }
  }
  if (sweeper_.Sweep(*snapshot_, here, metrics_) == 0) return;
  for (auto& worker : workers_) {
    worker->loop().Post([raw = worker.get()] { raw->ForgetSeries(); });
  }
}

// ---- the end

void App::StartWatchdog() {
  std::vector<Watchdog::Watched> loops = {{"main", &loop_}};
  for (size_t i = 0; i < workers_.size(); ++i) {
    loops.push_back({fmt::format("worker-{}", i), &workers_[i]->loop()});
  }
  std::vector<event::EventLoop*> profiled;
  for (const auto& one : loops) profiled.push_back(one.loop);
  profiler_ = std::make_unique<profile::CpuProfiler>(loop_, std::move(profiled));
  watchdog_ = std::make_unique<Watchdog>(std::move(loops));
  registry_.AddCallback(metrics::Kind::kGauge, "qanat_stuck_threads",
                        "Event loops that have not turned for 10 s", [this] {
                          const size_t stuck = watchdog_ ? watchdog_->stuck_count() : 0;
                          return std::vector<metrics::Sample>{{{}, static_cast<double>(stuck)}};
                        });
}

void App::Drain() {
  if (draining_) return Finish();
  draining_ = true;
  LOG_INFO("app", "draining: no new connections, the others have {} ms",
           environment_.config.termination_deadline.count());
  pods_->Stop();
  if (saved_) saved_->Stop();
  // First: a process before this one that still lives takes the listeners up again.
  predecessor_.reset();
  if (successor_) successor_->Leave();
  UpdateReadiness();
  for (auto& worker : workers_) {
    worker->loop().Post([raw = worker.get(), kept = keeper_->present()] { raw->StartDrain(kept); });
  }
  drain_deadline_ = event::Clock::now() + environment_.config.termination_deadline;
  drain_poll_.Start(std::chrono::milliseconds(50));
}

void App::CheckDrained() {
  Gather<size_t>([](Worker& worker) { return worker.user_connections(); },
                 [this](std::vector<size_t> counts) {
                   size_t left = 0;
                   for (const size_t count : counts) left += count;
                   if (left == 0) return Finish();
                   if (event::Clock::now() >= drain_deadline_) {
                     LOG_WARN("app", "deadline: {} connections are closed", left);
                     return Finish();
                   }
                   drain_poll_.Start(std::chrono::milliseconds(50));
                 });
}

void App::Finish() {
  drain_poll_.Stop();
  Gather<int>(
      [](Worker& worker) {
        worker.CloseAll(model::Reason::kDraining);
        return 0;
      },
      [this](const std::vector<int>&) {
        if (auto stopped = std::exchange(stopped_, {})) stopped();
      });
}

}  // namespace qanat::ztunnel
