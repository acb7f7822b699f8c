// SPDX-License-Identifier: Apache-2.0
// Cuts a watch stream into its lines: one JSON object each, in whatever pieces the network delivers
// them. A value owned by one watch. Thread: any one.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace qanat::kube {

class LineSplitter {
 public:
  explicit LineSplitter(size_t max_line) : max_line_(max_line) {}

  enum class Result { kOk, kStopped, kTooLong };
  // `line` is called per complete, non-empty line; it returns false when the splitter itself may be
  // gone, which ends the call at once.
  Result Add(std::string_view data, const std::function<bool(std::string_view)>& line) {
    while (!data.empty()) {
      const size_t end = data.find('\n');
      const std::string_view piece = data.substr(0, end);
      if (partial_.size() + piece.size() > max_line_) return Result::kTooLong;
      if (end == std::string_view::npos) {
        partial_.append(piece);
        break;
      }
      data.remove_prefix(end + 1);
      // The line must not depend on this object while the callback runs.
      std::string joined;
      std::string_view whole = piece;
      if (!partial_.empty()) {
        joined = std::move(partial_);
        partial_.clear();
        joined.append(piece);
        whole = joined;
      }
      if (!whole.empty() && whole.back() == '\r') whole.remove_suffix(1);
      if (!whole.empty() && !line(whole)) return Result::kStopped;
    }
    return Result::kOk;
  }
  bool in_line() const { return !partial_.empty(); }

 private:
  size_t max_line_;
  std::string partial_;
};

}  // namespace qanat::kube
