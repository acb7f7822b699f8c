// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/dns/resolver.h"

#include <sys/socket.h>

#include <utility>

#include "common/dns/response.h"

namespace qanat::ztunnel::dns {

namespace wire = ::qanat::dns;

Resolver::Entry::Entry(event::EventLoop& loop, const Config& config, const PodPtr& of)
    : pod(of),
      settings(PodFilePath(config.inpod_uds, of->uid), config.resolv_conf, of->ns,
               config.cluster_domain),
      forwarder(loop, of, config.packet_mark, settings, {}) {}

// One lookup: the preferred family, then the other one.
class Resolver::Run : public std::enable_shared_from_this<Resolver::Run> {
 public:
  Run(std::weak_ptr<Entry> entry, std::string host, int family, Done done)
      : entry_(std::move(entry)), host_(std::move(host)), family_(family), done_(std::move(done)) {}

  void Ask() {
    const auto entry = entry_.lock();
    const auto name = wire::WireOf(host_);
    if (entry == nullptr) return Finish(Fail(Code::kCancelled, "the pod was removed"));
    if (!name) return Finish(Fail(Code::kInvalidArgument, host_ + " is no host name"));
    const uint16_t type = family_ == AF_INET6 ? wire::type::kAaaa : wire::type::kA;
    const auto query = wire::BuildQuery(0, *name, type);
    Send(*entry, query, type, false);
  }
  void Cancel() { done_ = {}; }

 private:
  void Send(Entry& entry, const std::vector<uint8_t>& query, uint16_t type, bool tcp) {
    entry.forwarder.Ask(
        query, type, tcp,
        [self = shared_from_this(), query, type, tcp](wire::Bytes answer, Forwarder::Origin) {
          self->OnAnswer(query, type, tcp, answer);
        });
  }
  void OnAnswer(const std::vector<uint8_t>& query, uint16_t type, bool tcp, wire::Bytes answer) {
    const auto header = wire::ReadHeader(answer);
    const auto entry = entry_.lock();
    if (!tcp && header && header->truncated() && entry) return Send(*entry, query, type, true);
    auto found = wire::AddressesIn(answer, type);
    if (!found.ips.empty()) return Finish(std::move(found.ips));
    reached_ = reached_ || (header && (header->rcode() == 0 || header->rcode() == 3));
    if (!second_) {
      second_ = true;
      family_ = family_ == AF_INET6 ? AF_INET : AF_INET6;
      return Ask();
    }
    if (reached_) return Finish(Fail(Code::kNotFound, host_ + " has no address"));
    Finish(Fail(Code::kUnavailable, "no name server answers for " + host_));
  }
  void Finish(Result<std::vector<net::IpAddress>> result) {
    if (Done done = std::exchange(done_, {})) done(std::move(result));
  }

  std::weak_ptr<Entry> entry_;
  std::string host_;
  int family_;
  Done done_;
  bool second_ = false;
  bool reached_ = false;
};

std::unique_ptr<Resolver::Lookup> Resolver::Resolve(const PodPtr& pod, const std::string& host,
                                                    int family, Done done) {
  struct Handle final : Lookup {
    explicit Handle(std::shared_ptr<Run> of) : run(std::move(of)) {}
    ~Handle() override { run->Cancel(); }
    std::shared_ptr<Run> run;
  };
  auto& entry = pods_[pod->uid];
  if (entry == nullptr || entry->pod->netns_cookie != pod->netns_cookie) {
    entry = std::make_shared<Entry>(loop_, config_, pod);
  }
  auto run = std::make_shared<Run>(entry, host, family, std::move(done));
  auto handle = std::make_unique<Handle>(run);
  loop_.Post([run] { run->Ask(); });
  return handle;
}

}  // namespace qanat::ztunnel::dns
