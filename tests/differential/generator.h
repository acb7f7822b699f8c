// SPDX-License-Identifier: Apache-2.0
// Random policies, workloads and connections out of a small vocabulary, so that they meet: names
// that are prefixes of each other, blocks around the addresses used, and now and then a part that
// nobody can understand. The same seed gives the same world on every machine.
#pragma once

#include <string>
#include <vector>

#include "tests/differential/slow_model.h"

namespace qanat::differential {

class Random {  // splitmix64
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  size_t Below(size_t n) { return static_cast<size_t>(Next() % n); }
  bool OneIn(size_t n) { return Below(n) == 0; }
  template <typename T>
  const T& Of(const std::vector<T>& list) {
    return list[Below(list.size())];
  }

 private:
  uint64_t state_;
};

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  Random& random() { return random_; }
  Policy MakePolicy();
  Connection MakeConnection();
  std::string PolicyKey();                   // one that MakePolicy may have made
  std::vector<std::string> NamedPolicies();  // what a workload lists
  const std::string& Namespace();

 private:
  Match MakeMatch();
  Value MakeValue(int field);
  std::string Address();
  bool Odd() { return random_.OneIn(150) && guesses_left_ > 0 && guesses_left_-- > 0; }

  Random random_;
  int guesses_left_ = 0;  // in this policy: the slow model tries two to their power
};

std::string Encode(const Policy& policy, Random& random);  // istio.security.Authorization
// istio.workload.Address with a Workload.
std::string EncodeWorkload(const std::string& uid, const std::string& ns,
                           const std::vector<std::string>& policies);
std::string Describe(const Policy& policy);
std::string Describe(const Connection& connection);

}  // namespace qanat::differential
