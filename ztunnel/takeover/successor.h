// SPDX-License-Identifier: Apache-2.0
// The old process's end of a take-over: waits for the process that comes after this one and gives
// it the listening sockets of all pods and the live connections that it takes. Listeners that were
// given are not used any more, but stay open: if that process ends before this one, this one goes
// on with them. Main thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/takeover/session.h"
#include "ztunnel/proxy/worker.h"

namespace qanat::ztunnel {

class Successor final : public takeover::Source {
 public:
  // `pods`: the uids of all pods that are up. `came_back`: the new process has gone, and this one
  // has the listeners again.
  Successor(event::EventLoop& loop, std::string path, const Environment& environment,
            std::vector<std::unique_ptr<Worker>>& workers,
            std::function<std::vector<std::string>()> pods, std::function<void()> came_back);
  ~Successor();

  void Listen();
  void OnPodRemoved(const std::string& uid);
  // This process ends: nothing is given any more, and nothing comes back.
  void Leave();
  const takeover::SessionCounts& counts() const { return counts_; }

 private:
  void List(takeover::Sort sort, std::function<void(std::vector<takeover::Offer>)> done) override;
  void Freeze(takeover::Sort sort, uint64_t key,
              std::function<void(std::optional<takeover::Parcel>)> done) override;
  void Thaw(takeover::Sort sort, uint64_t key) override;
  void Commit(takeover::Sort sort, uint64_t key, std::function<void(bool)> done) override;
  void OnConnection();
  void OnLost(const std::string& why);
  // On every worker; then `done` here.
  void OnAll(std::function<void(size_t index, Worker&)> work, std::function<void()> done);
  // On the worker of a connection.
  void OnOne(uint64_t key, std::function<void(ConnectionMover&, uint64_t number)> work,
             std::function<void()> done);

  event::EventLoop& loop_;
  const std::string path_;
  const Environment& environment_;
  std::vector<std::unique_ptr<Worker>>& workers_;
  std::function<std::vector<std::string>()> pods_;
  std::function<void()> came_back_;
  std::map<uint64_t, std::string> uids_;  // by key
  uint64_t next_key_ = 1;
  takeover::SessionCounts counts_;
  Fd listener_;
  std::unique_ptr<event::IoWatch> watch_;
  std::unique_ptr<takeover::GivingSession> session_;
  bool left_ = false;
};

}  // namespace qanat::ztunnel
