// SPDX-License-Identifier: Apache-2.0
// The namespace in which users put policies for the whole mesh. An installation makes it where it
// is missing; it is the users' from then on, and goes with us only if nobody has put anything into
// it. Thread: any; blocks.
#pragma once

#include <string>
#include <vector>

#include "common/base/result.h"
#include "tools/qanatctl/install/api.h"
#include "tools/qanatctl/install/wait.h"

namespace qanat::ctl {

// Without our label, which would have it removed whatever is in it: an annotation says that we made
// it.
Status EnsureRootNamespace(const Api& api, const std::string& name, const Pace& pace);

// Deletes what was made so and holds nothing but what Kubernetes puts into every namespace; another
// one stays and no longer says that it is ours. Returns the goals of the deletions.
Result<std::vector<Goal>> RemoveRootNamespaces(const Api& api, const Pace& pace);

}  // namespace qanat::ctl
