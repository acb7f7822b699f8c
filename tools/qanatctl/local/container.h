// SPDX-License-Identifier: Apache-2.0
// One container of a pod: its program, its probes, and whether it is ready. Owned by its Pod, on
// the supervisor's loop.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tools/qanatctl/local/probe.h"
#include "tools/qanatctl/local/program.h"
#include "tools/qanatctl/local/spec.h"

namespace qanat::local {

// How to run a command as a running container would; `pid` is the container's.
SpawnSpec InsideSpec(pid_t pid, const std::vector<std::string>& argv,
                     const std::vector<std::string>& env, const std::string& cgroup);

class Container {
 public:
  // `pod` is NAMESPACE/NAME for the log.
  Container(std::string pod, ContainerSpec spec, bool is_init, std::string cgroup,
            std::string log_path)
      : spec(std::move(spec)),
        init(is_init),
        cgroup(std::move(cgroup)),
        log(std::move(log_path)),
        pod_(std::move(pod)) {}

  // Probes what runs now, if it is another process than before; `changed` follows readiness.
  void StartProbes(event::EventLoop& loop, const netns::NetNs& node, const net::IpAddress& pod_ip,
                   const std::function<void()>& changed);
  void StopProbes();

  bool ready() const;
  std::string WhyNotReady() const;
  bool completed() const { return program->state() == Program::State::kCompleted; }
  bool completed_ok() const { return completed() && program->completed_ok(); }

  const ContainerSpec spec;
  const bool init;
  const std::string cgroup;
  std::string log;
  std::vector<std::string> env;  // of the last start, for commands run inside
  std::unique_ptr<Program> program;

 private:
  const std::string pod_;
  pid_t probed_pid_ = 0;
  std::unique_ptr<Probe> readiness_;
  std::unique_ptr<Probe> liveness_;
  std::unique_ptr<Probe> startup_;
  bool probe_ok_ = false;
  bool started_ok_ = false;
};

}  // namespace qanat::local
