// SPDX-License-Identifier: Apache-2.0
// How a series is called in metrics.
#pragma once

#include "agent/telemetry/series.h"
#include "common/metrics/registry.h"

namespace qanat::agent::telemetry {

inline metrics::LabelNames Names() {
  return {"reporter", "path", "source_principal", "destination_principal", "destination_service"};
}

inline metrics::LabelValues ValuesOf(const SeriesKey& key) {
  const auto known = [](const std::string& text) { return text.empty() ? "unknown" : text; };
  return {key.server ? "destination" : "source", std::string(ToString(key.path)), known(key.source),
          known(key.destination), known(key.service)};
}

}  // namespace qanat::agent::telemetry
