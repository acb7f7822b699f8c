// SPDX-License-Identifier: Apache-2.0
// Looks for private keys in what a program has said, in whatever dress: as they are, as hex, as
// base64 wherever in it they begin, broken into lines, quoted, and in base64 of any of these (as
// /config_dump wraps PEM).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qanat::ztunnel::test {

// The text as it is, without what breaks lines and separates bytes, and what either is base64 of.
std::string Undressed(std::string_view text);

class KeySearch {
 public:
  explicit KeySearch(const std::vector<std::string>& scalars);  // P-256, big endian
  // How the first one that is found was dressed; "" where there is none. PEM with a private key is
  // one too, whosever it is.
  std::string Find(std::string_view text) const;

 private:
  struct Form {
    std::string name, bytes;
  };
  std::vector<Form> forms_;
};

}  // namespace qanat::ztunnel::test
