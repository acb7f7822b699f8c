// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/sandbox/sandbox.h"

#include "common/sandbox/filter.h"
#include "common/sandbox/privileges.h"
#include "ztunnel/sandbox/syscalls.h"

namespace qanat::ztunnel::sandbox {

Result<Options> ReadOptions(const GetEnvironment& get) {
  EnvironmentReader reader(get);
  Options options;
  if (const char* value = reader.Value("QANAT_SANDBOX")) {
    const std::string_view text = value;
    options.on = text == "on" || text == "true";
    if (!options.on && text != "off" && text != "false") reader.Bad("QANAT_SANDBOX", "on or off");
  }
  if (const char* value = reader.Value("QANAT_RUN_AS")) {
    if (const auto user = ParseUser(value)) {
      options.run_as = *user;
    } else {
      reader.Bad("QANAT_RUN_AS", "UID or UID:GID in numbers");
    }
  }
  QANAT_RETURN_IF_ERROR(reader.status());
  return options;
}

Status Start(const Options& options, log::Format format) {
  if (!options.on) {
    LOG_WARN("sandbox",
             "off (QANAT_SANDBOX): all rights and system calls that it was started with");
    return {};
  }
  if (options.run_as) {
    for (const std::string& folder : options.folders) {
      if (const Status lent = LendFolder(folder, *options.run_as); !lent) {
        LOG_WARN("sandbox", "{}", lent.error().message);
      }
    }
  }
  QANAT_RETURN_IF_ERROR(Enter(options.run_as, format));
  LOG_INFO("sandbox", "{}", Describe());
  return {};
}

Status Enter(const std::optional<User>& run_as, log::Format format) {
  QANAT_RETURN_IF_ERROR(DropPrivileges(run_as));
  QANAT_RETURN_IF_ERROR(qanat::sandbox::SealProcess());
  return qanat::sandbox::InstallFilter({OwnCalls()}, format);
}

}  // namespace qanat::ztunnel::sandbox
