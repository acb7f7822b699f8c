// SPDX-License-Identifier: Apache-2.0
// The local mode's reading of users' YAML: text to objects to a plan. Also emits it again: what was
// read must be readable.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "tools/qanatctl/local/plan.h"
#include "tools/qanatctl/local/yaml.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  using namespace qanat::local;
  FileObjects file = ParseObjects(text, "fuzz.yaml");
  Plan plan = MakePlan(file.objects, {2, true});
  (void)Schedule(plan, {});
  for (const Object& object : file.objects) {
    const std::string emitted = EmitYaml(*object.body);
    YamlStream again = ParseYaml(emitted);
    if (again.error) __builtin_trap();
  }
  return 0;
}
