// SPDX-License-Identifier: Apache-2.0
// Sends what the leader wants to be written: so many a second, one at a time per object, the newest
// wish wins, failures are tried again with growing delay. Wishes come as whole sets, so that what
// is no longer wished for is forgotten. On the control plane's loop.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "common/event/event_loop.h"
#include "common/kube/client.h"
#include "common/metrics/registry.h"

namespace qanat::controlplane {

struct Write {
  kube::CallRequest request;
  // What it wants to achieve, without times and versions: two writes of one meaning are one wish. A
  // wish that was fulfilled and comes again (somebody undoes it) waits longer each time.
  std::string meaning;
  std::function<void()> done;  // after success; may be empty
};
using Writes = std::map<std::string, Write>;  // by object

struct WriterOptions {
  double per_second = 20;
  double burst = 40;
  size_t running = 8;
  std::chrono::milliseconds backoff_first{1000};
  std::chrono::milliseconds backoff_max{300000};
};

class Writer {
 public:
  // `may_write` is asked right before each write.
  Writer(event::EventLoop& loop, kube::Client& client, std::function<bool()> may_write,
         metrics::Registry& registry, WriterOptions options = {});

  // All that `owner` wishes for now; what it wished for before and is not in here is dropped.
  void Want(const std::string& owner, Writes writes);

  size_t waiting() const;

 private:
  struct Entry {
    Write write;
    bool wanted = true;    // the last Want() had it
    bool to_send = false;  // not sent yet, or to be sent again
    event::TimePoint sent_at{};
    event::TimePoint not_before{};
    std::chrono::milliseconds delay{0};  // before the next try of the same meaning
    kube::HandlePtr call;
    std::function<void()> sent_done;  // of the write in flight
    std::string sent_meaning;         // of the last write that was sent
  };
  using Key = std::pair<std::string, std::string>;  // owner, object
  void Pump();
  bool TakeToken();
  void Send(const Key& key, Entry& entry);
  void Answered(const Key& key, const Result<kube::CallResponse>& response);

  kube::Client& client_;
  const std::function<bool()> may_write_;
  const WriterOptions options_;
  std::map<Key, Entry> entries_;
  event::Timer timer_;
  double tokens_;
  event::TimePoint refilled_at_;
  std::map<std::string, std::string> last_error_;  // by owner, so that a flood is one line
  metrics::Family<metrics::Counter>& writes_;
};

}  // namespace qanat::controlplane
