// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/spare_sockets.h"

#include <algorithm>

namespace qanat::ztunnel {

Result<Fd> SpareSockets::StartConnect(const net::ConnectOptions& options) {
  Result<Fd> fd = Make(options);
  if (!fd && kept_ > 0) {  // others' spare ones may be what is missing
    Clear();
    fd = Make(options);
  }
  if (!fd) return tl::unexpected(fd.error());
  return net::StartConnect(std::move(*fd), options);
}

Result<Fd> SpareSockets::Make(const net::ConnectOptions& options) {
  Fd fd;
  // Of our own namespace there is nothing to be spared; what is bound to a device is rare.
  if (options.netns == nullptr || !options.bind_device.empty()) {
    QANAT_ASSIGN_OR_RETURN(std::vector<Fd> made, net::MakeSockets(options, 1));
    fd = std::move(made.front());
  } else {
    QANAT_ASSIGN_OR_RETURN(fd, Take(options));
  }
  if (fd.get() >= kept_from_) return FailErrno("connect to " + options.to.ToString(), EMFILE);
  return fd;
}

SpareSockets::Stock& SpareSockets::Find(const netns::Id& where, const Kind& kind) {
  std::vector<Stock>& stocks = stocks_[where];
  const auto found = std::find_if(stocks.begin(), stocks.end(),
                                  [&](const Stock& stock) { return stock.kind == kind; });
  if (found != stocks.end()) return *found;
  stocks.push_back({});
  stocks.back().kind = kind;
  return stocks.back();
}

Result<Fd> SpareSockets::Take(const net::ConnectOptions& options) {
  Stock& stock = Find(options.netns->id(), {options.to.ip().family(), options.transparent,
                                            options.no_delay, options.mark, options.keepalive});
  const event::TimePoint now = loop_.now();
  stock.used = now;
  if (!expire_.armed()) expire_.Start(kSoon);
  if (stock.fds.empty()) {
    const bool soon = stock.made != event::TimePoint{} && now - stock.made < kSoon;
    stock.batch = soon ? std::min(2 * stock.batch, kMostAtOnce) : 1;
    stock.made = now;
    const size_t room = kMostKept - std::min(kept_, kMostKept);
    QANAT_ASSIGN_OR_RETURN(stock.fds, net::MakeSockets(options, std::min(stock.batch, 1 + room)));
    kept_ += stock.fds.size();
  }
  Fd fd = std::move(stock.fds.back());
  stock.fds.pop_back();
  --kept_;
  return fd;
}

void SpareSockets::Forget(const netns::NetNs& netns) {
  const auto it = stocks_.find(netns.id());
  if (it == stocks_.end()) return;
  for (const Stock& stock : it->second) kept_ -= stock.fds.size();
  stocks_.erase(it);
}

void SpareSockets::Clear() {
  stocks_.clear();
  kept_ = 0;
}

void SpareSockets::Expire() {
  const event::TimePoint now = loop_.now();
  for (auto& [where, stocks] : stocks_) {
    std::erase_if(stocks, [&](const Stock& stock) {
      const bool over = now - stock.used >= kSoon;
      if (over) kept_ -= stock.fds.size();
      return over;
    });
  }
  std::erase_if(stocks_, [](const auto& one) { return one.second.empty(); });
  if (!stocks_.empty()) expire_.Start(kSoon);
}

}  // namespace qanat::ztunnel
