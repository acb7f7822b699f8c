// SPDX-License-Identifier: Apache-2.0
// Private to common/kube: what is wrong with credentials that the API server has just rejected, and
// what to do. Reads the token's file, so it blocks for a moment. Thread: any.
#pragma once

#include <chrono>
#include <string>

#include "common/base/result.h"
#include "common/kube/config.h"

namespace qanat::kube {

// "the token of FILE expired at T; ...". Says the same for as long as nothing changes, so that who
// logs only news does not log it again.
std::string ExplainRejection(const ClientConfig& config, std::chrono::system_clock::time_point now);

// The error with that explanation, if it is about credentials.
Error WithCredentials(Error error, const ClientConfig& config);

}  // namespace qanat::kube
