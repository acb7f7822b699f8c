// SPDX-License-Identifier: Apache-2.0
// The control plane's HTTP side: /ready and /debug pages, /metrics, on a thread of its own. What a
// page says is made on the control plane's loop. Owned by App; lives on its loop.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "common/admin/server.h"
#include "common/event/event_loop.h"
#include "common/metrics/registry.h"

namespace qanat::controlplane {

struct HttpPagesOptions {
  std::string pages;
  std::string metrics;
  bool debug_from_anywhere = false;  // else the /debug pages answer loopback only
};

class HttpPages {
 public:
  using Page = std::function<std::string(const admin::Request&)>;  // on the control plane's loop

  HttpPages(event::EventLoop& loop, HttpPagesOptions options);
  ~HttpPages();

  void AddDebugPage(std::string path, Page page);  // before Start()
  // `why_not_ready` is asked on the control plane's loop while set_ready(true) has not been called.
  Status Start(const metrics::Registry& registry, std::function<std::string()> why_not_ready);
  void set_ready(bool ready) { ready_ = ready; }

  const net::SocketAddress& pages_address() const { return pages_address_; }
  const net::SocketAddress& metrics_address() const { return metrics_address_; }

 private:
  struct Servers;
  // The servers live and die on their thread.
  struct Delete {
    event::LoopThread* thread;
    void operator()(Servers* servers) const;
  };
  Status Listen(const metrics::Registry& registry,
                const std::function<std::string()>& why_not_ready);
  void Route(const std::string& path, const Page& page);

  event::EventLoop& loop_;
  const HttpPagesOptions options_;
  std::vector<std::pair<std::string, Page>> debug_;
  std::atomic<bool> ready_{false};
  net::SocketAddress pages_address_;
  net::SocketAddress metrics_address_;
  std::unique_ptr<event::LoopThread> thread_;
  std::unique_ptr<Servers, Delete> servers_{nullptr, Delete{nullptr}};
};

}  // namespace qanat::controlplane
