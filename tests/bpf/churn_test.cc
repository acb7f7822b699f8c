// SPDX-License-Identifier: Apache-2.0
// Pods that come and go. The bed's own rate is taken first, without an agent; then the agent gets
// as many at 70 % of it, every pod is enrolled before it is deleted, and nothing is left at the
// end. QANAT_CHURN=PODS,CYCLES says how many at once and in all. Limits of rate, processor and
// memory hold for a released agent on a machine with nothing else (QANAT_AGENT): with
// QANAT_CHURN_LIMITS=1.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/bpf/bed.h"

namespace qanat::test {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

struct Size {
  int pods = 30, cycles = 60;
};
Size SizeAsked() {
  Size size;
  if (const char* given = std::getenv("QANAT_CHURN"))
    EXPECT_EQ(std::sscanf(given, "%d,%d", &size.pods, &size.cycles), 2) << given;
  return size;
}

// `ip` with a batch of commands, in that namespace ("" for ours).
bool Ip(const std::string& netns, const std::string& commands) {
  int ends[2];
  if (::pipe(ends) != 0) return false;
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[0], 0);
    ::close(ends[0]);
    ::close(ends[1]);
    if (netns.empty())
      ::execlp("ip", "ip", "-batch", "-", nullptr);
    else
      ::execlp("ip", "ip", "-n", netns.c_str(), "-batch", "-", nullptr);
    ::_exit(97);
  }
  ::close(ends[0]);
  (void)!::write(ends[1], commands.data(), commands.size());
  ::close(ends[1]);
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// A namespace of that name, as `ip netns add` makes one.
bool AddNetns(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0444);
  if (file < 0) return false;
  ::close(file);
  const pid_t child = ::fork();
  if (child == 0)
    ::_exit(::unshare(CLONE_NEWNET) == 0 &&
                    ::mount("/proc/self/ns/net", path.c_str(), "none", MS_BIND, nullptr) == 0
                ? 0
                : 1);
  int status = 0;
  ::waitpid(child, &status, 0);
  return status == 0;
}

