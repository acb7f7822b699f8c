// SPDX-License-Identifier: Apache-2.0
#include "tests/interop/ztunnel/program.h"

#include <fmt/format.h>
#include <unistd.h>

namespace qanat::interop {

Program::Program(const std::string& name, const std::string& dir,
                 const ztunnel::test::FakeControlPlane& control_plane, const std::string& network) {
  const std::string socket = dir + "/" + name + ".sock";
  agent_ = std::make_unique<ztunnel::test::FakeAgent>(socket);
  test::Child::Options run;
  run.command = {QANAT_ZTUNNEL};
  run.environment = {
      "NODE_NAME=" + name,
      "NETWORK=" + network,
      "POD_NAME=ztunnel-" + name,
      "POD_NAMESPACE=qanat-system",
      "XDS_ADDRESS=" + control_plane.endpoint(),
      "CA_ADDRESS=" + control_plane.endpoint(),
      "AUTH_TOKEN=a-test-token",
      "INPOD_UDS=" + socket,
      "QANAT_ADMIN_ADDR=127.0.0.1:0",
      "QANAT_METRICS_ADDR=127.0.0.1:0",
      "QANAT_READINESS_ADDR=127.0.0.1:0",
      "ENABLE_ORIG_SRC=false",  // replies to a foreign source need the kernel programs' routing
      "ZTUNNEL_WORKER_THREADS=" + std::to_string(kWorkers),
  };
  run.log = dir + "/" + name + ".log";
  child_ = std::make_unique<test::Child>(run);
  EXPECT_TRUE(child_->WaitForLog("readiness ")) << Log();
  EXPECT_TRUE(agent_->Accept()) << "the proxy did not connect to its agent\n" << Log();
  const std::string log = Log(), before = "metrics ";
  const size_t at = log.find(before) + before.size();
  auto metrics = net::SocketAddress::Parse(log.substr(at, log.find(',', at) - at));
  EXPECT_TRUE(metrics.has_value()) << log;
  if (metrics) metrics_ = *metrics;
}

Program::~Program() {
  const bool ran = child_->running();
  EXPECT_EQ(ran ? child_->Stop() : child_->Wait(0), "exit code 0") << Log();
  EXPECT_EQ(test::FindReport(Log()), "");
}

std::string Program::Enrol(const std::string& name, const ztunnel::test::PodNet& pod) {
  return agent_->Add("uid-" + name, "shop", name, name, pod.netns().fd());
}

double Program::Metric(const std::string& name, const std::vector<std::string>& with) const {
  return ztunnel::test::SumOf(ztunnel::test::HttpGet(metrics_, "GET", "/metrics"), name, with);
}

testing::AssertionResult Program::Counts(const std::string& name,
                                         const std::vector<std::string>& with,
                                         const testing::Matcher<double>& value) const {
  return ztunnel::test::Comes(name, [&] { return Metric(name, with); }, value);
}

}  // namespace qanat::interop
