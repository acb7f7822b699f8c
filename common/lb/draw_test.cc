// SPDX-License-Identifier: Apache-2.0
#include "common/lb/draw.h"

#include <gtest/gtest.h>

#include <deque>

#include "common/lb/pick_cache.h"

namespace qanat::lb {
namespace {

using model::LbMode;
using model::LbScope;

class Drawn : public ::testing::Test {
 protected:
  Drawn() {
    service_.ports = {{80, 8080}, {81, 0}};
    for (const char* name : {"a", "b", "c"}) Add(name, "n1");
  }
  model::Workload& Add(const std::string& name, const std::string& node) {
    model::Workload& workload = all_.emplace_back();
    workload.uid = "Kubernetes//Pod/shop/" + name;
    workload.addresses = {*net::IpAddress::Parse("10.0.0." + std::to_string(all_.size()))};
    workload.node = node;
    return workload;
  }
  std::optional<Pick> Of(const std::string& name, const Avoid& avoid = {}, uint16_t port = 80) {
    model::EndpointList list;
    for (const model::Workload& workload : all_)
      list.push_back({model::WorkloadPtr(workload), nullptr});
    return PickDrawn(service_, list, source_, port, *net::IpAddress::Parse("10.96.0.1"),
                     DrawCode("Kubernetes//Pod/shop/" + name), avoid);
  }
  model::Service service_;
  std::deque<model::Workload> all_;
  model::Workload source_;
};

TEST(DrawCode, FitsAboveTheMark) {
  EXPECT_EQ(DrawCodeOfMark(0x53d), 0u);
  EXPECT_EQ(DrawCodeOfMark(0x1253a), 0u);
  EXPECT_EQ(DrawCodeOfMark(0), 0u);
  for (int i = 0; i < 10000; ++i) {
    const uint32_t code = DrawCode("w" + std::to_string(i));
    ASSERT_GT(code, 0u);
    ASSERT_EQ(DrawCodeOfMark(code << 12 | 0x53d), code);
  }
}

TEST_F(Drawn, IsTheEndpointOfItsCode) {
  for (const model::Workload& workload : all_) {
    const auto pick = Of(workload.uid.str().substr(21));
    ASSERT_TRUE(pick);
    EXPECT_EQ(pick->reason, model::Reason::kNone);
    EXPECT_EQ(pick->target.workload->uid, workload.uid);
    EXPECT_EQ(pick->target.target_port, 8080);
    EXPECT_EQ(pick->target.ip, workload.addresses.front());
  }
  EXPECT_FALSE(Of("nobody"));
}

TEST_F(Drawn, NobodyWhomAPickCouldNotFallOn) {
  EXPECT_TRUE(Of("a"));
  EXPECT_FALSE(Of("a", {}, 81)) << "not served there";
  EXPECT_FALSE(Of("a", {{"Kubernetes//Pod/shop/a"}, {}, {}})) << "tried";
  EXPECT_TRUE(Of("b", {{"Kubernetes//Pod/shop/a"}, {}, {}}));
  Avoid failing;
  failing.ejected = [this](const model::Workload& workload, uint16_t port) {
    return workload.uid == all_[0].uid && port == 8080;
  };
  EXPECT_FALSE(Of("a", failing));
  EXPECT_TRUE(Of("b", failing));
  all_[0].healthy = false;
  EXPECT_FALSE(Of("a"));
  all_[1].capacity = 0;
  EXPECT_FALSE(Of("b"));
  source_.node = "n2";
  service_.load_balancing = {{std::vector<LbScope>{LbScope::kNode}}, LbMode::kFailover, false};
  EXPECT_TRUE(Of("c"));
  Add("near", "n2");
  EXPECT_FALSE(Of("c")) << "there is a nearer one";
  EXPECT_TRUE(Of("near"));
}

TEST_F(Drawn, TwoOfOneCodeAreNotTold) {
  Add("a", "n1");
  EXPECT_FALSE(Of("a"));
}

}  // namespace
}  // namespace qanat::lb
