// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/program.h"

#include <signal.h>

#include <algorithm>

#include "common/base/log.h"

namespace qanat::local {

Program::Program(event::EventLoop& loop, std::string name, Backoff backoff, MakeSpec make_spec,
                 std::function<void()> on_change)
    : loop_(loop),
      name_(std::move(name)),
      backoff_(backoff),
      make_spec_(std::move(make_spec)),
      on_change_(std::move(on_change)),
      timer_(loop, [this] { Start(); }),
      kill_timer_(loop, [this] { Signal(SIGKILL); }) {}

Program::~Program() = default;

void Program::Start() {
  if (process_ && process_->running()) return;
  wanted_ = true;
  timer_.Stop();
  Result<SpawnSpec> spec = make_spec_();
  if (!spec) {
    Wait(spec.error().message);
    on_change_();
    return;
  }
  auto process = Process::Start(loop_, *spec, [this](ExitInfo info) { OnExit(info); });
  if (!process) {
    LOG_WARN("program", "{}: {}", name_, process.error().message);
    Wait(process.error().message);
    on_change_();
    return;
  }
  process_ = std::move(*process);
  state_ = State::kRunning;
  started_ = event::Clock::now();
  LOG_INFO("program", "{}: started, pid {}", name_, process_->pid());
  on_change_();
}

void Program::Wait(const std::string& why) {
  last_end_ = why;
  state_ = State::kWaiting;
  delay_ = delay_.count() == 0 ? backoff_.first : std::min(delay_ * 2, backoff_.most);
  timer_.Start(delay_);
}

void Program::OnExit(ExitInfo info) {
  kill_timer_.Stop();
  if (!wanted_) {
    state_ = State::kStopped;
    LOG_INFO("program", "{}: stopped ({})", name_, info.ToString());
    on_change_();
    return;
  }
  const bool again = immediate_ || restart_always_ || (restart_on_failure_ && !info.ok());
  if (!again) {
    state_ = State::kCompleted;
    completed_ok_ = info.ok();
    last_end_ = info.ToString();
    wanted_ = false;
    on_change_();
    return;
  }
  ++restarts_;
  if (event::Clock::now() - started_ >= backoff_.quiet) delay_ = {};
  LOG_WARN("program", "{}: ended with {}; restart {}", name_, info.ToString(), restarts_);
  if (immediate_) {
    immediate_ = false;
    last_end_ = info.ToString();
    state_ = State::kWaiting;
    timer_.Start(std::chrono::milliseconds(0));
  } else {
    Wait(info.ToString());
  }
  on_change_();
}

void Program::Stop(std::chrono::milliseconds grace) {
  wanted_ = false;
  timer_.Stop();
  if (process_ && process_->running()) {
    process_->Signal(SIGTERM);
    kill_timer_.Start(grace);
  } else {
    state_ = State::kStopped;
  }
}

void Program::Restart() {
  if (process_ && process_->running()) {
    immediate_ = true;
    process_->Signal(SIGTERM);
    kill_timer_.Start(std::chrono::seconds(5));
  } else {
    Start();
  }
}

void Program::Signal(int signal) {
  if (process_) process_->Signal(signal);
}

}  // namespace qanat::local