class Churn : public ::testing::Test {
 protected:
  Churn() : bed_("qCHURN") {
    EXPECT_TRUE(Ip(bed_.node_ns(),
                   "addr add 10.67.255.254/16 dev br0\naddr add fd67::ffff/64 dev br0 nodad\n"));
  }
  ~Churn() override {
    while (!pods_.empty()) Delete();
    EXPECT_EQ(bed_.SanitizerReport(), "");
    if (HasFailure()) {
      const std::string log = bed_.Log();
      std::fprintf(stderr, "%s\n", log.substr(log.size() > 20000 ? log.size() - 20000 : 0).c_str());
    }
  }
  void Create(bool shown) {
    const int number = ++made_;
    Bed::PodInfo pod;
    pod.name = "p" + std::to_string(number);
    pod.uid = "uid-" + pod.name;
    pod.netns = "qCHURN-" + pod.name;
    const int low = number % 60000 + 1;
    pod.ip4 = "10.67." + std::to_string(low / 250) + "." + std::to_string(low % 250 + 1);
    char hex[8];
    std::snprintf(hex, sizeof hex, "%x", static_cast<unsigned>(low));
    pod.ip6 = std::string("fd67::") + hex;
    const std::string link = "v" + pod.name;
    ASSERT_TRUE(AddNetns("/run/netns/" + pod.netns));
    ASSERT_TRUE(Ip(bed_.node_ns(), "link add " + link + " type veth peer name eth0 netns " +
                                       pod.netns + "\nlink set " + link + " master br0 up\n"));
    ASSERT_TRUE(Ip(pod.netns, "link set lo up\nlink set eth0 up\naddr add " + pod.ip4 +
                                  "/16 dev eth0\naddr add " + pod.ip6 +
                                  "/64 dev eth0 nodad\nroute add default via 10.67.255.254\n"));
    if (shown) bed_.ShowPod(pod);
    pods_.push_back(pod);
  }
  void Delete() {
    const Bed::PodInfo pod = pods_.front();
    pods_.pop_front();
    const std::string path = "/run/netns/" + pod.netns;
    bed_.HidePod(pod);
    // Its devices go with the namespace, when nothing holds that any more: see DevicesLeft().
    ::umount2(path.c_str(), MNT_DETACH);
    ::unlink(path.c_str());
  }
  // So many pods at a time, each replaced once the number of cycles asks for it. At most `rate` a
  // second; 0: as fast as can be. Returns cycles a second; pods deleted before they were enrolled
  // are counted in `late_`.
  double Cycle(int pods, int cycles, double rate, bool shown) {
    const auto begin = Clock::now();
    for (int i = 0; i < cycles && !HasFatalFailure(); ++i) {
      if (static_cast<int>(pods_.size()) >= pods) {
        // Without a rate to keep, a slow agent is waited for.
        if (shown && rate == 0) EXPECT_TRUE(bed_.WaitEnabled(pods_.front()));
        if (shown && bed_.Redirection(pods_.front()) != "enabled") ++late_;
        Delete();
      }
      Create(shown);
      if (rate > 0)
        std::this_thread::sleep_until(begin + std::chrono::duration_cast<Clock::duration>(
                                                  std::chrono::duration<double>((i + 1) / rate)));
    }
    return cycles / Seconds(Clock::now() - begin);
  }
  // The node's ends of pods' interfaces: one that is left shows a namespace that somebody holds.
  bool DevicesLeft() { return bed_.Sh(bed_.node_ns(), "ip -o link | grep -q vp[0-9]"); }
  // Of the whole machine.
  struct KernelObjects {
    size_t links = 0, programs = 0, maps = 0;
    bool operator<=(const KernelObjects& o) const {
      return links <= o.links && programs <= o.programs && maps <= o.maps;
    }
  };
  static KernelObjects CountObjects() {
    const auto count = [](int (*next)(uint32_t, uint32_t*)) {
      size_t n = 0;
      for (uint32_t id = 0; next(id, &id) == 0;) ++n;
      return n;
    };
    return {count(bpf_link_get_next_id), count(bpf_prog_get_next_id), count(bpf_map_get_next_id)};
  }
  // Of the agent, in cores, while nothing happens.
  double IdleCpu(int seconds) {
    const double before = CpuSeconds();
    const auto begin = Clock::now();
    std::this_thread::sleep_for(std::chrono::seconds(seconds));
    return (CpuSeconds() - before) / Seconds(Clock::now() - begin);
  }
  std::string AgentFile(const char* name) {
    std::ifstream in("/proc/" + std::to_string(bed_.agent().pid()) + "/" + name);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  long StatusKb(const std::string& name) {
    const std::string text = AgentFile("status");
    const size_t at = text.find(name + ":");
    return at == std::string::npos ? -1 : std::atol(text.c_str() + at + name.size() + 1);
  }
  double CpuSeconds() {
    const std::string text = AgentFile("stat");
    long user = 0, system = 0;
    std::sscanf(text.c_str() + text.rfind(')') + 2,
                "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld", &user, &system);
    return static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  }
  size_t Descriptors() {
    size_t count = 0;
    std::error_code error;
    for (fs::directory_iterator at("/proc/" + std::to_string(bed_.agent().pid()) + "/fd", error),
         end;
         !error && at != end; at.increment(error))
      ++count;
    return count;
  }
  size_t Pins() {
    size_t count = 0;
    for (const auto& at : fs::recursive_directory_iterator(bed_.bpf_dir()))
      count += at.is_directory() ? 0 : 1;
    return count;
  }
  // Nothing of any pod is left in the agent, its files or its maps.
  bool Empty() {
    if (!fs::is_empty(bed_.dir() + "/agent-state") || !fs::is_empty(bed_.dir() + "/status"))
      return false;
    for (const char* map : {"pods", "pod_ips", "own_ips", "budgets", "probes", "dns_tables"}) {
      const std::string command = "bpftool -j map dump pinned " + bed_.bpf_dir() + "/maps/" + map;
      FILE* pipe = ::popen(command.c_str(), "r");
      char text[8] = {};
      (void)!::fread(text, 1, 2, pipe);
      ::pclose(pipe);
      if (std::string(text) != "[]") return false;
    }
    return true;
  }

  Bed bed_;
  std::deque<Bed::PodInfo> pods_;
  int made_ = 0, late_ = 0;
};

TEST_F(Churn, EveryPodIsEnrolledAndNothingStays) {
  const Size size = SizeAsked();
  const bool limits = std::getenv("QANAT_CHURN_LIMITS") != nullptr;
  const double alone = Cycle(size.pods, size.pods * 2, 0, false);
  while (!pods_.empty()) Delete();

  bed_.StartAgent();
  bed_.StartPeer(1);
  const double rate = limits ? std::max(20.0, alone * 0.7) : 0;
  // Two rounds first: caches and pools have their size.
  Cycle(size.pods, size.pods * 2, rate, true);
  ASSERT_FALSE(pods_.empty());
  ASSERT_TRUE(bed_.WaitEnabled(pods_.back())) << bed_.StatusText(pods_.back());
  while (!pods_.empty()) Delete();
  ASSERT_TRUE(bed_.WaitFor([&] { return Empty(); })) << bed_.Admin("/pods");
  ASSERT_TRUE(bed_.WaitFor([&] { return !DevicesLeft(); }));
  const size_t descriptors = Descriptors(), pins = Pins();
  const KernelObjects objects = CountObjects();
  const long memory = StatusKb("VmRSS");

  late_ = 0;
  const double cpu_before = CpuSeconds();
  const auto begin = Clock::now();
  const double reached = Cycle(size.pods, size.cycles, rate, true);
  const double cpu = (CpuSeconds() - cpu_before) / Seconds(Clock::now() - begin);
  ASSERT_TRUE(bed_.WaitEnabled(pods_.back())) << bed_.StatusText(pods_.back());
  // Looks, and proofs of all of them in their turn (--reprove-ms): longer than one turn.
  const double idle = IdleCpu(limits ? 35 : 3);
  const long most = StatusKb("VmHWM");
  while (!pods_.empty()) Delete();
  ASSERT_TRUE(bed_.WaitFor([&] { return Empty(); })) << bed_.Admin("/pods");

  EXPECT_EQ(late_, 0) << "pods were not enrolled when they were deleted";
  EXPECT_TRUE(bed_.WaitFor([&] { return Descriptors() <= descriptors; }, 5000))
      << Descriptors() << " descriptors, " << descriptors << " before";
  EXPECT_EQ(Pins(), pins);
  EXPECT_TRUE(bed_.WaitFor([&] { return !DevicesLeft(); })) << "a namespace is still held";
  const long grown = StatusKb("VmRSS") - memory;
  std::printf(
      "churn: %d pods, %d cycles: bed alone %.1f/s, with the agent %.1f/s (asked %.1f); "
      "agent %.2f cores, %.3f with all of them idle, at most %ld KiB, grown by %ld KiB\n",
      size.pods, size.cycles, alone, reached, rate, cpu, idle, most, grown);
  if (!limits) return;
  // The machine's: others' come and go in a run of all tests.
  EXPECT_TRUE(bed_.WaitFor([&] { return CountObjects() <= objects; }, 10000))
      << CountObjects().links << " links, " << CountObjects().programs << " programs, "
      << CountObjects().maps << " maps; before " << objects.links << ", " << objects.programs
      << ", " << objects.maps;
  EXPECT_GE(reached, rate * 0.98);
  EXPECT_LT(cpu, 1.0);
  EXPECT_LT(most, 64 * 1024);
  EXPECT_LT(idle, 0.2);
  EXPECT_LT(grown, 1024);
}

}  // namespace
}  // namespace qanat::test
