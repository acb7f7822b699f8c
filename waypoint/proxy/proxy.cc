// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/proxy.h"

#include <fmt/format.h>

#include <utility>

namespace qanat::waypoint {

struct Proxy::Thread {
  explicit Thread(const std::string& name) : loop(name.c_str()) {}
  // The worker goes after its thread has ended and before its loop.
  ~Thread() { loop.Stop(); }
  event::LoopThread loop;
  std::unique_ptr<Worker> worker;
};

Proxy::Proxy(event::EventLoop& main, ProxySettings settings, metrics::Registry& registry)
    : main_(main), settings_(std::move(settings)), families_(registry) {}

Proxy::~Proxy() = default;

Result<net::SocketAddress> Proxy::Start() {
  net::SocketAddress bound = settings_.listen;
  for (int i = 0; i < std::max(1, settings_.workers); ++i) {
    net::ListenOptions options;
    options.address = bound;
    options.dual_stack = bound.ip().is_v6() && bound.ip().is_unspecified();
    options.reuse_port = true;
    auto listener = net::Listen(options);
    if (!listener) return Fail(listener.error().Annotate("waypoint listener"));
    QANAT_ASSIGN_OR_RETURN(bound, net::SocketAddress::OfLocal(listener->get()));
    auto thread = std::make_unique<Thread>(fmt::format("wp-worker-{}", i));
    Thread* t = thread.get();
    auto fd = std::make_shared<Fd>(std::move(*listener));
    t->loop.loop().Post([this, t, fd] {
      t->worker = std::make_unique<Worker>(t->loop.loop(), settings_, families_);
      t->worker->Listen(std::move(*fd));
    });
    threads_.push_back(std::move(thread));
  }
  return bound;
}

void Proxy::OnAll(std::function<void(Worker&)> task) {
  for (auto& thread : threads_) {
    thread->loop.loop().Post([t = thread.get(), task] { task(*t->worker); });
  }
}

void Proxy::SetSnapshot(SnapshotPtr snapshot) {
  OnAll([snapshot](Worker& w) { w.SetSnapshot(snapshot); });
}

void Proxy::SetCertificates(tls::TlsContextPtr server, tls::TlsContextPtr client) {
  OnAll([certificates = WorkerCertificates{std::move(server), std::move(client)}](Worker& w) {
    w.SetCertificates(certificates);
  });
}

void Proxy::Drain(std::function<void()> drained) {
  drained_ = std::move(drained);
  auto finish = [this] {
    if (auto done = std::exchange(drained_, nullptr)) done();
  };
  drain_timer_ = std::make_unique<event::Timer>(main_, finish);
  drain_timer_->Start(settings_.drain_timeout);
  auto left = std::make_shared<size_t>(threads_.size());
  OnAll([this, left, finish](Worker& w) {
    w.Drain([this, left, finish] {
      main_.Post([left, finish] {
        if (--*left == 0) finish();
      });
    });
  });
}

void Proxy::CollectStats(std::function<void(std::vector<WorkerStats>)> done) {
  struct Gather {
    std::vector<WorkerStats> stats;
    size_t left = 0;
  };
  auto gather = std::make_shared<Gather>();
  gather->left = threads_.size();
  auto shared_done =
      std::make_shared<std::function<void(std::vector<WorkerStats>)>>(std::move(done));
  event::EventLoop* main = &main_;
  OnAll([gather, shared_done, main](Worker& w) {
    auto stats = std::make_shared<WorkerStats>(w.Stats());
    main->Post([gather, shared_done, stats] {
      gather->stats.push_back(std::move(*stats));
      if (--gather->left == 0) (*shared_done)(std::move(gather->stats));
    });
  });
}

}  // namespace qanat::waypoint
