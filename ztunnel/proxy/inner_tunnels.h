// SPDX-License-Identifier: Apache-2.0
// Tunnels to another network: a stream of a pooled tunnel to that network's gateway carries a
// second TLS and HTTP/2 to the far end, which proves its own identity; the gateway sees ciphertext.
// The inner ones are pooled as the outer ones are (stock proxies make one per connection). Owned by
// a worker, on its loop.
#pragma once

#include <functional>

#include "common/hbone/pool.h"

namespace qanat::ztunnel {

// The Dial of the pool of inner tunnels: opens a stream on `outer`, then a handshake inside it.
// `prepare` is asked each time for the present certificate, `headers` for what the gateway is told.
// `outer` must outlive the result.
hbone::Dial MakeInnerDial(hbone::Pool& outer,
                          std::function<Result<hbone::DialPlan>(const hbone::PoolKey&)> prepare,
                          std::function<hbone::Headers(const hbone::PoolKey&)> headers);

}  // namespace qanat::ztunnel
