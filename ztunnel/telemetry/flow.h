// SPDX-License-Identifier: Apache-2.0
// A connection as telemetry sees it: the agent tells of those that no proxy carries in the same
// way.
#pragma once

#include "common/telemetry/flow.h"

namespace qanat::ztunnel {

using telemetry::AccessLine;
using telemetry::Copy;
using telemetry::Flow;
using telemetry::FlowEnd;
using telemetry::FlowLabelNames;
using telemetry::FlowLabels;
using telemetry::IsEarly;
using telemetry::LevelOf;
using telemetry::OpenedLine;
using telemetry::Reporter;
using telemetry::Share;
using telemetry::SharedIdentity;

}  // namespace qanat::ztunnel
