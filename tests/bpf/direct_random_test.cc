// SPDX-License-Identifier: Apache-2.0
// Random policies, every pair of two pods, port and family: the verdict that lies in the kernel is
// the policy engine's, and so is what a connection gets.
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "common/policy/policy.h"
#include "common/route/mesh_for_test.h"
#include "tests/bpf/direct_bed.h"
#include "tests/bpf/mesh_server.h"

namespace qanat::test {
namespace {

using istio::security::Authorization;

constexpr int kRounds = 12;
constexpr uint16_t kPorts[] = {8080, 8081};

class Chance {
 public:
  explicit Chance(unsigned seed) : random_(seed) {}
  bool Of(int percent) { return static_cast<int>(random_() % 100) < percent; }
  template <typename T>
  const T& OneOf(const std::vector<T>& list) {
    return list[random_() % list.size()];
  }

 private:
  std::mt19937 random_;
};

void AddBlock(istio::security::Address* block, const std::string& ip, uint32_t length) {
  block->set_address(route::IpBytes(ip));
  block->set_length(length);
}

Authorization RandomPolicy(Chance& chance, int number) {
  Authorization policy;
  policy.set_name("random-" + std::to_string(number));
  policy.set_namespace_("shop");
  policy.set_scope(istio::security::NAMESPACE);
  policy.set_action(chance.Of(50) ? istio::security::DENY : istio::security::ALLOW);
  for (int rule = chance.Of(30) ? 2 : 1; rule > 0; --rule) {
    auto& match = *policy.add_rules()->add_clauses()->add_matches();
    const std::string who =
        chance.OneOf<std::string>({"cluster.local/ns/shop/sa/sa-a", "cluster.local/ns/shop/sa/sa-b",
                                   "cluster.local/ns/shop/sa/nobody"});
    if (chance.Of(40)) match.add_principals()->set_exact(who);
    if (chance.Of(15)) match.add_not_principals()->set_exact(who);
    if (chance.Of(10)) match.add_namespaces()->set_exact(chance.Of(50) ? "shop" : "other");
    if (chance.Of(25))
      AddBlock(match.add_source_ips(), chance.Of(50) ? "10.66.1.10" : "fd66:1::10", 32);
    if (chance.Of(15)) AddBlock(match.add_not_source_ips(), "10.66.1.0", 24);
    if (chance.Of(15)) AddBlock(match.add_destination_ips(), "10.66.1.11", 32);
    if (chance.Of(40)) match.add_destination_ports(chance.Of(50) ? 8080 : 8081);
    if (chance.Of(15)) match.add_not_destination_ports(8080);
  }
  return policy;
}

class DirectRandomTest : public ::testing::Test {
 protected:
  DirectRandomTest()
      : bed_("qRANDOM", [this](DirectBed& bed) {
          mesh_ = std::make_unique<MeshServer>(bed.bed);
          for (const auto& pod : {bed.a, bed.b}) {
            mesh_->Put(WorkloadOf(pod));
            oracle_.Put(WorkloadOf(pod));
          }
        }) {}
  bool Allowed(const Bed::PodInfo& from, const Bed::PodInfo& to, uint16_t port, bool v6) {
    const auto snapshot = oracle_.Snapshot();
    const auto target = snapshot->WorkloadByUid("Kubernetes//Pod/shop/" + to.name);
    const auto source = snapshot->WorkloadByUid("Kubernetes//Pod/shop/" + from.name);
    return policy::Evaluate(snapshot->PoliciesFor(*target),
                            {source->identity(), route::Ip(v6 ? from.ip6 : from.ip4),
                             route::Ip(v6 ? to.ip6 : to.ip4), port})
        .allowed;
  }
  // What the kernel holds of it once the agent has answered.
  uint32_t Verdict(const Bed::PodInfo& from, const Bed::PodInfo& to, uint16_t port, bool v6) {
    const qanat_verdict_key key{bed_.KernelPod(from).serial, bed_.KernelPod(to).serial, port,
                                static_cast<uint8_t>(v6 ? 6 : 4), 0};
    uint32_t what = QANAT_VERDICT_ASKED;
    bed_.bed.WaitFor(
        [&] {
          auto verdict = bed_.maps.verdicts.Lookup(key);
          if (!verdict || !*verdict || (*verdict)->what == QANAT_VERDICT_ASKED) {
            Dial(from, to, port, v6);  // asks, when nobody has
            return false;
          }
          what = (*verdict)->what;
          return true;
        },
        5000);
    return what;
  }
  std::string Dial(const Bed::PodInfo& from, const Bed::PodInfo& to, uint16_t port, bool v6) {
    const std::string host = v6 ? "[" + to.ip6 + "]" : to.ip4;
    const std::string line = bed_.From(from, {.to = host + ":" + std::to_string(port)});
    return line.substr(0, line.find(' '));
  }

  std::unique_ptr<MeshServer> mesh_;
  route::TestMesh oracle_;
  DirectBed bed_;
};

TEST_F(DirectRandomTest, TheKernelsVerdictIsThePolicyEngines) {
  const char* given = std::getenv("QANAT_SEED");
  const unsigned seed = given != nullptr ? static_cast<unsigned>(std::atoi(given)) : 20261124u;
  Chance chance(seed);
  int direct = 0, refused = 0;
  ASSERT_TRUE(mesh_->WaitAcked());
  for (int round = 0; round < kRounds; ++round) {
    // The same names each time: a policy is replaced, never missing.
    for (int number = 0; number < 2; ++number) {
      const Authorization policy = RandomPolicy(chance, number);
      mesh_->Put(policy);
      oracle_.Put(policy);
    }
    ASSERT_TRUE(mesh_->WaitAcked());
    for (const auto& [from, to] : {std::pair{bed_.a, bed_.b}, std::pair{bed_.b, bed_.a}}) {
      for (const uint16_t port : kPorts) {
        for (const bool v6 : {false, true}) {
          SCOPED_TRACE("seed " + std::to_string(seed) + " round " + std::to_string(round) + " " +
                       from.name + " -> " + to.name + ":" + std::to_string(port) +
                       (v6 ? " v6" : " v4"));
          const bool allowed = Allowed(from, to, port, v6);
          EXPECT_EQ(Verdict(from, to, port, v6),
                    allowed ? uint32_t{QANAT_VERDICT_DIRECT} : uint32_t{QANAT_VERDICT_NO});
          if (port == 8080)
            EXPECT_EQ(Dial(from, to, port, v6), allowed ? "app" : "out");
          else if (!allowed)
            EXPECT_EQ(Dial(from, to, port, v6), "out");
          ++(allowed ? direct : refused);
        }
      }
    }
    ASSERT_FALSE(HasFailure()) << bed_.bed.Admin("/direct");
  }
  EXPECT_GT(std::min(direct, refused), kRounds) << "else this shows nothing";
  EXPECT_EQ(bed_.bed.SanitizerReport(), "");
}

}  // namespace
}  // namespace qanat::test
