// SPDX-License-Identifier: Apache-2.0
// Errors as values. Result<T> is what every fallible function outside the per-byte data path
// returns; nothing in Qanat throws (main() catches what third parties throw).
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace qanat {

enum class Code {
  kInvalidArgument,     // the input is wrong and stays wrong
  kNotFound,            //
  kAlreadyExists,       //
  kPermissionDenied,    // the caller is known and may not
  kUnauthenticated,     // the caller is not known
  kFailedPrecondition,  // the system is not in the state for this; do something else first
  kUnavailable,         // try again later
  kDeadlineExceeded,    //
  kResourceExhausted,   // fds, memory, a budget
  kCancelled,           //
  kUnimplemented,       //
  kIo,                  // a system call failed; sys_errno says how
  kInternal,            // a bug of ours
};

std::string_view CodeName(Code code);

// The message says what failed, where, and what to do, for the person who reads the log.
struct Error {
  Code code = Code::kInternal;
  std::string message;
  int sys_errno = 0;  // 0 when no system call was involved

  // "outer: message", code and errno kept.
  Error Annotate(std::string_view outer) const;
  std::string ToString() const;  // "UNAVAILABLE: message"
};

template <typename T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

inline tl::unexpected<Error> Fail(Code code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message), 0});
}
inline tl::unexpected<Error> Fail(Error error) { return tl::unexpected<Error>(std::move(error)); }

// For a failed system call: "what: strerror(err)"; EMFILE and ENFILE become kResourceExhausted.
tl::unexpected<Error> FailErrno(std::string_view what, int err);
tl::unexpected<Error> FailErrno(std::string_view what);  // uses errno

}  // namespace qanat

#define QANAT_CONCAT_(a, b) a##b
#define QANAT_CONCAT(a, b) QANAT_CONCAT_(a, b)

#define QANAT_RETURN_IF_ERROR(expr)                              \
  do {                                                           \
    if (auto qanat_status_ = (expr); !qanat_status_)             \
      return ::tl::unexpected(std::move(qanat_status_).error()); \
  } while (false)

// QANAT_ASSIGN_OR_RETURN(auto x, F());
#define QANAT_ASSIGN_OR_RETURN(lhs, expr) \
  QANAT_ASSIGN_OR_RETURN_(QANAT_CONCAT(qanat_result_, __LINE__), lhs, expr)
#define QANAT_ASSIGN_OR_RETURN_(tmp, lhs, expr)              \
  auto tmp = (expr);                                         \
  if (!tmp) return ::tl::unexpected(std::move(tmp).error()); \
  lhs = std::move(*tmp)
