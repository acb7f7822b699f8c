// SPDX-License-Identifier: Apache-2.0
// --uninstall leaves nothing of ours; the search for it finds whatever is planted.
#include <bpf/bpf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "common/base/fd.h"
#include "tests/bpf/bed.h"

namespace qanat::test {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr const char* kPrimary =
    R"({"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]})";
constexpr const char* kWithOurs =
    R"({"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"},{"type":"qanat-cni"}]})";

std::string ReadAll(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}
void Write(const std::string& path, const std::string& text) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path) << text;
}

// Kernel objects by number, so that those of other nodes on this machine are none of ours.
class KernelObjects {
 public:
  // All that is pinned below the folder, and the programs of the links.
  void Note(const std::string& folder) {
    std::error_code error;
    for (fs::recursive_directory_iterator at(folder, error), end; !error && at != end;
         at.increment(error)) {
      if (at->is_directory()) continue;
      const Fd fd(bpf_obj_get(at->path().c_str()));
      if (at->path().parent_path().filename() == "links") {
        bpf_link_info info{};
        __u32 size = sizeof info;
        if (bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0) continue;
        links_.insert(info.id);
        programs_.insert(info.prog_id);
      } else {
        bpf_map_info info{};
        __u32 size = sizeof info;
        if (bpf_obj_get_info_by_fd(fd.get(), &info, &size) == 0) maps_.insert(info.id);
      }
    }
  }
  std::vector<std::string> Alive() const {
    std::vector<std::string> out;
    const auto look = [&](const char* what, const std::set<__u32>& ids, int (*open)(__u32)) {
      for (const __u32 id : ids)
        if (const Fd fd(open(id)); fd.valid()) out.push_back(what + std::to_string(id));
    };
    look("link ", links_, bpf_link_get_fd_by_id);
    look("program ", programs_, bpf_prog_get_fd_by_id);
    look("map ", maps_, bpf_map_get_fd_by_id);
    return out;
  }
  size_t size() const { return links_.size() + programs_.size() + maps_.size(); }

 private:
  std::set<__u32> links_, programs_, maps_;
};

class UninstallTest : public ::testing::Test {
 protected:
  UninstallTest() : bed_("qKERNEL"), a_(bed_.MakePod("a", 10)) {
    Write(conf_ + "/10-net.conflist", kPrimary);
    bed_.ShowPod(a_);
  }
  ~UninstallTest() override {
    EXPECT_EQ(bed_.SanitizerReport(), "");
    if (HasFailure()) std::fprintf(stderr, "%s\n", bed_.Log().c_str());
  }
  void Enrol() {
    bed_.StartAgent();
    bed_.StartPeer();
    ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
    objects_.Note(bed_.bpf_dir());
    ASSERT_GT(objects_.size(), 18u);
  }
  // What an agent in a cluster leaves beside what this one does.
  void InstallPlugin() {
    Write(conf_ + "/10-net.conflist", kWithOurs);
    Write(conf_ + "/00-qanat-cni.conflist", kWithOurs);
    Write(conf_ + "/00-qanat-cni.conflist.cilium_bak", kWithOurs);
    Write(bin_ + "/qanat-cni", "ours");
    Write(lib_ + "/cni-kubeconfig", "ours");
    Write(lib_ + "/pods-cache", "ours");
    Write(bed_.dir() + "/cni.log", "ours");
  }
  int Uninstall() {
    return bed_.CleanupAgent("--uninstall",
                             {"--cni-conf-dir", conf_, "--cni-bin-dir", bin_, "--lib-dir", lib_});
  }
  std::string Output(const std::string& command, const std::string& netns = "") {
    return bed_.Run({netns.empty() ? a_.netns : netns, "host"}, [&] {
      std::string out;
      FILE* pipe = ::popen((command + " 2>/dev/null").c_str(), "r");
      char buffer[4096];
      while (size_t n = ::fread(buffer, 1, sizeof buffer, pipe)) out.append(buffer, n);
      ::pclose(pipe);
      return out;
    });
  }
  // Whatever carries our name, mark, table or pin, or is an object that was ours.
  std::vector<std::string> Leftovers() {
    std::vector<std::string> out = objects_.Alive();
    for (const std::string& path :
         {bed_.bpf_dir(), bed_.dir() + "/agent-state", bed_.dir() + "/status", bed_.zds_folder(),
          bed_.dir() + "/cni.sock", bed_.dir() + "/cni.log", bin_ + "/qanat-cni", lib_})
      if (fs::exists(path)) out.push_back(path);
    for (const auto& file : fs::directory_iterator(conf_))
      if (ReadAll(file.path()).find("qanat") != std::string::npos) out.push_back(file.path());
    std::istringstream rules(Output("ip rule; ip -6 rule"));
    for (std::string line; std::getline(rules, line);)
      for (const char* of_ours : {"0x53", "lookup 101", "blackhole"})
        if (line.find(of_ours) != std::string::npos) out.push_back("rule " + line);
    for (const char* family : {"-4", "-6"})
      if (!Output(std::string("ip ") + family + " route show table 101").empty())
        out.push_back(std::string("table 101, ip ") + family);
    for (const char* name :
         {"ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"})
      if (Output(std::string("cat /proc/sys/net/") + name) != "0\n") out.push_back(name);
    std::istringstream filters(Output("tc qdisc show; tc filter show dev eth0 ingress;"
                                      "tc filter show dev eth0 egress") +
                               Output("tc qdisc show; tc filter show dev va ingress;"
                                      "tc filter show dev va egress",
                                      bed_.node_ns()));
    for (std::string line; std::getline(filters, line);)
      if (line.find("clsact") != std::string::npos || line.find("qanat") != std::string::npos)
        out.push_back("tc " + line);
    return out;
  }

