// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

#include "common/base/fd.h"
#include "common/net/socket.h"
#include "tools/loadgen/histogram.h"
#include "tools/loadgen/loadgen.h"

namespace qanat::loadgen {
namespace {

uint64_t Now() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                   std::chrono::steady_clock::now().time_since_epoch())
                                   .count());
}

enum class Mode { kBulk, kRoundTrip, kConnect, kHttp, kIdle };

struct Link {
  Fd fd;
  bool connected = false;
  bool waiting = false;  // a request is under way
  uint64_t started = 0;  // of the request, or of the connect; with --rate the time it was due
  size_t sent = 0;       // of the request
  size_t received = 0;   // of the answer
  size_t expected = 0;   // http: bytes of the answer, 0 until the head is complete
  std::string head;
};

class Client {
 public:
  Client(const Load& load, Mode mode) : load_(load), mode_(mode) {
    if (mode == Mode::kHttp) {
      request_ = fmt::format("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", load.path,
                             load.host.empty() ? load.to.ToString() : load.host);
    } else {
      request_ = std::string(mode == Mode::kBulk ? 256 * 1024 : load.size, 'x');
    }
  }

  Result<std::string> Run() {
    epoll_.Reset(epoll_create1(EPOLL_CLOEXEC));
    prctl(PR_SET_TIMERSLACK, 1);  // --rate wakes up by time: the default is 50 us late
    links_.resize(static_cast<size_t>(load_.connections));
    begin_ = Now();
    measure_ = begin_ + static_cast<uint64_t>(load_.warmup * 1e9);
    end_ = measure_ + static_cast<uint64_t>(load_.seconds * 1e9);
    next_due_ = begin_;
    for (size_t i = 0; i < links_.size(); ++i) {
      Open(i);
      // An open storm is not what is measured: let what has been opened connect in between.
      if (i % 64 == 63) Poll(1'000'000);
    }
    while (Now() < end_) {
      uint64_t wait = 10'000'000;
      if (mode_ == Mode::kHttp && load_.rate > 0) wait = std::min(wait, StartDue());
      Poll(wait);
    }
    return Report();
  }

 private:
  bool measuring() const { return Now() >= measure_; }

