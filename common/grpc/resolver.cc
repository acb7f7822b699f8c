// SPDX-License-Identifier: Apache-2.0
#include "common/grpc/resolver.h"

#include <netdb.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

namespace qanat::grpc {
namespace {

Result<std::vector<net::IpAddress>> Lookup(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_ADDRCONFIG;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &list);
  if (error != 0) {
    return Fail(error == EAI_NONAME ? Code::kNotFound : Code::kUnavailable,
                "cannot resolve " + host + ": " + gai_strerror(error));
  }
  std::vector<net::IpAddress> out;
  for (const addrinfo* a = list; a != nullptr; a = a->ai_next) {
    const net::IpAddress ip = net::SocketAddress::FromSockaddr(a->ai_addr).ip();
    if (ip.is_set() && std::find(out.begin(), out.end(), ip) == out.end()) out.push_back(ip);
  }
  freeaddrinfo(list);
  if (out.empty()) return Fail(Code::kNotFound, host + " has no address");
  return out;
}

}  // namespace

// What the helper thread and the resolver share. The thread is detached: getaddrinfo cannot be
// interrupted and may hang for long; it holds this and nothing else.
struct Resolver::Shared : std::enable_shared_from_this<Resolver::Shared> {
  explicit Shared(event::EventLoop& l) : loop(&l) {}

  std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::pair<uint64_t, std::string>> queue;  // guarded by mutex
  bool stop = false;                                   // guarded by mutex
  bool running = false;                                // guarded by mutex
  event::EventLoop* loop;                              // guarded by mutex; null once stopped

  // Loop thread only.
  std::map<uint64_t, Done> waiting;
  uint64_t next = 1;

  void Run() {
    std::unique_lock lock(mutex);
    for (;;) {
      // An idle thread ends; the next query makes a new one.
      if (!wake.wait_for(lock, std::chrono::seconds(10), [&] { return stop || !queue.empty(); }) ||
          stop) {
        running = false;
        return;
      }
      const std::pair<uint64_t, std::string> job = std::move(queue.front());
      queue.pop_front();
      lock.unlock();
      auto result = Lookup(job.second);
      lock.lock();
      if (loop != nullptr) {
        loop->Post([self = shared_from_this(), id = job.first, result = std::move(result)] {
          self->Deliver(id, result);
        });
      }
    }
  }
  void Deliver(uint64_t id, Result<std::vector<net::IpAddress>> result) {
    const auto it = waiting.find(id);
    if (it == waiting.end()) return;
    Done done = std::move(it->second);
    waiting.erase(it);
    done(std::move(result));
  }
};

namespace {

class Handle final : public Resolver::Query {
 public:
  explicit Handle(std::function<void()> cancel) : cancel_(std::move(cancel)) {}
  ~Handle() override { cancel_(); }

 private:
  std::function<void()> cancel_;
};

}  // namespace

Resolver::Resolver(event::EventLoop& loop) : shared_(std::make_shared<Shared>(loop)) {}

Resolver::~Resolver() {
  shared_->waiting.clear();
  std::lock_guard lock(shared_->mutex);
  shared_->stop = true;
  shared_->loop = nullptr;
  shared_->wake.notify_all();
}

std::unique_ptr<Resolver::Query> Resolver::Resolve(const std::string& host, Done done) {
  const uint64_t id = shared_->next++;
  shared_->waiting.emplace(id, std::move(done));
  if (auto literal = net::IpAddress::Parse(host)) {
    shared_->loop->Post([shared = shared_, id, ip = *literal] {
      shared->Deliver(id, std::vector<net::IpAddress>{ip});
    });
  } else {
    std::lock_guard lock(shared_->mutex);
    shared_->queue.emplace_back(id, host);
    if (!shared_->running) {
      shared_->running = true;
      std::thread([shared = shared_] { shared->Run(); }).detach();
    }
    shared_->wake.notify_one();
  }
  return std::make_unique<Handle>([shared = shared_, id] { shared->waiting.erase(id); });
}

}  // namespace qanat::grpc
