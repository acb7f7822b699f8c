// SPDX-License-Identifier: Apache-2.0
// What the API server's refusals mean, in words with a remedy. Pure. Thread: any.
#pragma once

#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/kube/resource.h"

namespace qanat::kube {

// metav1.Status, as far as we use it.
struct ApiStatus {
  int code = 0;
  std::string reason;              // "NotFound", "Expired"
  std::string message;             // the server's words
  bool resource_missing = false;   // 404 of the path itself, not of an object: no such CRD
  bool version_too_large = false;  // the server is behind the resourceVersion asked for
};
// Nothing in it when `json` is not a Status.
ApiStatus ParseStatus(std::string_view json);

// The error of an answer with this HTTP status (400 and over) to this request.
Error ErrorOf(std::string_view method, std::string_view path, bool watch, int http_status,
              std::string_view body);
Code CodeOf(int http_status, std::string_view reason);

}  // namespace qanat::kube
