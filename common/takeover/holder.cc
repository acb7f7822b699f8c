// SPDX-License-Identifier: Apache-2.0
#include "common/takeover/holder.h"

#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "common/base/log.h"
#include "common/takeover/datagram.h"
#include "common/takeover/wire.h"

namespace qanat::takeover {
namespace {

constexpr int kMessagesPerRound = 64;
constexpr size_t kMostText = 4096;
// So that an answer does not wait for its reader: a message of 253 names is 60 KiB at the most.
constexpr int kAnswerBuffer = 16 << 20;

struct Words {
  bool store = false, remove = false, fetch = false;
  std::string_view name;
};

Words Parse(std::string_view text) {
  Words out;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line == "FDSTORE=1") out.store = true;
    if (line == "FDSTOREREMOVE=1") out.remove = true;
    if (line == kFetch) out.fetch = true;
    if (line.starts_with("FDNAME=")) out.name = line.substr(7);
  }
  return out;
}

}  // namespace

Holder::Holder(event::EventLoop& loop, HolderOptions options)
    : loop_(loop), options_(std::move(options)) {}

Holder::~Holder() { watch_.reset(); }

Status Holder::Listen(const std::string& path, std::optional<gid_t> group) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return Fail(Code::kInvalidArgument,
                "the socket's path \"" + path + "\" has to have 1 to 107 characters");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return FailErrno("socket");
  const int on = 1;
  if (setsockopt(fd.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0) {
    return FailErrno("SO_PASSCRED");
  }
  // The file's mode is the socket's, from the moment of its birth, without what the umask forbids.
  if (fchmod(fd.get(), 0600) != 0) return FailErrno("fchmod of " + path);
  unlink(path.c_str());
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return FailErrno("bind " + path);
  }
  if (group && (chown(path.c_str(), static_cast<uid_t>(-1), *group) != 0 ||
                chmod(path.c_str(), 0660) != 0)) {
    return FailErrno("open " + path + " to group " + std::to_string(*group) +
                     " (it must be one of our own)");
  }
  path_ = path;
  watch_.reset();
  socket_ = std::move(fd);
  watch_ = std::make_unique<event::IoWatch>(loop_, socket_.get(), EPOLLIN,
                                            [this](uint32_t) { OnReadable(); });
  return {};
}

void Holder::OnReadable() {
  for (int i = 0; i < kMessagesPerRound; ++i) {
    auto message = ReceiveDatagram(socket_.get(), kMostText);
    if (!message) {
      if (message.error().code != Code::kUnavailable) {
        LOG_WARN("hold", "{}: {}", path_, message.error().message);
      }
      return;
    }
    Status may =
        message->sender ? Status() : Fail(Code::kPermissionDenied, "it says not who it is");
    if (may && options_.may) may = options_.may(*message->sender);
    if (!may || message->cut) {
      ++counts_.refused;
      LOG_WARN("hold", "{}: a message is refused: {}", path_,
               may ? "it is too long" : may.error().message);
      continue;
    }
    OnMessage(message->text, std::move(message->fds), message->sender->pid);
  }
}

// What is not understood is nothing, as in systemd: programs say more than we need (READY=1).
void Holder::OnMessage(std::string_view text, std::vector<Fd> fds, pid_t from) {
  const Words message = Parse(text);
  if (message.fetch) {
    if (fds.size() == 1) Give(std::move(fds.front()));
    return;
  }
  const std::string name(message.name);
  if (message.store) Keep(name, std::move(fds), from);
  if (message.remove) Forget(name);
}

bool Holder::Fits(const std::string& name, int fd, size_t beside) {
  Status status;
  if (!IsFdName(name))
    status = Fail(Code::kInvalidArgument, "it has no name that can be passed on");
  if (status && options_.fits) status = options_.fits(name, fd);
  if (status && (size_ >= options_.most || beside >= options_.most_per_name)) {
    status = Fail(Code::kResourceExhausted, "there are too many");
  }
  if (status) return true;
  ++counts_.refused;
  LOG_DEBUG("hold", "\"{}\" is not kept: {}", name, status.error().message);
  return false;
}

