// SPDX-License-Identifier: Apache-2.0
// The server of two_nodes.h: answers each byte with the same one, one connection at a time; and
// calls of the client's to it. Where something fails the process ends.
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

#include "tests/support/two_nodes.h"

namespace qanat::ztunnel::test {

class Echo {
 public:
  Echo() : thread_([this] { Serve(); }) {}
  ~Echo() {
    shutdown(listener_.get(), SHUT_RDWR);  // accept() returns
    thread_.join();
  }
  Echo(const Echo&) = delete;
  Echo& operator=(const Echo&) = delete;

  // A connection from its begin to its end, with one round trip.
  static void Call() {
    const Fd fd = TwoNodes::Dial();
    char byte = 'x';
    if (write(fd.get(), &byte, 1) != 1 || read(fd.get(), &byte, 1) != 1) Die("a round trip");
    shutdown(fd.get(), SHUT_WR);
    if (read(fd.get(), &byte, 1) != 0) Die("the end");
  }

 private:
  [[noreturn]] static void Die(const char* what) {
    std::perror(what);
    std::exit(1);
  }
  void Serve() {
    while (true) {
      const Fd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!fd) return;
      char byte;
      while (read(fd.get(), &byte, 1) == 1 && write(fd.get(), &byte, 1) == 1) {
      }
    }
  }

  const Fd listener_ = TwoNodes::ListenAsServer();
  std::thread thread_;
};

}  // namespace qanat::ztunnel::test
