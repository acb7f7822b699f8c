// SPDX-License-Identifier: Apache-2.0
// What new connections, round trips and idle connections cost the node proxy's user space and in
// system calls, by hand: two workers in this process, one for the client's node and one for the
// server's, over loopback, with no namespace and no capture. A machine that is busy with other
// things shows the same figures.
//
//   connection_cost connect|close|trips|idle COUNT    (QANAT_EARLY_DATA=false: without early data)
//   strace -f -c build/release/bin/... connect 2000     (the threads "worker-0", "worker-1")
//   valgrind --tool=callgrind --separate-threads=yes ... connect 2000
//
// "connect" ends its direction and waits for the other one's end, "close" closes when it has the
// answer and is back at once, as the bench's clients do; "idle" says what they hold, both proxies
// together. Take the difference of two counts: what is done once falls out. Needs root (foreign
// source addresses) and 127.88.0.0/16 for itself.
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>

#include "tests/support/two_nodes.h"

using namespace qanat;           // NOLINT: a program of its own
using namespace qanat::ztunnel;  // NOLINT

namespace {

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(1);
}

// ---- the two applications

void Serve(const Fd& listener) {
  while (true) {
    Fd fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd) return;
    std::thread([fd = std::move(fd)] {
      const int one = 1;
      setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      char byte;
      while (read(fd.get(), &byte, 1) == 1 && write(fd.get(), &byte, 1) == 1) {
      }
    }).detach();
  }
}

void Trip(int fd) {
  char byte = 'x';
  if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) Die("a round trip");
}

void Once(bool wait) {
  const Fd fd = test::TwoNodes::Dial();
  Trip(fd.get());
  if (!wait) return;
  shutdown(fd.get(), SHUT_WR);
  char byte;
  if (read(fd.get(), &byte, 1) != 0) Die("the end");
}

size_t ResidentBytes() {
  size_t size = 0, resident = 0;
  FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr || std::fscanf(file, "%zu %zu", &size, &resident) != 2) Die("statm");
  std::fclose(file);
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

// After some traffic over each, and without what the first hundred brought.
void HoldIdle(size_t count) {
  test::HeldConnections held(count + 100);
  const auto look = [](size_t& heap, size_t& resident) {
    sleep(1);
    heap = mallinfo2().uordblks;
    resident = ResidentBytes();
  };
  size_t heap, resident, more_heap, more_resident;
  held.Open(100, 4000);
  look(heap, resident);
  held.Open(count, 4000);
  look(more_heap, more_resident);
  std::printf("%zu idle connections: %zu bytes of the heap each, %zu resident (before: %zu kB)\n",
              count, (more_heap - heap) / count, (more_resident - resident) / count,
              resident / 1024);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc == 3 ? argv[1] : "";
  const int count = argc == 3 ? std::atoi(argv[2]) : 0;
  if (count <= 0 || (what != "connect" && what != "close" && what != "trips" && what != "idle")) {
    std::fprintf(stderr, "usage: connection_cost connect|close|trips|idle COUNT\n");
    return 2;
  }
  rlimit files{65536, 65536};
  setrlimit(RLIMIT_NOFILE, &files);
  const char* early = std::getenv("QANAT_EARLY_DATA");
  test::TwoNodes nodes({.early_data = early == nullptr || std::string_view(early) != "false"});
  if (what == "idle") {
    HoldIdle(static_cast<size_t>(count));
    std::fflush(nullptr);
    _exit(0);
  }
  auto* listener = new Fd(test::TwoNodes::ListenAsServer());
  std::thread([listener] { Serve(*listener); }).detach();

  if (what != "trips") {
    for (int i = 0; i < count; ++i) Once(what == "connect");
  } else {
    const Fd fd = test::TwoNodes::Dial();
    for (int i = 0; i < count; ++i) Trip(fd.get());
  }
  nodes.Stop();
  std::fflush(nullptr);
  _exit(0);  // the applications' threads are where they are
}
