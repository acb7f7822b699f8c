// SPDX-License-Identifier: Apache-2.0
// The built node proxy as a process, between a fake control plane and a fake node agent of the
// test. Lives on the test's thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/integration/ztunnel/bed.h"
#include "tests/support/child.h"

namespace qanat::interop {

class Program {
 public:
  static constexpr int kWorkers = 2;
  // Starts it and waits for its connection to the agent.
  Program(const std::string& name, const std::string& dir,
          const ztunnel::test::FakeControlPlane& control_plane, const std::string& network = "");
  // Ends it, if the test has not; that it ended in order is an expectation of the test.
  ~Program();

  ztunnel::test::FakeAgent& agent() { return *agent_; }
  test::Child& child() { return *child_; }
  std::string Enrol(const std::string& name, const ztunnel::test::PodNet& pod);
  double Metric(const std::string& name, const std::vector<std::string>& with = {}) const;
  // Whether that value comes to match; what is seen from outside may run ahead of a counter.
  testing::AssertionResult Counts(const std::string& name, const std::vector<std::string>& with,
                                  const testing::Matcher<double>& value) const;
  // Whether the log comes to have it: lines are written behind what is seen from outside.
  bool Logs(const std::string& text) const { return child_->WaitForLog(text); }
  std::string Log() const { return child_->Log(); }

 private:
  std::unique_ptr<ztunnel::test::FakeAgent> agent_;
  std::unique_ptr<test::Child> child_;
  net::SocketAddress metrics_;
};

}  // namespace qanat::interop
