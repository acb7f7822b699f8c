// SPDX-License-Identifier: Apache-2.0
// The inside of a reflector. Private to common/kube; on the client's loop.
#pragma once

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/grpc/backoff.h"
#include "common/kube/json_slice.h"
#include "common/kube/reflector.h"

namespace qanat::kube {

// The beginning of an object of this kind, up to its first member of its own.
std::string KindPrefix(const Resource& resource);

struct Reflector::Impl final : std::enable_shared_from_this<Reflector::Impl> {
  Impl(Client& client, Resource resource, ReflectorOptions options, ReflectorEvents events);
  void Start() { timer_.Start({}); }
  void Close();

  Client& client_;
  Resource resource_;
  Reflector::Status status_;

 private:
  struct Known {
    std::string uid, version;
    uint64_t list = 0;  // the LIST that saw it last
  };

  // LIST
  void List();
  void NextPage();
  void OnPage(Result<CallResponse> result);
  bool TakePage(std::string_view body, std::string& error);
  void Listed();
  void ListFailed(int http_status, const Error& error, bool missing);
  void Absent(const Error& error);
  // A path that is not served: by no version of the resource? (versions.cc)
  void AskVersions(const Error& error);
  void OnGroup(Result<CallResponse> result);
  void AskNextVersion();
  void OnVersion(const std::string& version, Result<CallResponse> result);
  void Follow(const std::string& version);
  void VersionsFailed(Error error);
  // WATCH
  void Watch();
  void OnLine(std::string_view line);
  void OnErrorEvent(std::string_view object);
  void OnWatchEnd(const WatchEnd& end);
  void Relist(const Error& error, bool at_once);
  // Both. False: closed by the user.
  bool Upsert(std::string_view object, ObjectMeta& meta);
  bool Gone(const std::string& key);
  void Report(const Error& error);
  std::chrono::milliseconds Pause(int http_status);  // after a failure; 0: no answer at all
  void Back();
  void Wait(bool list, std::chrono::milliseconds delay);

  const ReflectorOptions options_;
  const ReflectorEvents events_;
  const std::string wanted_version_;
  std::string prefix_;  // "kind" and "apiVersion" for objects that come without
  std::map<std::string, Known> known_;
  HandlePtr running_;
  HandlePtr listener_;        // the server is back
  bool unreachable_ = false;  // what is waited for
  event::Timer timer_;        // what is next after a pause: LIST or WATCH
  bool list_next_ = true;
  grpc::Backoff backoff_;
  std::minstd_rand random_{std::random_device{}()};
  Error missing_;                      // what the LIST was answered, while it is looked for why
  std::vector<std::string> versions_;  // of the group, to be looked at yet
  size_t page_;                        // less than was asked for where objects are huge
  event::TimePoint relist_at_{};
  std::string continue_;
  bool paging_ = true;  // off after pages have expired under us again and again
  int expired_pages_ = 0;
  uint64_t list_ = 0;  // number of the LIST under way
  std::string list_version_;
  event::TimePoint watch_since_{};
  uint64_t watch_events_ = 0;
  int watch_failures_ = 0;
  bool closed_ = false;
};

}  // namespace qanat::kube