  Bed bed_;
  Bed::PodInfo a_;
  KernelObjects objects_;
  const std::string conf_ = bed_.dir() + "/net.d", bin_ = bed_.dir() + "/bin",
                    lib_ = bed_.dir() + "/lib";
};

TEST_F(UninstallTest, LeavesNothingOfOursAndAllOfOthers) {
  Enrol();
  InstallPlugin();
  Write(bin_ + "/bridge", "another's");
  bed_.StopAgent(9);
  bed_.peer().Kill(9);
  ASSERT_THAT(Leftovers(), Contains(StartsWith("rule")));
  // As in a cluster, whose API server is not asked.
  EXPECT_EQ(Uninstall(), 0) << bed_.Log();
  // A socket's end and an RCU grace period later.
  EXPECT_TRUE(bed_.WaitFor([&] { return Leftovers().empty(); }))
      << ::testing::PrintToString(Leftovers());
  EXPECT_EQ(ReadAll(bin_ + "/bridge"), "another's");
  EXPECT_THAT(ReadAll(conf_ + "/10-net.conflist"), HasSubstr("bridge"));
  EXPECT_EQ(Uninstall(), 0) << "again, with nothing left";
  EXPECT_THAT(Leftovers(), IsEmpty());
}

TEST_F(UninstallTest, NotWhileAnAgentServes) {
  Enrol();
  InstallPlugin();
  EXPECT_EQ(Uninstall(), 1);
  EXPECT_TRUE(fs::exists(bin_ + "/qanat-cni"));
  EXPECT_THAT(Output("ip rule"), HasSubstr("0x53a"));
  EXPECT_EQ(bed_.Redirection(a_), "enabled");
}

TEST_F(UninstallTest, TheSearchFindsWhatIsPlanted) {
  Enrol();
  bed_.StopAgent(9);
  bed_.peer().Kill(9);
  Fd program;
  {
    const Fd link(bpf_obj_get((bed_.bpf_dir() + "/links/sockops").c_str()));
    bpf_link_info info{};
    __u32 size = sizeof info;
    ASSERT_EQ(bpf_obj_get_info_by_fd(link.get(), &info, &size), 0);
    program.Reset(bpf_prog_get_fd_by_id(info.prog_id));
  }
  EXPECT_EQ(Uninstall(), 0);
  // Whoever keeps a program keeps the maps that it uses, too.
  EXPECT_TRUE(bed_.WaitFor([&] {
    const auto left = Leftovers();
    return !left.empty() && left.front().rfind("link", 0) != 0;
  }));
  EXPECT_THAT(Leftovers(), Contains(StartsWith("program ")));
  program.Reset();
  ASSERT_TRUE(bed_.WaitFor([&] { return Leftovers().empty(); }));

  const std::string pin = bed_.bpf_dir() + "/links";
  const std::pair<std::string, std::string> planted[] = {
      {"ip rule add fwmark 0x53b lookup main", "ip rule del fwmark 0x53b"},
      {"ip -6 rule add pref 9 lookup 101", "ip -6 rule del pref 9"},
      {"ip route add local default dev lo table 101", "ip route flush table 101"},
      {"sysctl -qw net.ipv4.fwmark_reflect=1", "sysctl -qw net.ipv4.fwmark_reflect=0"},
      {"tc qdisc add dev eth0 clsact", "tc qdisc del dev eth0 clsact"},
  };
  for (const auto& [plant, remove] : planted) {
    ASSERT_TRUE(bed_.Sh(a_.netns, plant)) << plant;
    EXPECT_EQ(Leftovers().size(), 1u) << plant;
    ASSERT_TRUE(bed_.Sh(a_.netns, remove)) << remove;
    EXPECT_THAT(Leftovers(), IsEmpty()) << remove;
  }
  ASSERT_TRUE(bed_.Sh(bed_.node_ns(), "tc qdisc add dev va clsact"));
  EXPECT_EQ(Leftovers().size(), 1u) << "at the node's end of the veth";
  ASSERT_TRUE(bed_.Sh(bed_.node_ns(), "tc qdisc del dev va clsact"));
  for (const std::string& path : {pin, bed_.zds_folder(), bed_.dir() + "/agent-state",
                                  bed_.dir() + "/cni.sock", bin_ + "/qanat-cni", lib_}) {
    fs::create_directories(path);
    EXPECT_EQ(Leftovers().size(), 1u) << path;
    fs::remove_all(path == pin ? bed_.bpf_dir() : path);
  }
  Write(conf_ + "/10-net.conflist", kWithOurs);
  EXPECT_THAT(Leftovers(), ElementsAre(conf_ + "/10-net.conflist"));
}

}  // namespace
}  // namespace qanat::test
