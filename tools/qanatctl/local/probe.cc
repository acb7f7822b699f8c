// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/probe.h"

#include <fmt/format.h>
#include <signal.h>

namespace qanat::local {
namespace {

// Until a probe has succeeded for the first time it is tried this often, whatever its period: a
// machine-local mesh should be up in seconds. Afterwards the YAML's period holds.
constexpr std::chrono::milliseconds kEagerPeriod{200};
constexpr int kEagerTries = 150;

}  // namespace

Probe::Probe(event::EventLoop& loop, ProbeSpec spec, ProbeTarget target, OnChange on_change)
    : loop_(loop),
      spec_(std::move(spec)),
      target_(std::move(target)),
      on_change_(std::move(on_change)),
      timer_(loop, [this] { Run(); }) {
  timer_.Start(spec_.initial_delay_s > 0 ? std::chrono::milliseconds(spec_.initial_delay_s * 1000)
                                         : std::chrono::milliseconds(20));
}

void Probe::Run() {
  ++started_;
  const std::chrono::milliseconds timeout(spec_.timeout_s * 1000);
  ctl::HttpTarget to;
  to.netns = target_.node;
  net::IpAddress ip = target_.pod_ip;
  if (!spec_.host.empty()) {
    auto parsed = net::IpAddress::Parse(spec_.host);
    if (!parsed) return Result(false, "probe host " + spec_.host + " is not an IP address");
    ip = *parsed;
  }
  to.address = net::SocketAddress(ip, spec_.port);
  switch (spec_.kind) {
    case ProbeSpec::Kind::kHttp: {
      ctl::HttpRequest request;
      request.path = spec_.path;
      request.host = to.address.ToString();
      request.headers = spec_.headers;
      for (const auto& [name, value] : spec_.headers) {
        if (name == "Host") request.host = value;
      }
      request.headers.emplace_back("User-Agent", "kube-probe/qanat-local");
      call_ = std::make_unique<ctl::HttpCall>(
          loop_, to, request, timeout, [this](qanat::Result<ctl::HttpResponse> answer) {
            if (!answer) return Result(false, answer.error().message);
            // As the kubelet: 200 to 399 is a success.
            Result(answer->status >= 200 && answer->status < 400,
                   fmt::format("HTTP {} from port {}{}", answer->status, spec_.port, spec_.path));
          });
      return;
    }
    case ProbeSpec::Kind::kTcp:
      call_ = ctl::HttpCall::Connect(
          loop_, to, timeout, [this](qanat::Result<ctl::HttpResponse> answer) {
            Result(answer.has_value(), answer ? "" : answer.error().message);
          });
      return;
    case ProbeSpec::Kind::kExec: {
      auto started = Process::Start(loop_, target_.inside(spec_.command), [this](ExitInfo info) {
        kill_timer_.reset();
        Result(info.ok(), "the probe's command ended with " + info.ToString());
      });
      if (!started) return Result(false, started.error().message);
      process_ = std::move(*started);
      kill_timer_ = std::make_unique<event::Timer>(loop_, [this] { process_->Signal(SIGKILL); });
      kill_timer_->Start(timeout);
      return;
    }
  }
}

void Probe::Result(bool ok, std::string reason) {
  successes_ = ok ? successes_ + 1 : 0;
  failures_ = ok ? 0 : failures_ + 1;
  last_failure_ = ok ? "" : std::move(reason);
  bool changed = false;
  if (ok && (!known_ || !ok_) && successes_ >= spec_.success_threshold) {
    known_ = ok_ = changed = true;
  }
  // A probe that has never succeeded has nothing to lose: the eager tries do not count as failures
  // of the container until the YAML's own patience is used up.
  const bool patience = !known_ && started_ < kEagerTries;
  if (!ok && (!known_ || ok_) && failures_ >= spec_.failure_threshold && !patience) {
    known_ = changed = true;
    ok_ = false;
  }
  // Next() first: the callback may destroy this.
  Next();
  if (changed) on_change_(ok_, last_failure_);
}

void Probe::Next() {
  const bool eager = !known_ && started_ < kEagerTries;
  const std::chrono::milliseconds period(spec_.period_s * 1000);
  timer_.Start(eager ? std::min(kEagerPeriod, period) : period);
}

}  // namespace qanat::local
