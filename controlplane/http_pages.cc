// SPDX-License-Identifier: Apache-2.0
#include "controlplane/http_pages.h"

#include <fmt/format.h>

#include <future>
#include <utility>

namespace qanat::controlplane {
namespace {

Result<net::SocketAddress> Bind(admin::Server& server, const std::string& where, const char* flag) {
  net::ListenOptions options;
  Result<net::SocketAddress> address = net::SocketAddress::Parse(where);
  if (!address) return Fail(address.error().Annotate(flag));
  options.address = *address;
  options.dual_stack = address->ip().is_v6() && address->ip().is_unspecified();
  Result<net::SocketAddress> bound = server.Listen(options);
  if (!bound) return Fail(bound.error().Annotate(fmt::format("{} {}", flag, where)));
  return bound;
}

}  // namespace

struct HttpPages::Servers {
  explicit Servers(event::EventLoop& loop) : pages(loop), metrics(loop) {}
  admin::Server pages;
  admin::Server metrics;
};

void HttpPages::Delete::operator()(Servers* servers) const {
  std::promise<void> gone;
  thread->loop().Post([&] {
    delete servers;
    gone.set_value();
  });
  gone.get_future().wait();
}

HttpPages::HttpPages(event::EventLoop& loop, HttpPagesOptions options)
    : loop_(loop), options_(std::move(options)) {}

HttpPages::~HttpPages() {
  servers_.reset();  // its pages post to the loop
  thread_.reset();
}

void HttpPages::AddDebugPage(std::string path, Page page) {
  debug_.emplace_back(std::move(path), std::move(page));
}

Status HttpPages::Start(const metrics::Registry& registry,
                        std::function<std::string()> why_not_ready) {
  thread_ = std::make_unique<event::LoopThread>("cp-http");
  std::promise<Status> started;
  thread_->loop().Post([&] { started.set_value(Listen(registry, why_not_ready)); });
  return started.get_future().get();
}

Status HttpPages::Listen(const metrics::Registry& registry,
                         const std::function<std::string()>& why_not_ready) {
  servers_ = {new Servers(thread_->loop()), Delete{thread_.get()}};
  servers_->pages.RouteDeferred(
      "GET", "/ready", [this, why_not_ready](const admin::Request&, admin::Responder responder) {
        if (ready_) return responder.Send(admin::Text(200, "ready\n"));
        loop_.Post([this, why_not_ready, responder]() mutable {
          std::string text = fmt::format("starting: waiting for {}\n", why_not_ready());
          thread_->loop().Post([text = std::move(text), responder]() mutable {
            responder.Send(admin::Text(503, std::move(text)));
          });
        });
      });
  for (const auto& [path, page] : debug_) Route(path, page);
  servers_->metrics.AddMetricsRoutes(registry);
  QANAT_ASSIGN_OR_RETURN(pages_address_, Bind(servers_->pages, options_.pages, "--http"));
  QANAT_ASSIGN_OR_RETURN(metrics_address_, Bind(servers_->metrics, options_.metrics, "--metrics"));
  return {};
}

// A page's content is made on the control plane's loop, everything else of it on the HTTP thread.
void HttpPages::Route(const std::string& path, const Page& page) {
  servers_->pages.RouteDeferred(
      "GET", path, [this, page](const admin::Request& request, admin::Responder responder) {
        if (!options_.debug_from_anywhere && !request.peer.ip().is_loopback()) {
          return responder.Send(admin::Text(
              403,
              "the /debug pages answer on loopback only: ask from the control plane's own "
              "network namespace, or start it with --debug-from-anywhere\n"));
        }
        loop_.Post([this, page, request, responder]() mutable {
          std::string body = page(request);
          thread_->loop().Post([body = std::move(body), responder]() mutable {
            responder.Send(admin::Json(200, std::move(body)));
          });
        });
      });
}

}  // namespace qanat::controlplane
