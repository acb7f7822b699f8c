// SPDX-License-Identifier: Apache-2.0
// The text of deploy/manifests and deploy/crds, built into the program that installs them. In the
// order of the file names. Thread: any.
#pragma once

#include <string_view>
#include <vector>

namespace qanat::deploy {

struct EmbeddedFile {
  std::string_view name;
  std::string_view text;
};

const std::vector<EmbeddedFile>& Manifests();  // templates: ${NAME} is replaced, see qanatctl
const std::vector<EmbeddedFile>& Crds();

}  // namespace qanat::deploy