  void Open(size_t i) {
    Link& link = links_[i];
    link = Link{};
    link.started = Now();
    auto fd = net::StartConnect({.to = load_.to});
    if (!fd) {
      ++errors_;
      first_error_ = first_error_.empty() ? fd.error().message : first_error_;
      return;
    }
    link.fd = std::move(*fd);
    epoll_event event{};
    event.events = EPOLLOUT;
    event.data.u64 = i;
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, link.fd.get(), &event);
  }
  void Want(size_t i, uint32_t what) {
    epoll_event event{};
    event.events = what;
    event.data.u64 = i;
    epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, links_[i].fd.get(), &event);
  }
  void Broken(size_t i, const char* what, int err) {
    ++errors_;
    if (first_error_.empty()) first_error_ = fmt::format("{}: {}", what, std::strerror(err));
    links_[i].fd.Reset();
    if (mode_ != Mode::kIdle && errors_ < 1000) Open(i);
  }
  void Poll(uint64_t wait_ns) {
    std::array<epoll_event, 256> events;
    const timespec wait{0, static_cast<long>(wait_ns)};
    int n = epoll_pwait2(epoll_.get(), events.data(), events.size(), &wait, nullptr);
    for (int k = 0; k < n; ++k) {
      size_t i = events[static_cast<size_t>(k)].data.u64;
      if (links_[i].fd) OnEvent(i);
    }
  }
  void OnEvent(size_t i) {
    Link& link = links_[i];
    if (!link.connected) {
      int err = 0;
      socklen_t size = sizeof err;
      getsockopt(link.fd.get(), SOL_SOCKET, SO_ERROR, &err, &size);
      if (err != 0) return Broken(i, "connect", err);
      link.connected = true;
      ++opened_;
      if (mode_ == Mode::kIdle || (mode_ == Mode::kHttp && load_.rate > 0)) {
        Want(i, EPOLLIN);
        return;
      }
      Begin(i, mode_ == Mode::kConnect ? link.started : Now());
      return;
    }
    if (mode_ == Mode::kBulk) return Send(i);
    if (link.waiting && link.sent < request_.size()) return Send(i);
    Receive(i);
  }
  void Begin(size_t i, uint64_t started) {
    Link& link = links_[i];
    link.waiting = true;
    link.started = started;
    link.sent = link.received = link.expected = 0;
    link.head.clear();
    Send(i);
  }
  // With --rate a request that is late counts from when it was due, so that a stall is not hidden.
  // Returns how long there is nothing to do; no spinning, for the proxies share our processors.
  uint64_t StartDue() {
    uint64_t now = Now();
    auto gap = static_cast<uint64_t>(1e9 / load_.rate);
    for (size_t tries = 0; next_due_ <= now && tries < links_.size(); ++tries) {
      size_t i = turn_++ % links_.size();
      if (!links_[i].fd || !links_[i].connected || links_[i].waiting) continue;
      Begin(i, next_due_);
      next_due_ += gap;
    }
    now = Now();
    // Still late: every connection waits for its answer, which wakes us.
    return next_due_ > now ? next_due_ - now : 10'000'000;
  }
  void Send(size_t i) {
    Link& link = links_[i];
    for (int round = 0; round < 8; ++round) {
      ssize_t n = send(link.fd.get(), request_.data() + link.sent, request_.size() - link.sent,
                       MSG_NOSIGNAL);
      if (n < 0) {
        if (errno != EAGAIN) return Broken(i, "send", errno);
        Want(i, EPOLLOUT);
        return;
      }
      all_bytes_ += static_cast<uint64_t>(n);
      if (measuring()) bytes_ += static_cast<uint64_t>(n);
      link.sent += static_cast<size_t>(n);
      if (link.sent < request_.size()) continue;
      if (mode_ != Mode::kBulk) break;
      link.sent = 0;
    }
    Want(i, mode_ == Mode::kBulk ? EPOLLOUT : EPOLLIN);
  }
  void Receive(size_t i) {
    Link& link = links_[i];
    ssize_t n = recv(link.fd.get(), buffer_.data(), buffer_.size(), 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return Broken(i, "receive", n == 0 ? ECONNRESET : errno);
    link.received += static_cast<size_t>(n);
    if (mode_ == Mode::kHttp) {
      if (link.expected == 0 && !ParseHead(link, static_cast<size_t>(n))) return;
      if (link.expected == 1) {
        ++bad_status_;
        return Broken(i, "http answer", EPROTO);
      }
      if (link.received < link.expected) return;
    } else if (link.received < request_.size()) {
      return;
    }
    ++all_samples_;
    if (link.started >= measure_) latency_->Add(Now() - link.started);
    link.waiting = false;
    if (mode_ == Mode::kConnect) {
      link.fd.Reset();
      Open(i);
    } else if (mode_ != Mode::kHttp || load_.rate <= 0) {
      Begin(i, Now());
    }
  }
  // False while the head is not complete. Sets `expected` to 1 for anything but a 200.
  bool ParseHead(Link& link, size_t n) {
    link.head.append(buffer_.data(), n);
    size_t end = link.head.find("\r\n\r\n");
    if (end == link.head.npos) return false;
    link.expected = 1;
    if (link.head.compare(0, 12, "HTTP/1.1 200") != 0) return true;
    size_t at = link.head.find("ontent-length: ");
    if (at == link.head.npos || at > end) at = link.head.find("ontent-Length: ");
    if (at == link.head.npos || at > end) return true;
    link.expected = end + 4 + std::strtoul(link.head.c_str() + at + 15, nullptr, 10);
    return true;
  }
  Result<std::string> Report() {
    double seconds = static_cast<double>(Now() - measure_) / 1e9;
    double count = static_cast<double>(latency_->count());
    auto us = [&](double p) { return static_cast<double>(latency_->Percentile(p)) / 1e3; };
    return fmt::format(
        R"({{"mode":"{}","connections":{},"seconds":{:.3f},"opened":{},"errors":{},"bad_status":{},)"
        R"("first_error":"{}","gbit_s":{:.4f},"per_second":{:.1f},"p50_us":{:.1f},"p90_us":{:.1f},)"
        R"("p99_us":{:.1f},"samples":{},"all_samples":{},"all_bytes":{}}})",
        load_.mode, load_.connections, seconds, opened_, errors_, bad_status_, first_error_,
        mode_ == Mode::kBulk ? static_cast<double>(bytes_) * 8 / seconds / 1e9 : 0.0,
        count / seconds, us(0.5), us(0.9), us(0.99), latency_->count(), all_samples_, all_bytes_);
  }

  const Load& load_;
  Mode mode_;
  std::string request_;
  Fd epoll_;
  std::vector<Link> links_;
  std::vector<char> buffer_ = std::vector<char>(256 * 1024);
  std::unique_ptr<Histogram> latency_ = std::make_unique<Histogram>();
  uint64_t begin_ = 0, measure_ = 0, end_ = 0, next_due_ = 0;
  size_t turn_ = 0;
  uint64_t all_bytes_ = 0,
           all_samples_ = 0;  // with the warm-up: what the proxies' CPU was spent on
  uint64_t bytes_ = 0, opened_ = 0, errors_ = 0, bad_status_ = 0;
  std::string first_error_;
};

}  // namespace

Result<std::string> RunLoad(const Load& load) {
  const std::pair<const char*, Mode> modes[] = {{"bulk", Mode::kBulk},
                                                {"rr", Mode::kRoundTrip},
                                                {"connect", Mode::kConnect},
                                                {"http", Mode::kHttp},
                                                {"idle", Mode::kIdle}};
  for (const auto& [name, mode] : modes) {
    if (load.mode == name) return Client(load, mode).Run();
  }
  return Fail(Code::kInvalidArgument,
              "unknown mode \"" + load.mode + "\": bulk, rr, connect, http or idle");
}

}  // namespace qanat::loadgen
