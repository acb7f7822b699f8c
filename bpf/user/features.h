// SPDX-License-Identifier: Apache-2.0
// What this kernel can, found out by trying, not by its version. 6.1 is the floor. Stateless.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace qanat::bpf {

struct Feature {
  std::string name;
  bool present = false;
  bool required = false;
  std::string why;         // what it is for, and since which kernel
  bool forbidden = false;  // not present because we may not: the kernel may well have it
  std::string instead;     // what serves where it is missing; "" for what is required
};

// Needs the agent's rights. Tries what would touch a network in a namespace of its own.
std::vector<Feature> ProbeFeatures();
bool Has(const std::vector<Feature>& features, std::string_view name);
// An error that names every required feature that is missing, and apart from them those that the
// agent may not use, each with what to do about it. `kernel` as uname -r says it.
Status CheckRequired(const std::vector<Feature>& features, std::string_view kernel);
std::string KernelRelease();

}  // namespace qanat::bpf
