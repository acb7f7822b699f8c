// SPDX-License-Identifier: Apache-2.0
// node features: what each node's kernel has, and what serves instead of the rest.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/qanatctl/commands.h"
#include "tools/qanatctl/inspect/collect.h"
#include "tools/qanatctl/inspect/features.h"
#include "tools/qanatctl/json_util.h"
#include "tools/qanatctl/kube/cluster_view.h"

namespace qanat::ctl {

int CmdNodeFeatures(const Options& options) {
  auto view = OpenMesh(options);
  if (!view) return Complain(view.error());
  auto capture = AskNodes(*view, options.node, 15030, "/capture");
  if (!capture) return Complain(capture.error());
  Json out = Json::object();
  for (const NodeAnswer& answer : capture->answers)
    out[answer.node] = {{"kernel", Str(answer.json, "kernel")},
                        {"guard", Str(answer.json, "guard")},
                        {"features", answer.json.value("features", Json::object())}};
  if (options.output == Output::kTable) {
    fmt::print("{}", FeaturesTable(out));
  } else {
    PrintData(out, options.output);
  }
  return TellFailures(*capture) ? kExitOk : kExitError;
}

}  // namespace qanat::ctl
