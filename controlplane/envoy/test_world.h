// SPDX-License-Identifier: Apache-2.0
// Worlds for tests, from the same YAML and through the same readers as in the product.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "controlplane/model/world.h"

namespace qanat::controlplane {

// Files by path from the top of the tree; `overlay` adds what a cluster would fill in. A file that
// cannot be read fails the test.
std::shared_ptr<const World> WorldOf(const std::vector<std::string>& files,
                                     const std::string& overlay = "");
std::shared_ptr<const World> WorldOfText(const std::vector<std::string>& texts);
std::shared_ptr<const World> ShopWorld();
// testdata/base.yaml and one more.
std::shared_ptr<const World> SmallWorld(const std::string& name);
std::string ReadTree(const std::string& path);

}  // namespace qanat::controlplane
