// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/attempts.h"

#include <algorithm>

namespace qanat::ztunnel {

using model::Reason;

bool Attempts::IsEndpointFailure(Reason reason) {
  return reason == Reason::kConnectFailed || reason == Reason::kConnectTimeout ||
         reason == Reason::kTlsFailure || reason == Reason::kHttp2Failure ||
         reason == Reason::kPeerIdentityMismatch || reason == Reason::kRefusedByPeer ||
         reason == Reason::kDnsFailure || reason == Reason::kCertificateRevoked;
}

bool Attempts::MayRetry(Reason reason, TimePoint now) const {
  return IsEndpointFailure(reason) && number() < kMaxTries && now < deadline_;
}

Attempts::Duration Attempts::ForThisTry(TimePoint now) const {
  const Duration left = std::max<Duration>(deadline_ - now, std::chrono::milliseconds(1));
  return left / (kMaxTries - std::min(number(), kMaxTries) + 1);
}

}  // namespace qanat::ztunnel
