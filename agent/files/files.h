// SPDX-License-Identifier: Apache-2.0
// Small files read whole, and replaced so that a reader sees the old or the new one, never a part.
// Stateless; blocking for as long as the disk takes.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "common/base/result.h"

namespace qanat::agent {

struct WriteOptions {
  mode_t mode = 0600;
  bool durable = false;  // survives a power cut: fsync of the file and its folder
};

// By a temporary file (".NAME.new") in the same folder and rename. A symbolic link is replaced, not
// followed.
Status WriteFileAtomically(const std::string& path, std::string_view content,
                           const WriteOptions& options = {});

// kNotFound when there is none; kResourceExhausted when it is longer than `max`.
Result<std::string> ReadFile(const std::string& path, size_t max = 16 << 20);

// Removes the file; one that is not there is fine.
Status RemoveFile(const std::string& path);

}  // namespace qanat::agent
