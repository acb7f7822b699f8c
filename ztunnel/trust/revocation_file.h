// SPDX-License-Identifier: Apache-2.0
// The file of revocation lists (CRL_PATH): read when it has changed, as the kernel's word (inotify
// on its folder) or a look now and then tells. Lists that cannot be read, understood or vouched for
// change nothing: the last good ones stay in force and the log says what to do. On the main loop.
#pragma once

#include <sys/stat.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "common/base/fd.h"
#include "common/event/event_loop.h"
#include "common/tls/revocation.h"

namespace qanat::ztunnel {

class RevocationFile {
 public:
  using Changed = std::function<void(const tls::RevocationListPtr& lists)>;
  struct Options {
    event::Duration look = std::chrono::seconds(3);
    // After a change: who writes several times is read once.
    event::Duration settle = std::chrono::milliseconds(100);
  };
  RevocationFile(event::EventLoop& loop, std::string path, Changed changed, Options options);

  void Start();  // the first look is at once; a file that is missing is said and waited for
  // CA certificates that we know of: lists under their names must be signed by them.
  void SetAuthorities(std::vector<tls::Certificate> authorities);

  const tls::RevocationListPtr& lists() const { return lists_; }  // null: none so far
  uint64_t failures() const { return failures_; }                 // files that were not taken
  bool in_step() const { return in_step_; }  // what is in force is what the file says
  size_t stale() const { return stale_; }    // lists past their time

 private:
  void Watch();
  void OnInotify();
  void Look();
  void Load();
  Result<std::string> ReadAll() const;
  void Refuse(const std::string& why);
  void SayStale();

  event::EventLoop& loop_;
  const std::string path_;
  const Changed changed_;
  const Options options_;
  std::vector<tls::Certificate> authorities_;
  tls::RevocationListPtr lists_;
  std::string text_;    // of lists_
  std::string failed_;  // what was said last
  std::set<std::string> said_stale_;
  struct stat seen_{};
  uint64_t failures_ = 0;
  bool in_step_ = false;
  size_t stale_ = 0;
  Fd inotify_;
  std::unique_ptr<event::IoWatch> watch_;
  event::Timer look_, settle_;
};

}  // namespace qanat::ztunnel
