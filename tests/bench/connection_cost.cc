// SPDX-License-Identifier: Apache-2.0
// What new connections and round trips cost the node proxy's user space and in system calls, by
// hand: two workers in this process (tests/support/loopback_proxies.h). A machine that is busy with
// other things shows the same figures.
//
//   connection_cost connect|trips COUNT
//   strace -f -c build/release/bin/... connect 2000     (the threads "worker-0", "worker-1")
//   valgrind --tool=callgrind --separate-threads=yes ... connect 2000
//
// Take the difference of two counts: what is done once falls out. Needs root (foreign source
// addresses) and 127.88.0.0/16 for itself.
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/support/loopback_proxies.h"

int main(int argc, char** argv) {
  using qanat::test::LoopbackProxies;
  const std::string what = argc == 3 ? argv[1] : "";
  const int count = argc == 3 ? std::atoi(argv[2]) : 0;
  if (count <= 0 || (what != "connect" && what != "trips")) {
    std::fprintf(stderr, "usage: connection_cost connect|trips COUNT\n");
    return 2;
  }
  rlimit files{65536, 65536};
  setrlimit(RLIMIT_NOFILE, &files);
  qanat::log::LineWriter access_log(2);
  const LoopbackProxies proxies({}, access_log);
  if (what == "connect") {
    for (int i = 0; i < count; ++i) proxies.Once();
  } else {
    const qanat::Fd fd = proxies.Dial();
    for (int i = 0; i < count; ++i) LoopbackProxies::Trip(fd);
  }
}
