// SPDX-License-Identifier: Apache-2.0
#include "tests/bpf/steady_load.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>
#include <stdexcept>

#include "common/net/address.h"

namespace qanat::test {
namespace {

constexpr int kPatience = 20;  // seconds, of one answer

std::string Now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  char text[32];
  std::snprintf(text, sizeof text, "%02d:%02d:%02d.%03d", static_cast<int>(ms / 3600000 % 24),
                static_cast<int>(ms / 60000 % 60), static_cast<int>(ms / 1000 % 60),
                static_cast<int>(ms % 1000));
  return text;
}

int Connect(const std::string& to) {
  auto address = net::SocketAddress::Parse(to);
  if (!address) return -1;
  const bool v6 = address->ip().is_v6();
  const int fd = ::socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval limit{kPatience, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  sockaddr_storage storage;
  const socklen_t size = address->ToSockaddr(storage, v6);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&storage), size) == 0) return fd;
  ::close(fd);
  return -1;
}

}  // namespace

SteadyLoad::SteadyLoad(const Bed& bed, std::vector<Way> ways, int every_ms)
    : bed_(bed), ways_(std::move(ways)) {
  void* memory = ::mmap(nullptr, sizeof(Shared) * ways_.size(), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("mmap");
  shared_ = static_cast<Shared*>(memory);
  for (size_t i = 0; i < ways_.size(); ++i) {
    Shared* shared = new (shared_ + i) Shared;
    processes_.push_back(bed_.Spawn(
        ways_[i].where, [this, i, every_ms, shared] { Run(ways_[i], every_ms, *shared); }));
  }
}

SteadyLoad::~SteadyLoad() {
  processes_.clear();
  ::munmap(shared_, sizeof(Shared) * ways_.size());
}

void SteadyLoad::Run(const Way& way, int every_ms, Shared& shared) {
  auto failed = [&](const std::string& why) {
    if (shared.failed++ == 0)
      std::snprintf(shared.bad, sizeof shared.bad, "%s at %s after %d good: %s", way.name.c_str(),
                    Now().c_str(), shared.good.load(), why.c_str());
  };
  const int held = way.held ? Connect(way.dial.to) : -1;
  if (way.held && held < 0) return failed("no connection to hold");
  while (!shared.over) {
    if (way.held) {
      char c = 'x';
      if (::send(held, &c, 1, MSG_NOSIGNAL) != 1 || ::recv(held, &c, 1, 0) != 1)
        return failed(std::strerror(errno));
      ++shared.good;
    } else {
      const std::string line = Call(way.dial);
      if (line.rfind(way.answer, 0) == 0)
        ++shared.good;
      else
        failed(line);
    }
    ::usleep(static_cast<useconds_t>(every_ms) * 1000);
  }
}

bool SteadyLoad::More(int count) const {
  std::vector<int> enough;
  for (size_t i = 0; i < ways_.size(); ++i) enough.push_back(shared_[i].good + count);
  return bed_.WaitFor([&] {
    for (size_t i = 0; i < ways_.size(); ++i)
      if (shared_[i].good < enough[i] && shared_[i].failed == 0) return false;
    return true;
  });
}

int SteadyLoad::good() const {
  int sum = 0;
  for (size_t i = 0; i < ways_.size(); ++i) sum += shared_[i].good;
  return sum;
}

std::string SteadyLoad::Stop() {
  for (size_t i = 0; i < ways_.size(); ++i) shared_[i].over = true;
  std::string out;
  for (size_t i = 0; i < ways_.size(); ++i) {
    bed_.WaitFor([&] { return !processes_[i].Running(); }, (kPatience + 5) * 1000);
    if (shared_[i].failed != 0)
      out += std::to_string(shared_[i].failed) + " failed, first: " + shared_[i].bad + "\n";
  }
  return out;
}

}  // namespace qanat::test
