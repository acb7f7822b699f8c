// SPDX-License-Identifier: Apache-2.0
// Small file helpers. Writes are atomic by rename, because others watch these files.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace qanat::local {

Result<std::string> ReadFile(const std::string& path);
// Writes `path` + a dotted temporary name in the same folder, then renames.
Status WriteFile(const std::string& path, std::string_view content, mode_t mode = 0644);
Status MakeDirs(const std::string& path, mode_t mode = 0755);
// Removes a tree; what is not there is fine.
Status RemoveTree(const std::string& path);
Status RemoveFile(const std::string& path);
std::vector<std::string> ListDir(const std::string& path);  // names; empty when unreadable
bool Exists(const std::string& path);

}  // namespace qanat::local
