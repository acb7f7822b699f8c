// SPDX-License-Identifier: Apache-2.0
// Whether what could go out now should wait a moment for company: two things in one record cost one
// system call, one packet and one wake-up of the other end. Company cannot be foreseen, so it is
// waited for where it came lately, and for longer and longer not at all where it did not. Pure.
#pragma once

#include <algorithm>
#include <chrono>

namespace qanat::hbone {

class Patience {
 public:
  static constexpr std::chrono::milliseconds kUsual{1};
  static constexpr unsigned kFirst = 16, kMost = 1024;  // not to wait so often after a wait in vain
  static constexpr unsigned kCredit = 4;                // waits in vain that good ones pay for

  // Whether to wait this time; who does says what came of it.
  bool Try() {
    if (skip_ == 0) return true;
    --skip_;
    return false;
  }
  void Found() {
    pause_ = kFirst;
    credit_ = std::min(credit_ + 1, kCredit);
  }
  void Alone() {
    if (credit_ > 0) {
      --credit_;
      return;
    }
    skip_ = pause_;
    pause_ = std::min(2 * pause_, kMost);
  }

 private:
  unsigned skip_ = kFirst;  // a new tunnel is not made slow before it is known
  unsigned pause_ = kFirst;
  unsigned credit_ = 0;
};

}  // namespace qanat::hbone
