// SPDX-License-Identifier: Apache-2.0
// Endpoints that keep failing to be reached, as one client has seen it: five failures within half a
// minute without a success in between leave an endpoint out for a while, longer each time, up to
// five minutes. The first success forgets all of it. How much of a service may be left out is the
// picker's business (lb.h: at most half). What is closed at one port says nothing of another, and
// what one client cannot reach may be its own trouble (its certificate, its routes, a policy of the
// network): it is left out for that one only. Pure: the caller brings the time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace qanat::lb {

class Outliers {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::steady_clock::duration;

  static constexpr unsigned kFailures = 5;
  static constexpr Duration kWindow = std::chrono::seconds(30);
  static constexpr Duration kFirstEjection = std::chrono::seconds(30);
  static constexpr Duration kLongestEjection = std::chrono::minutes(5);
  static constexpr size_t kMaxEntries = 4096;

  // Of a workload's port, as this client (a pod) sees it.
  static std::string Key(std::string_view client, std::string_view uid, uint16_t port);
  static std::string EndpointKey(std::string_view uid, uint16_t port);  // for whichever client
  // One more failure of this endpoint. True: it is left out from now on.
  bool Failed(std::string_view key, TimePoint now);
  void Good(std::string_view key);
  bool Ejected(std::string_view key, TimePoint now) const;
  // The endpoint keys of all that are left out for that client.
  std::vector<std::string> AllEjected(std::string_view client, TimePoint now) const;
  // Nothing has failed lately: the usual case, in which nothing needs to be asked.
  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  struct Entry {
    unsigned failures = 0;  // since `since`
    TimePoint since;
    unsigned ejections = 0;
    TimePoint until;  // left out until then
  };
  void Forget(TimePoint now);

  std::unordered_map<std::string, Entry, Hash, std::equal_to<>> entries_;
};

}  // namespace qanat::lb
