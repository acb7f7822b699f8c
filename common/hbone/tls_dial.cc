// SPDX-License-Identifier: Apache-2.0
// The usual way to make a tunnel: TCP, then TLS that expects one of the key's identities.
#include "common/hbone/pool.h"

namespace qanat::hbone {

Dial MakeTlsDial(event::EventLoop& loop, std::function<Result<DialPlan>(const PoolKey&)> prepare,
                 std::chrono::milliseconds timeout) {
  // Says no, but not from inside of the call.
  struct Refusal : event::Deferred {
    Refusal(event::EventLoop& l, std::function<void()> call) : timer(l, std::move(call)) {
      timer.Start({});
    }
    event::Timer timer;
  };
  return
      [&loop, prepare = std::move(prepare), timeout](
          const PoolKey& key,
          std::function<void(Result<net::TransportPtr>)> done) -> std::unique_ptr<event::Deferred> {
        Result<DialPlan> plan = prepare(key);
        if (!plan) {
          return std::make_unique<Refusal>(
              loop, [done = std::move(done), error = plan.error()] { done(Fail(error)); });
        }
        plan->connect.to = key.destination;
        plan->connect.timeout = timeout;
        tls::HandshakeOptions options;
        options.role = tls::Role::kClient;
        options.peer.uris = key.destination_identities;
        options.timeout = timeout;
        options.shared = plan->handshakes;
        return std::make_unique<tls::TlsConnector>(
            loop, plan->connect, plan->context, std::move(options),
            [done = std::move(done)](Result<tls::TlsConnection> result) {
              if (!result) {
                done(Fail(result.error()));
              } else {
                done(std::move(result->transport));
              }
            });
      };
}

}  // namespace qanat::hbone
