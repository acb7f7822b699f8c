// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/dialer.h"

#include <fmt/format.h>

#include "common/net/socket.h"

namespace qanat::waypoint {
namespace {

// One dial with its deadline. Holds whichever of the two ways it takes.
class DialAttempt : public Dialer::Attempt {
 public:
  DialAttempt(event::EventLoop& loop, std::chrono::milliseconds timeout, Dialer::Done done)
      : loop_(loop), done_(std::move(done)), timer_(loop, [this] { TimedOut(); }) {
    if (timeout.count() > 0) timer_.Start(timeout);
  }

  void StartPlain(const net::SocketAddress& to, std::chrono::milliseconds timeout) {
    net::ConnectOptions options;
    options.to = to;
    if (timeout.count() > 0) options.timeout = timeout;
    what_ = to.ToString();
    connector_ = std::make_unique<net::Connector>(loop_, options, [this](Result<Fd> fd) {
      if (!fd) return Finish(Fail(fd.error().Annotate(what_)));
      net::SetStreamOptions(fd->get());
      Finish(net::MakeSocketTransport(loop_, std::move(*fd)));
    });
  }

  void StartTunnel(hbone::Pool& pool, const hbone::PoolKey& key, hbone::ConnectRequest request) {
    what_ =
        fmt::format("{} through the tunnel to {}", request.authority, key.destination.ToString());
    pending_ = pool.Connect(key, std::move(request), [this](hbone::ClientSession::ConnectResult r) {
      if (!r) return Finish(Fail(r.error().error.Annotate(what_)));
      if (r->status != 200 || !r->stream) {
        // Stock ztunnel: 401 is its policy's no, 503 no such workload or nobody listening.
        Code code =
            r->status == 401 || r->status == 403 ? Code::kPermissionDenied : Code::kUnavailable;
        return Finish(
            Fail(code, fmt::format("{}: the receiving proxy answered {}{}", what_, r->status,
                                   r->status == 401 ? " (its policy refused)" : "")));
      }
      Finish(std::move(r->stream));
    });
  }

 private:
  void Finish(Result<net::TransportPtr> result) {
    timer_.Stop();
    // `done` may destroy this object.
    Dialer::Done done = std::move(done_);
    done_ = nullptr;
    if (done) done(std::move(result));
  }
  void TimedOut() {
    connector_.reset();
    pending_.reset();
    Finish(Fail(Code::kDeadlineExceeded, what_ + ": connect timeout"));
  }

  event::EventLoop& loop_;
  Dialer::Done done_;
  std::string what_;
  event::Timer timer_;
  std::unique_ptr<net::Connector> connector_;
  std::unique_ptr<hbone::PendingConnect> pending_;
};

std::string OwnBaggage(const ProxySettings& s) {
  std::string out;
  auto add = [&](std::string_view key, const std::string& value) {
    if (value.empty()) return;
    if (!out.empty()) out.push_back(',');
    out.append(key).append("=").append(value);
  };
  add("k8s.cluster.name", s.cluster_id);
  add("k8s.namespace.name", s.workload_namespace);
  add("k8s.deployment.name", s.workload_name);
  add("service.name", s.workload_name);
  return out;
}

}  // namespace

Dialer::Dialer(event::EventLoop& loop, const ProxySettings& settings,
               std::function<tls::TlsContextPtr()> client_context)
    : loop_(loop), settings_(settings), baggage_(OwnBaggage(settings)) {
  auto dial = hbone::MakeTlsDial(
      loop,
      [context = std::move(client_context)](const hbone::PoolKey&) -> Result<hbone::DialPlan> {
        hbone::DialPlan plan;
        plan.context = context();
        if (!plan.context) {
          return Fail(Code::kFailedPrecondition,
                      "no certificate for the waypoint's own identity yet; is the CA reachable?");
        }
        return plan;
      });
  pool_ = std::make_unique<hbone::Pool>(loop, hbone::PoolOptions{}, std::move(dial));
}

std::unique_ptr<Dialer::Attempt> Dialer::Dial(const Endpoint& endpoint,
                                              std::chrono::milliseconds timeout,
                                              const net::SocketAddress& for_client, Done done) {
  auto attempt = std::make_unique<DialAttempt>(loop_, timeout, std::move(done));
  if (!endpoint.hbone) {
    attempt->StartPlain(endpoint.address, timeout);
    return attempt;
  }
  hbone::PoolKey key;
  key.source_identity = settings_.identity;
  // Without an identity the list is empty, and the handshake refuses every server.
  if (!endpoint.identity.empty()) key.destination_identities = {endpoint.identity};
  key.destination = endpoint.tunnel;
  hbone::ConnectRequest request;
  request.authority = endpoint.address.ToString();
  if (!baggage_.empty()) request.headers.push_back({"baggage", baggage_});
  if (for_client.is_set()) {
    request.headers.push_back({"forwarded", fmt::format("for=\"{}\"", for_client.ToString())});
  }
  attempt->StartTunnel(*pool_, key, std::move(request));
  return attempt;
}

void Dialer::DrainTunnels() {
  pool_->Drain([](const hbone::PoolKey&) { return true; });
}

}  // namespace qanat::waypoint
