// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/container.h"

#include <fmt/format.h>
#include <signal.h>

#include "common/base/log.h"

namespace qanat::local {

SpawnSpec InsideSpec(pid_t pid, const std::vector<std::string>& argv,
                     const std::vector<std::string>& env, const std::string& cgroup) {
  SpawnSpec spec;
  // -r: the container's root is a chroot of its mount namespace.
  spec.argv = {"/usr/bin/nsenter", "-t", std::to_string(pid), "-m", "-u", "-n", "-r", "-w", "--"};
  spec.argv.insert(spec.argv.end(), argv.begin(), argv.end());
  spec.env = env;
  spec.cgroup = cgroup;
  return spec;
}

void Container::StartProbes(event::EventLoop& loop, const netns::NetNs& node,
                            const net::IpAddress& pod_ip, const std::function<void()>& changed) {
  const pid_t pid = program->pid();
  if (pid == probed_pid_) return;
  probed_pid_ = pid;
  StopProbes();
  probe_ok_ = started_ok_ = false;
  if (pid == 0) return;
  ProbeTarget target;
  target.node = &node;
  target.pod_ip = pod_ip;
  target.inside = [this, pid](const std::vector<std::string>& argv) {
    return InsideSpec(pid, argv, env, cgroup);
  };
  if (spec.readiness) {
    readiness_ = std::make_unique<Probe>(loop, *spec.readiness, target,
                                         [this, changed](bool ok, const std::string&) {
                                           probe_ok_ = ok;
                                           changed();
                                         });
  }
  if (spec.startup) {
    startup_ = std::make_unique<Probe>(
        loop, *spec.startup, target, [this, changed](bool ok, const std::string& why) {
          started_ok_ = ok;
          if (!ok) {
            LOG_WARN("pod", "{}: startup probe failed: {}", pod_, why);
            program->Signal(SIGTERM);
          }
          changed();
        });
  }
  if (spec.liveness) {
    liveness_ = std::make_unique<Probe>(
        loop, *spec.liveness, target, [this](bool ok, const std::string& why) {
          if (ok) return;
          LOG_WARN("pod", "{}: liveness probe failed: {}", pod_, why);
          program->Restart();
        });
  }
}

void Container::StopProbes() {
  readiness_.reset();
  liveness_.reset();
  startup_.reset();
}

bool Container::ready() const {
  return program->state() == Program::State::kRunning && (!spec.readiness || probe_ok_) &&
         (!spec.startup || started_ok_);
}

std::string Container::WhyNotReady() const {
  if (program->state() == Program::State::kWaiting) {
    return fmt::format("container {}: {} (restart {} waits; log: {})", spec.name,
                       program->last_end(), program->restarts() + 1, log);
  }
  if (readiness_ && !readiness_->last_failure().empty()) {
    return fmt::format("container {}: readiness probe: {}", spec.name, readiness_->last_failure());
  }
  return fmt::format("container {}: waiting for its readiness probe", spec.name);
}

}  // namespace qanat::local
