// SPDX-License-Identifier: Apache-2.0
#include "common/base/result.h"

#include <cerrno>
#include <cstring>

namespace qanat {

std::string_view CodeName(Code code) {
  switch (code) {
    case Code::kInvalidArgument: return "INVALID_ARGUMENT";
    case Code::kNotFound: return "NOT_FOUND";
    case Code::kAlreadyExists: return "ALREADY_EXISTS";
    case Code::kPermissionDenied: return "PERMISSION_DENIED";
    case Code::kUnauthenticated: return "UNAUTHENTICATED";
    case Code::kFailedPrecondition: return "FAILED_PRECONDITION";
    case Code::kUnavailable: return "UNAVAILABLE";
    case Code::kDeadlineExceeded: return "DEADLINE_EXCEEDED";
    case Code::kResourceExhausted: return "RESOURCE_EXHAUSTED";
    case Code::kCancelled: return "CANCELLED";
    case Code::kUnimplemented: return "UNIMPLEMENTED";
    case Code::kIo: return "IO";
    case Code::kInternal: return "INTERNAL";
  }
  return "UNKNOWN";
}

Error Error::Annotate(std::string_view outer) const {
  return Error{code, std::string(outer) + ": " + message, sys_errno};
}

std::string Error::ToString() const { return std::string(CodeName(code)) + ": " + message; }

tl::unexpected<Error> FailErrno(std::string_view what, int err) {
  Code code = Code::kIo;
  if (err == EMFILE || err == ENFILE || err == ENOMEM) code = Code::kResourceExhausted;
  if (err == ENOENT) code = Code::kNotFound;
  if (err == EACCES || err == EPERM) code = Code::kPermissionDenied;
  char buffer[128];
  const char* text = strerror_r(err, buffer, sizeof buffer);
  return tl::unexpected<Error>(Error{code, std::string(what) + ": " + text, err});
}

tl::unexpected<Error> FailErrno(std::string_view what) { return FailErrno(what, errno); }

}  // namespace qanat