void Holder::Keep(const std::string& name, std::vector<Fd> fds, pid_t giver) {
  std::vector<int> fresh;
  for (Fd& fd : fds) {
    struct stat about{};
    if (fstat(fd.get(), &about) != 0) continue;
    const auto it = kept_.find(name);
    if (it != kept_.end()) {
      const auto known = std::find_if(it->second.begin(), it->second.end(), [&](const One& one) {
        return one.device == about.st_dev && one.inode == about.st_ino;
      });
      if (known != it->second.end()) {
        known->giver = giver;
        continue;
      }
    }
    if (!Fits(name, fd.get(), it == kept_.end() ? 0 : it->second.size())) continue;
    fresh.push_back(fd.get());
    kept_[name].push_back({std::move(fd), about.st_dev, about.st_ino, giver});
    ++size_;
  }
  if (!fresh.empty() && options_.on_kept) options_.on_kept(name, fresh);
}

void Holder::Forget(const std::string& name) {
  const auto it = kept_.find(name);
  if (it == kept_.end()) return;
  size_ -= it->second.size();
  const std::string copy = it->first;  // `name` may be the key itself
  kept_.erase(it);
  if (options_.on_forgotten) options_.on_forgotten(copy);
}

void Holder::ForgetIf(const std::function<bool(const std::string&)>& gone) {
  std::vector<std::string> names;
  for (const auto& [name, fds] : kept_) {
    if (gone(name)) names.push_back(name);
  }
  for (const std::string& name : names) Forget(name);
}

void Holder::ForgetOf(const std::function<bool(pid_t)>& gone) {
  std::vector<std::string> touched;
  for (auto& [name, all] : kept_) {
    const size_t before = all.size();
    std::erase_if(all, [&](const One& one) { return gone(one.giver); });
    size_ -= before - all.size();
    if (all.size() != before) touched.push_back(name);
  }
  for (const std::string& name : touched) {
    if (options_.on_forgotten) options_.on_forgotten(name);
    const auto it = kept_.find(name);
    std::vector<int> left;
    for (const One& one : it->second) left.push_back(one.fd.get());
    if (left.empty()) {
      kept_.erase(it);
    } else if (options_.on_kept) {
      options_.on_kept(name, left);
    }
  }
}

std::set<pid_t> Holder::Givers() const {
  std::set<pid_t> out;
  for (const auto& [name, all] : kept_) {
    for (const One& one : all) out.insert(one.giver);
  }
  return out;
}

std::vector<PassedFd> Holder::Kept() const {
  std::vector<PassedFd> out;
  for (const auto& [name, fds] : kept_) {
    for (const One& one : fds) out.push_back({name, one.fd.get()});
  }
  return out;
}

// All at once: the reader is a process that waits for it, on this machine, with the rights to have
// it. One that does not read gets what its buffer takes.
void Holder::Give(Fd to) {
  ++counts_.fetched;
  if (setsockopt(to.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kAnswerBuffer, sizeof kAnswerBuffer) != 0) {
    setsockopt(to.get(), SOL_SOCKET, SO_SNDBUF, &kAnswerBuffer, sizeof kAnswerBuffer);
  }
  const std::vector<PassedFd> kept = Kept();
  for (size_t begin = 0; begin < kept.size(); begin += kMaxFdsPerDatagram) {
    const size_t end = std::min(kept.size(), begin + kMaxFdsPerDatagram);
    std::string names;
    std::vector<int> fds;
    for (size_t i = begin; i < end; ++i) {
      names.append(kept[i].name).append("\n");
      fds.push_back(kept[i].fd);
    }
    if (const Status sent = SendDatagram(to.get(), nullptr, 0, names, fds, MSG_DONTWAIT); !sent) {
      LOG_WARN("hold", "{}: who asked gets {} of {} descriptors: {}", path_, begin, kept.size(),
               sent.error().message);
      return;
    }
  }
}

}  // namespace qanat::takeover
