// SPDX-License-Identifier: Apache-2.0
// What this kernel can, found out by trying, not by its version. 6.1 is the floor.
#pragma once

#include <string>
#include <vector>

#include "common/base/result.h"

namespace qanat::bpf {

struct Feature {
  std::string name;
  bool present = false;
  bool required = false;
  std::string why;  // what it is for, and since which kernel
};

std::vector<Feature> ProbeFeatures();
// An error that names every required feature that is missing.
Status CheckRequired(const std::vector<Feature>& features);

}  // namespace qanat::bpf
