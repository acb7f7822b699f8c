// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/inner_tunnels.h"

#include <fmt/format.h>

namespace qanat::ztunnel {
namespace {

using Done = std::function<void(Result<net::TransportPtr>)>;

class InnerDial final : public event::Deferred {
 public:
  InnerDial(hbone::Pool& outer, const hbone::PoolKey& key, hbone::ConnectRequest request,
            std::function<Result<hbone::DialPlan>(const hbone::PoolKey&)> prepare, Done done)
      : key_(key), prepare_(std::move(prepare)), done_(std::move(done)) {
    hbone::PoolKey through = key;
    through.destination_identities = key.through_identities;
    through.through_authority.clear();
    through.through_identities.clear();
    pending_ = outer.Connect(through, std::move(request),
                             [this](auto result) { OnOuter(std::move(result)); });
  }

 private:
  void OnOuter(hbone::ClientSession::ConnectResult result) {
    const auto pending = std::move(pending_);
    if (!result) return done_(Fail(result.error().error.Annotate("network gateway")));
    if (result->status != 200 || result->stream == nullptr) {
      return done_(
          Fail(Code::kUnavailable, fmt::format("network gateway {}: http status: {}",
                                               key_.destination.ToString(), result->status)));
    }
    Result<hbone::DialPlan> plan = prepare_(key_);
    if (!plan) return done_(Fail(plan.error()));
    tls::HandshakeOptions options;
    options.role = tls::Role::kClient;
    options.peer.uris = key_.destination_identities;
    options.shared = plan->handshakes;
    handshake_ = std::make_unique<tls::TlsHandshake>(
        std::move(result->stream), plan->context, std::move(options),
        [this](Result<tls::TlsConnection> far) {
          if (!far) return done_(Fail(far.error().Annotate("through the network gateway")));
          done_(std::move(far->transport));
        });
  }

  const hbone::PoolKey key_;
  const std::function<Result<hbone::DialPlan>(const hbone::PoolKey&)> prepare_;
  const Done done_;
  std::unique_ptr<hbone::PendingConnect> pending_;
  std::unique_ptr<tls::TlsHandshake> handshake_;
};

}  // namespace

hbone::Dial MakeInnerDial(hbone::Pool& outer,
                          std::function<Result<hbone::DialPlan>(const hbone::PoolKey&)> prepare,
                          std::function<hbone::Headers(const hbone::PoolKey&)> headers) {
  return [&outer, prepare = std::move(prepare), headers = std::move(headers)](
             const hbone::PoolKey& key, Done done) -> std::unique_ptr<event::Deferred> {
    return std::make_unique<InnerDial>(outer, key,
                                       hbone::ConnectRequest{key.through_authority, headers(key)},
                                       prepare, std::move(done));
  };
}

}  // namespace qanat::ztunnel
