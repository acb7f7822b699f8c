// SPDX-License-Identifier: Apache-2.0
#include "agent/hold/listener_hold.h"

#include <sys/socket.h>

#include "common/base/log.h"

namespace qanat::agent {
namespace {

constexpr int kSoNetnsCookie = 71;  // SO_NETNS_COOKIE, Linux 5.14
constexpr std::string_view kPrefix = "qanat-";

void Say(const Status& status) {
  if (!status) LOG_WARN("hold", "not kept across our own death: {}", status.error().message);
}

}  // namespace

std::string UidOfHeld(std::string_view name) {
  const size_t dash = name.rfind('-');
  if (!name.starts_with(kPrefix) || dash <= kPrefix.size()) return {};
  return std::string(name.substr(kPrefix.size(), dash - kPrefix.size()));
}

ListenerHold::ListenerHold(event::EventLoop& loop, HoldWorld world, HoldOptions options)
    : world_(std::move(world)),
      options_(std::move(options)),
      above_(options_.notify_socket),
      holder_(loop,
              takeover::HolderOptions{
                  .may = [this](const ucred& who) { return options_.user.Admit(who); },
                  .fits = [this](std::string_view name, int fd) { return Fits(name, fd); },
                  .on_kept = [this](const std::string& name,
                                    std::span<const int> fds) { Say(above_.Keep(name, fds)); },
                  .on_forgotten = [this](const std::string& name) { Say(above_.Forget(name)); }}),
      last_proxy_(event::Clock::now()),
      look_(loop, [this] { Look(); }) {
  look_.Start(options_.look_every);
}

Status ListenerHold::Listen(const std::string& path) {
  return holder_.Listen(path, options_.user.group);
}

void ListenerHold::Adopt(const std::vector<takeover::PassedFd>& passed) {
  for (const takeover::PassedFd& one : passed) {
    std::vector<Fd> fds;
    fds.push_back(takeover::TakePassed(one));
    if (fds.front()) holder_.Keep(one.name, std::move(fds));
  }
  if (!passed.empty()) {
    LOG_INFO("hold", "{} of {} listeners of pods came back from who kept them across our end",
             holder_.size(), passed.size());
    // Of the others nobody needs a copy.
    for (const takeover::PassedFd& one : passed) {
      if (Status fits = NameFits(one.name); !fits) Say(above_.Forget(one.name));
    }
  }
}

// A name is the pod's, and so is the socket: anything else would be a descriptor (or a namespace)
// that lives as long as we do.
Status ListenerHold::NameFits(std::string_view name) const {
  const std::string uid = UidOfHeld(name);
  if (uid.empty()) return Fail(Code::kInvalidArgument, "it is of no pod");
  if (world_.cookie_of(uid) == 0) {
    return Fail(Code::kNotFound, "no pod " + uid + " is in the mesh here");
  }
  return {};
}

Status ListenerHold::Fits(std::string_view name, int fd) const {
  QANAT_RETURN_IF_ERROR(NameFits(name));
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  if (getsockopt(fd, SOL_SOCKET, kSoNetnsCookie, &cookie, &size) != 0) {
    return Fail(Code::kInvalidArgument, "it is no socket");
  }
  if (cookie != world_.cookie_of(UidOfHeld(name))) {
    return Fail(Code::kInvalidArgument, "it is of another network namespace than the pod");
  }
  return {};
}

void ListenerHold::Forget(const std::string& uid) {
  holder_.ForgetIf([&uid](const std::string& name) { return UidOfHeld(name) == uid; });
}

void ListenerHold::Look() {
  look_.Start(options_.look_every);
  const event::TimePoint now = event::Clock::now();
  TellAbove();
  const std::set<pid_t> proxies = world_.proxies();
  if (!proxies.empty()) last_proxy_ = now;
  if (holder_.size() == 0) return;
  if (now - last_proxy_ >= options_.without_proxy) {
    LOG_WARN("hold",
             "no proxy for {} s: {} listeners of pods are given up, connections are refused",
             std::chrono::duration_cast<std::chrono::seconds>(now - last_proxy_).count(),
             holder_.size());
    holder_.ForgetIf([](const std::string&) { return true; });
    return;
  }
  holder_.ForgetIf([this](const std::string& name) { return !NameFits(name); });
  GiveUpUnclaimed(proxies, now);
}

// A proxy gives what it has at each connection, so what it serves is its own within a moment.
void ListenerHold::GiveUpUnclaimed(const std::set<pid_t>& proxies, event::TimePoint now) {
  const std::set<pid_t> givers = holder_.Givers();
  std::erase_if(strangers_, [&](const auto& one) {
    return proxies.empty() || proxies.contains(one.first) || !givers.contains(one.first);
  });
  if (proxies.empty()) return;  // the next one has its time
  for (const pid_t giver : givers) {
    if (!proxies.contains(giver)) strangers_.try_emplace(giver, now);
  }
  const size_t before = holder_.size();
  holder_.ForgetOf([&](pid_t giver) {
    const auto it = strangers_.find(giver);
    return it != strangers_.end() && now - it->second >= options_.unclaimed;
  });
  if (holder_.size() == before) return;
  LOG_WARN("hold", "the present proxy has not taken up {} listeners of one before it: given up",
           before - holder_.size());
}

// Who keeps them for us was busy, or away: it may be there again, with more or less than we have.
void ListenerHold::TellAbove() {
  if (!above_.away() || !above_.TryAgain()) return;
  for (const takeover::PassedFd& one : holder_.Kept()) {
    const int fds[] = {one.fd};
    Say(above_.Keep(one.name, fds));
  }
}

}  // namespace qanat::agent
