// SPDX-License-Identifier: Apache-2.0
// Aligned text tables. Pure.
#pragma once

#include <string>
#include <vector>

namespace qanat::ctl {

class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  bool empty() const { return rows_.size() == 1; }
  // Columns two spaces apart, no trailing spaces; an empty cell is shown as "-".
  std::string ToString() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// Terminal colours; all empty when standard output is not a terminal or NO_COLOR is set.
struct Colors {
  std::string bold, dim, red, green, yellow, plain;
  static Colors ForStdout();
};

}  // namespace qanat::ctl
