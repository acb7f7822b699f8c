// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/takeover/successor.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include <atomic>
#include <iterator>
#include <mutex>

#include "common/base/log.h"
#include "ztunnel/takeover/predecessor.h"

namespace qanat::ztunnel {
namespace {

// A connection's key: its worker, and the worker's number for it.
constexpr int kNumberBits = 48;

template <typename T>
struct Gathered {
  std::mutex mutex;
  std::vector<T> items;
};

}  // namespace

Successor::Successor(event::EventLoop& loop, std::string path, const Environment& environment,
                     std::vector<std::unique_ptr<Worker>>& workers,
                     std::function<std::vector<std::string>()> pods,
                     std::function<void()> came_back)
    : loop_(loop),
      path_(std::move(path)),
      environment_(environment),
      workers_(workers),
      pods_(std::move(pods)),
      came_back_(std::move(came_back)) {}

Successor::~Successor() { watch_.reset(); }

void Successor::Listen() {
  if (left_) return;
  auto listener = takeover::ListenAt(path_);
  if (!listener) {
    LOG_WARN("takeover", "the process after this one cannot take over: {}",
             listener.error().message);
    return;
  }
  watch_.reset();
  listener_ = std::move(*listener);
  watch_ = std::make_unique<event::IoWatch>(loop_, listener_.get(), EPOLLIN,
                                            [this](uint32_t) { OnConnection(); });
}

void Successor::OnConnection() {
  Fd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd) return;
  if (const Status status = takeover::CheckPeer(fd.get()); !status) {
    LOG_WARN("takeover", "refused: {}", status.error().message);
    return;
  }
  if (session_) {
    LOG_WARN("takeover", "another process wants to take over while one does; refused");
    return;
  }
  session_ = std::make_unique<takeover::GivingSession>(
      loop_, std::move(fd), *this, takeover::SessionOptions{},
      takeover::GivingSession::Events{
          [this] {
            counts_ = session_->counts();
            LOG_INFO("takeover",
                     "given to the new process: {} listeners and connections, {} refused",
                     counts_.moved, counts_.refused);
            // The path is the new one's.
            watch_.reset();
            listener_.Reset();
          },
          [this](const std::string& why) { OnLost(why); }});
}

void Successor::OnLost(const std::string& why) {
  LOG_INFO("takeover", "the new process is gone, this one goes on: {}", why);
  const bool finished = session_->finished();
  counts_ = session_->counts();
  session_.reset();
  uids_.clear();
  if (finished) Listen();
  came_back_();
}

void Successor::OnPodRemoved(const std::string& uid) {
  for (const auto& [key, of] : uids_) {
    if (of == uid && session_) session_->Ended(takeover::Sort::kListeners, key);
  }
  std::erase_if(uids_, [&](const auto& item) { return item.second == uid; });
}

void Successor::Leave() {
  left_ = true;
  watch_.reset();
  listener_.Reset();
  // Connections that are on their way go on here: they have the time that all others have.
  if (session_) session_->Close();
  session_.reset();
}

void Successor::OnAll(std::function<void(size_t, Worker&)> work, std::function<void()> done) {
  auto left = std::make_shared<std::atomic<size_t>>(workers_.size());
  auto finish = std::make_shared<std::function<void()>>(std::move(done));
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->loop().Post(
        [&environment = environment_, raw = workers_[i].get(), i, work, left, finish] {
          work(i, *raw);
          if (left->fetch_sub(1) == 1) environment.post_main([finish] { (*finish)(); });
        });
  }
}

void Successor::OnOne(uint64_t key, std::function<void(ConnectionMover&, uint64_t)> work,
                      std::function<void()> done) {
  Worker* worker = workers_[(key >> kNumberBits) % workers_.size()].get();
  worker->loop().Post([&environment = environment_, worker, key, work, done] {
    work(worker->mover(), key & ((uint64_t{1} << kNumberBits) - 1));
    if (done) environment.post_main(done);
  });
}

void Successor::List(takeover::Sort sort, std::function<void(std::vector<takeover::Offer>)> done) {
  if (left_) return;
  if (sort == takeover::Sort::kListeners) {
    std::vector<takeover::Offer> offers;
    for (const std::string& uid : pods_()) {
      uids_[next_key_] = uid;
      offers.push_back({next_key_++, true, EncodeAbout(uid)});
    }
    return done(std::move(offers));
  }
  if (sort != takeover::Sort::kConnections) return done({});
  auto all = std::make_shared<Gathered<takeover::Offer>>();
  OnAll(
      [all](size_t index, Worker& worker) {
        const std::vector<uint64_t> numbers = worker.mover().Offer();
        const std::lock_guard lock(all->mutex);
        for (const uint64_t number : numbers) {
          all->items.push_back({index << kNumberBits | number, false, {}});
        }
      },
      [all, done] { done(std::move(all->items)); });
}

void Successor::Freeze(takeover::Sort sort, uint64_t key,
                       std::function<void(std::optional<takeover::Parcel>)> done) {
  if (sort == takeover::Sort::kConnections) {
    auto parcel = std::make_shared<std::optional<takeover::Parcel>>();
    return OnOne(
        key, [parcel](ConnectionMover& mover, uint64_t number) { *parcel = mover.Freeze(number); },
        [parcel, done] { done(std::move(*parcel)); });
  }
  auto all = std::make_shared<Gathered<Listening>>();
  OnAll(
      [all, uid = uids_[key]](size_t, Worker& worker) {
        Listeners shared = worker.ShareListeners(uid);
        const std::lock_guard lock(all->mutex);
        std::move(shared.begin(), shared.end(), std::back_inserter(all->items));
      },
      [all, done] {
        if (all->items.empty()) return done(std::nullopt);
        done(EncodeListeners(std::move(all->items)));
      });
}

void Successor::Thaw(takeover::Sort sort, uint64_t key) {
  if (sort == takeover::Sort::kConnections) {
    return OnOne(key, [](ConnectionMover& mover, uint64_t number) { mover.Thaw(number); }, nullptr);
  }
  if (left_) return;  // our listeners are about to close
  OnAll([uid = uids_[key]](size_t, Worker& worker) { worker.PauseListeners(uid, false); }, [] {});
}

void Successor::Commit(takeover::Sort sort, uint64_t key, std::function<void(bool)> done) {
  if (sort == takeover::Sort::kConnections) {
    auto good = std::make_shared<bool>(false);
    return OnOne(
        key, [good](ConnectionMover& mover, uint64_t number) { *good = mover.Forget(number); },
        [good, done] { done(*good); });
  }
  OnAll([uid = uids_[key]](size_t, Worker& worker) { worker.PauseListeners(uid, true); },
        [done] { done(true); });
}

}  // namespace qanat::ztunnel
