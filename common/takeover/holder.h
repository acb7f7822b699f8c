// SPDX-License-Identifier: Apache-2.0
// The other end of supervisor.h: keeps descriptors by name for a program that may die, takes them
// at a datagram socket by systemd's protocol (FDSTORE=1, FDSTOREREMOVE=1;
// sd_pid_notify_with_fds(3)), and gives copies to the next process: when it is started (Kept(), for
// LISTEN_FDS), or when it asks (X_QANAT_FETCH=1 with one end of a seqpacket pair, for programs that
// somebody else starts). Who asks is known by the kernel's word only. One loop; owned by the
// program that keeps.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/takeover/supervisor.h"

namespace qanat::takeover {

struct HolderOptions {
  size_t most = 16384;        // descriptors in all
  size_t most_per_name = 64;  // as many as a program has workers
  // Whether this process may tell and ask. An error is logged.
  std::function<Status(const ucred&)> may;
  // Whether this may be kept; all may without.
  std::function<Status(std::string_view name, int fd)> fits;
  // For who passes on what is kept to a supervisor of its own.
  std::function<void(const std::string& name, std::span<const int> fds)> on_kept;
  std::function<void(const std::string& name)> on_forgotten;
};

class Holder {
 public:
  struct Counts {
    uint64_t refused = 0;  // messages of strangers, descriptors that do not fit or are too many
    uint64_t fetched = 0;  // times that somebody asked for all
  };
  Holder(event::EventLoop& loop, HolderOptions options);
  ~Holder();

  // Replaces whatever lies at `path`, where it stays; mode 0600, or 0660 for a group.
  Status Listen(const std::string& path, std::optional<gid_t> group = {});

  // The same file twice is kept once, and then is the later giver's. Who that is: its process, 0
  // where it cannot be seen, -1 where nobody knows.
  void Keep(const std::string& name, std::vector<Fd> fds, pid_t giver = -1);
  void Forget(const std::string& name);
  void ForgetIf(const std::function<bool(const std::string& name)>& gone);
  void ForgetOf(const std::function<bool(pid_t giver)>& gone);
  std::set<pid_t> Givers() const;

  std::vector<PassedFd> Kept() const;  // not owned: valid until the next call that changes it
  size_t size() const { return size_; }
  const Counts& counts() const { return counts_; }

 private:
  struct One {
    Fd fd;
    uint64_t device, inode;
    pid_t giver;
  };
  void OnReadable();
  void OnMessage(std::string_view text, std::vector<Fd> fds, pid_t from);
  void Give(Fd to);
  bool Fits(const std::string& name, int fd, size_t beside);

  event::EventLoop& loop_;
  HolderOptions options_;
  std::map<std::string, std::vector<One>> kept_;
  size_t size_ = 0;
  Counts counts_;
  std::string path_;
  Fd socket_;
  std::unique_ptr<event::IoWatch> watch_;
};

}  // namespace qanat::takeover
