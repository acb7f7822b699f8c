// SPDX-License-Identifier: Apache-2.0
// The L4 policy engine, from the bytes of xDS to the verdict, against the slow model:
//   qanat-policy-differential [--cases N] [--seed S]
// Every world (policies and workloads that come, change and go) has a seed of its own, printed when
// the two disagree: --seed THAT --cases 1 shows it again alone.
#include <array>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "common/policy/policy.h"
#include "common/state/mesh_state.h"
#include "tests/differential/generator.h"

namespace qanat::differential {
namespace {

constexpr size_t kRounds = 3;                // of changes in a world
constexpr size_t kConnectionsPerRound = 20;  // looked at after each

struct Totals {
  uint64_t cases = 0, allowed = 0, denied = 0, no_allow = 0, unknown_name = 0, guessed = 0;
};

const std::array<std::string, 2> kUids = {"Kubernetes//Pod/shop/a", "Kubernetes//Pod/shop/b"};

net::IpAddress Ip(const std::string& bytes) {
  return net::IpAddress::FromBytes({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
}

policy::Request ToRequest(const Connection& connection) {
  policy::Request request;
  if (const auto& caller = connection.caller) {
    request.source = model::Identity{caller->trust_domain, caller->ns, caller->sa};
  }
  request.source_ip = Ip(connection.source_ip);
  request.destination_ip = Ip(connection.destination_ip);
  request.destination_port = connection.port;
  return request;
}

class Comparison {
 public:
  Comparison(uint64_t seed, Totals& totals) : seed_(seed), totals_(totals), make_(seed) {}

  bool Run() {
    for (const std::string& uid : kUids) PutWorkload(uid);
    for (size_t round = 0; round < kRounds; ++round) {
      const size_t least = round == 0 ? 8 : 1;  // at first most names are there
      for (size_t n = least + make_.random().Below(6); n > 0; --n) Change();
      const state::SnapshotPtr snapshot = state_.Publish();
      for (size_t i = 0; i < kConnectionsPerRound; ++i) {
        if (!Compare(*snapshot, make_.random().OneIn(2) ? kUids[0] : kUids[1])) return false;
      }
    }
    return true;
  }

 private:
  void PutWorkload(const std::string& uid) {
    const std::string ns = make_.Namespace();
    const auto names = make_.NamedPolicies();
    world_.PutWorkload(uid, ns, names);
    if (!state_.UpsertAddress(uid, EncodeWorkload(uid, ns, names))) std::abort();
  }

  void Change() {
    switch (make_.random().Below(8)) {
      case 0: return PutWorkload(make_.random().OneIn(2) ? kUids[0] : kUids[1]);
      case 1: {
        const std::string key = make_.PolicyKey();
        world_.RemovePolicy(key);
        return state_.RemoveAuthorization(key);
      }
      case 2:  // bytes that are no message change nothing: the earlier version stays
        if (state_.UpsertAuthorization(make_.PolicyKey(), "\x0a\x7f")) std::abort();
        return;
      default: {
        const Policy policy = make_.MakePolicy();
        world_.PutPolicy(policy);
        // An error here is a part that is not understood: applied all the same.
        (void)state_.UpsertAuthorization(policy.Key(), Encode(policy, make_.random()));
      }
    }
  }

  bool Compare(const state::MeshSnapshot& snapshot, const std::string& uid) {
    const Connection connection = make_.MakeConnection();
    const World::Verdict want = world_.Decide(uid, connection);
    const model::WorkloadPtr workload = snapshot.WorkloadByUid(uid);
    if (workload == nullptr) std::abort();
    const policy::PolicySet set = snapshot.PoliciesFor(*workload);
    const policy::Request request = ToRequest(connection);
    const policy::Decision got = policy::Evaluate(set, request);
    Count(want);
    std::string wrong;
    if (got.allowed != want.allowed) {
      wrong = "verdict";
    } else if (!got.allowed && !ReasonFits(got, want)) {
      wrong = "reason";
    } else if (totals_.cases % 16 == 0) {  // `why` says the same
      const auto explained = policy::Explain(set, request).decision;
      if (explained.allowed != got.allowed || explained.reason != got.reason ||
          explained.policy != got.policy) {
        wrong = "explanation";
      }
    }
    if (wrong.empty()) return true;
    Report(wrong, uid, connection, want, got);
    return false;
  }

  // A refusal names something that does refuse.
  static bool ReasonFits(const policy::Decision& got, const World::Verdict& want) {
    using model::Reason;
    const auto has = [&got](const std::vector<std::string>& list) {
      for (const std::string& name : list) {
        if (name == got.policy) return true;
      }
      return false;
    };
    switch (got.reason) {
      case Reason::kPolicyUnknown: return has(want.unknown);
      case Reason::kPolicyNoAllow: return want.any_allow && want.denied_by.empty();
      default: return has(want.denied_by) || (want.any_allow && want.denied_by.empty());
    }
  }

  void Count(const World::Verdict& want) {
    ++totals_.cases;
    if (want.guesses > 0) ++totals_.guessed;
    if (want.allowed) {
      ++totals_.allowed;
    } else if (!want.unknown.empty()) {
      ++totals_.unknown_name;
    } else if (!want.denied_by.empty()) {
      ++totals_.denied;
    } else {
      ++totals_.no_allow;
    }
  }

  void Report(const std::string& what, const std::string& uid, const Connection& connection,
              const World::Verdict& want, const policy::Decision& got) const {
    std::string text = "the two disagree (" + what + "): --seed " + std::to_string(seed_) +
                       " --cases 1\n" + Describe(connection) + " at " + uid +
                       "\nslow model: " + (want.allowed ? "allowed" : "refused");
    for (const auto& key : want.denied_by) text += ", DENY " + key;
    for (const auto& key : want.unknown) text += ", never received " + key;
    text += std::string("\nengine: ") + (got.allowed ? "allowed " : "refused ") +
            std::string(model::ToString(got.reason)) + " " + got.policy + "\n";
    for (const auto& [key, policy] : world_.policies()) text += Describe(policy);
    std::fputs(text.c_str(), stderr);
  }

  const uint64_t seed_;
  Totals& totals_;
  Generator make_;
  World world_;
  state::MeshState state_;
};

// A generator that stopped making one kind of case would test nothing and say so nowhere.
bool Varied(const Totals& t) {
  const auto share = [&t](uint64_t n) {
    return 100.0 * static_cast<double>(n) / static_cast<double>(t.cases);
  };
  std::printf("%" PRIu64
              " cases: %.1f %% allowed, %.1f %% refused by DENY, %.1f %% for want of ALLOW, "
              "%.1f %% by a name never received; %.1f %% with parts not understood\n",
              t.cases, share(t.allowed), share(t.denied), share(t.no_allow), share(t.unknown_name),
              share(t.guessed));
  if (t.cases < 10000) return true;
  for (const uint64_t n : {t.allowed, t.denied, t.no_allow, t.unknown_name, t.guessed}) {
    if (share(n) < 5) {
      std::fputs("one kind of case is rarer than 5 %: mend the generator\n", stderr);
      return false;
    }
  }
  return true;
}

int Main(int argc, char** argv) {
  uint64_t cases = 200000, seed = 1;
  for (int i = 1; i + 1 < argc; i += 2) {
    uint64_t& value = std::strcmp(argv[i], "--seed") == 0 ? seed : cases;
    if (&value == &cases && std::strcmp(argv[i], "--cases") != 0) {
      std::fprintf(stderr, "usage: %s [--cases N] [--seed S]\n", argv[0]);
      return 2;
    }
    value = std::strtoull(argv[i + 1], nullptr, 10);
  }
  std::printf("policy engine against the slow model: seed %" PRIu64 ", %" PRIu64 " cases\n", seed,
              cases);
  std::fflush(stdout);
  Totals totals;
  for (uint64_t world = seed; totals.cases < cases; ++world) {
    if (!Comparison(world, totals).Run()) return 1;
  }
  return Varied(totals) ? 0 : 1;
}

}  // namespace
}  // namespace qanat::differential

int main(int argc, char** argv) { return qanat::differential::Main(argc, argv); }
