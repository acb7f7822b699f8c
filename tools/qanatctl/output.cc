// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/qanatctl/commands.h"
#include "tools/qanatctl/local/yaml.h"

namespace qanat::ctl {

int Complain(const Error& error) {
  std::fprintf(stderr, "qanatctl: %s\n", error.message.c_str());
  return kExitError;
}

void PrintData(const nlohmann::json& value, Output output) {
  if (output == Output::kYaml) {
    std::fputs(local::EmitYaml(value).c_str(), stdout);
    return;
  }
  std::fputs(value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str(), stdout);
  std::fputc('\n', stdout);
}

}  // namespace qanat::ctl
