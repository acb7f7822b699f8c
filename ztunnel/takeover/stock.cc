// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/takeover/stock.h"

#include <iterator>

#include "common/base/log.h"

namespace qanat::ztunnel {
namespace {

constexpr std::string_view kPrefix = "qanat-";
constexpr auto kAnswerTime = std::chrono::seconds(1);

}  // namespace

void ListenerStock::Add(const std::string& uid, Listeners listeners, Done done) {
  Entry& entry = pods_[uid];
  std::move(listeners.begin(), listeners.end(), std::back_inserter(entry.listeners));
  if (done) entry.done.push_back(std::move(done));
}

void ListenerStock::AddPassed(const std::vector<takeover::PassedFd>& passed) {
  for (const takeover::PassedFd& one : passed) {
    AddNamed(one.name, takeover::TakePassed(one), [](const std::string&) { return true; });
  }
}

void ListenerStock::AddKept(std::vector<takeover::Supervisor::Named> kept,
                            const std::function<bool(const std::string& uid)>& wanted) {
  for (auto& [name, fd] : kept) AddNamed(name, std::move(fd), wanted);
}

void ListenerStock::AddNamed(std::string_view name, Fd fd,
                             const std::function<bool(const std::string& uid)>& wanted) {
  const size_t dash = name.rfind('-');
  const auto role = name.starts_with(kPrefix) && dash > kPrefix.size()
                        ? RoleOf(name.substr(dash + 1))
                        : std::nullopt;
  if (!fd || !role) {
    LOG_WARN("takeover", "the supervisor passed \"{}\", which is nothing of ours; closed", name);
    return;
  }
  const std::string uid(name.substr(kPrefix.size(), dash - kPrefix.size()));
  if (!wanted(uid)) return;
  Listeners listeners;
  listeners.push_back({*role, std::move(fd)});
  Add(uid, std::move(listeners));
}

Listeners ListenerStock::Take(const std::string& uid) {
  const auto it = pods_.find(uid);
  if (it == pods_.end()) return {};
  return std::exchange(it->second.listeners, {});
}

void ListenerStock::Settle(const std::string& uid, const Status& status) {
  const auto it = pods_.find(uid);
  if (it == pods_.end()) return;
  const Entry entry = std::move(it->second);
  pods_.erase(it);
  for (const Done& done : entry.done) done(status);
}

std::vector<std::string> ListenerStock::Clear(const std::string& why) {
  std::vector<std::string> whose;
  for (const auto& [uid, entry] : pods_) whose.push_back(uid);
  for (const std::string& uid : whose) Settle(uid, Fail(Code::kNotFound, why));
  return whose;
}

std::string ListenerKeeper::Name(const std::string& uid, Role role) {
  return std::string(kPrefix).append(uid).append("-").append(RoleName(role));
}

void ListenerKeeper::Keep(const std::string& uid, const std::vector<Listeners>& sets) {
  if (!present()) return;
  for (const Role role : kRoles) {
    std::vector<int> fds;
    for (const Listeners& set : sets) {
      for (const Listening& one : set) {
        if (one.role == role) fds.push_back(one.fd.get());
      }
    }
    Say(supervisor_.Keep(Name(uid, role), fds));
  }
}

// Also while it is away: then it is owed.
void ListenerKeeper::Forget(const std::string& uid) {
  for (const Role role : kRoles) Say(supervisor_.Forget(Name(uid, role)));
}

void ListenerKeeper::Connected() {
  if (supervisor_.TryAgain()) Say(supervisor_.Ask());
}

void ListenerKeeper::Collect(ListenerStock& stock,
                             const std::function<bool(const std::string& uid)>& wanted) {
  if (!supervisor_.asked()) return;
  auto kept = supervisor_.Answer(kAnswerTime);
  if (!kept.empty()) LOG_INFO("takeover", "{} kept listeners came back", kept.size());
  stock.AddKept(std::move(kept), wanted);
}

void ListenerKeeper::Ready() {
  if (!std::exchange(ready_, true)) Say(supervisor_.Ready());
}

ListenerKeeper::ListenerKeeper(event::EventLoop& loop, const std::string& notify_socket,
                               std::function<void()> again, event::Duration retry)
    : supervisor_(notify_socket),
      again_(std::move(again)),
      retry_every_(retry),
      retry_(loop, [this] { TryAgain(); }) {}

void ListenerKeeper::TryAgain() {
  if (supervisor_.TryAgain()) return again_();
  retry_.Start(retry_every_);
}

void ListenerKeeper::Say(const Status& status) {
  if (supervisor_.away()) retry_.Start(retry_every_);
  if (status) return;
  LOG_WARN("takeover", "not all listeners are kept across a death of this process: {}",
           status.error().message);
}

}  // namespace qanat::ztunnel
