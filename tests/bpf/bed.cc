// SPDX-License-Identifier: Apache-2.0
#include "tests/bpf/bed.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "bpf/user/mounts.h"
#include "common/net/address.h"
#include "tests/support/child.h"

namespace qanat::test {
namespace {

namespace fs = std::filesystem;

bool System(const std::string& command) { return std::system(command.c_str()) == 0; }

void Must(const std::string& command) {
  if (!System(command)) throw std::runtime_error("failed: " + command);
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
}

// Another one, with a program that is broken on purpose (mutation_test.py), or the one that is
// built.
std::string AgentPath() {
  const char* given = std::getenv("QANAT_AGENT");
  return given != nullptr ? given : QANAT_AGENT_PATH;
}

void EnterCgroup(const std::string& dir) {
  fs::create_directories(dir);
  WriteFile(dir + "/cgroup.procs", std::to_string(::getpid()));
}

void EnterNetns(const std::string& name) {
  const int fd = ::open(("/run/netns/" + name).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 || ::setns(fd, CLONE_NEWNET) != 0) ::_exit(98);
  ::close(fd);
}

}  // namespace

int Slowness() {
  const char* told = std::getenv("QANAT_TEST_SLOWNESS");
  return told ? std::max(1, std::atoi(told)) : 1;
}

Process& Process::operator=(Process&& other) noexcept {
  if (this != &other) {
    Kill(9);
    pid_ = other.pid_;
    other.pid_ = -1;
  }
  return *this;
}

void Process::Kill(int signal) {
  if (pid_ <= 0) return;
  ::kill(pid_, signal);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void Process::Signal(int signal) const {
  if (pid_ > 0) ::kill(pid_, signal);
}

bool Process::Running() {
  if (pid_ <= 0) return false;
  if (::waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = -1;
  return pid_ > 0;
}

Bed::Bed(std::string name) : name_(std::move(name)) {
  if (::geteuid() != 0) throw std::runtime_error("these tests need root");
  dir_ = "/tmp/" + name_;
  auto root = bpf::FindCgroup2();
  if (!root) throw std::runtime_error(root.error().message);
  cgroup_ = *root + "/" + name_;
  RemoveAll();  // leftovers of a run that was killed
  fs::create_directories(dir_ + "/pods");
  fs::create_directories(dir_ + "/status");
  for (const char* group : {"agent", "ztunnel", "pods", "host"})
    fs::create_directories(CgroupDir(group));
  const std::string node = node_ns(), out = out_ns();
  for (const auto& ns : {node, out})
    Must("ip netns add " + ns + " && ip -n " + ns + " link set lo up");
  Must("ip netns exec " + node +
       " sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
  Must("ip -n " + node + " link add br0 type bridge && ip -n " + node + " link set br0 up");
  Must("ip -n " + node + " addr add 10.66.1.1/24 dev br0 && ip -n " + node +
       " addr add fd66:1::1/64 dev br0 nodad");
  Must("ip -n " + node + " link add up0 type veth peer name eth0 netns " + out);
  Must("ip -n " + node + " addr add 10.66.9.1/24 dev up0 && ip -n " + node +
       " addr add fd66:9::1/64 dev up0 nodad && ip -n " + node + " link set up0 up");
  Must("ip -n " + out + " addr add 10.66.9.9/24 dev eth0 && ip -n " + out +
       " addr add fd66:9::9/64 dev eth0 nodad && ip -n " + out + " link set eth0 up");
  Must("ip -n " + out + " route add default via 10.66.9.1 && ip -n " + out +
       " route add default via fd66:9::1");
}

Bed::~Bed() {
  agent_.Kill(15);
  peer_.Kill(9);
  RemoveAll();
}

void Bed::RemoveAll() {
  System("for n in $(ip netns list | cut -d' ' -f1 | grep '^" + name_ +
         "-'); do ip netns del $n; done");
  std::error_code ignored;
  fs::remove_all("/sys/fs/bpf/" + name_, ignored);
  for (int round = 0; round < 400 && fs::exists(cgroup_); ++round) {
    System("find " + cgroup_ + " -depth -type d -exec rmdir {} + 2>/dev/null");
    if (fs::exists(cgroup_)) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  fs::remove_all(dir_, ignored);
}

std::string Bed::CgroupDir(const std::string& name) const { return cgroup_ + "/" + name; }

Bed::PodInfo Bed::MakePod(const std::string& name, int last) {
  PodInfo pod;
  pod.name = name;
  pod.uid = "uid-" + name;
  pod.netns = name_ + "-" + name;
  pod.ip4 = "10.66.1." + std::to_string(last);
  pod.ip6 = "fd66:1::" + std::to_string(last);
  const std::string node = node_ns(), ns = pod.netns;
  Must("ip netns add " + ns + " && ip -n " + ns + " link set lo up");
  Must("ip -n " + node + " link add v" + name + " type veth peer name eth0 netns " + ns);
  Must("ip -n " + node + " link set v" + name + " master br0 up && ip -n " + ns +
       " link set eth0 up");
  Must("ip -n " + ns + " addr add " + pod.ip4 + "/24 dev eth0 && ip -n " + ns + " addr add " +
       pod.ip6 + "/64 dev eth0 nodad");
  Must("ip -n " + ns + " route add default via 10.66.1.1 && ip -n " + ns +
       " route add default via fd66:1::1");
  return pod;
}

void Bed::DeletePodNs(const PodInfo& pod) {
  // The link first, as CNI DEL does: while anything holds the namespace it would answer for an
  // address that the next pod has by then.
  System("ip -n " + node_ns() + " link del v" + pod.name);
  System("ip netns del " + pod.netns);
}

void Bed::ShowPod(const PodInfo& pod, bool in_mesh, const std::string& netns_path, bool sidecar) {
  nlohmann::json patch = nlohmann::json::object();
  if (in_mesh) patch["namespaceLabels"]["istio.io/dataplane-mode"] = "ambient";
  if (sidecar) patch["annotations"]["sidecar.istio.io/status"] = "{}";
  if (!netns_path.empty()) patch["netns"] = netns_path;
  WritePod(pod, patch.dump());
}

void Bed::ShowChanged(const PodInfo& pod, const std::string& merge_patch) {
  nlohmann::json patch = {{"namespaceLabels", {{"istio.io/dataplane-mode", "ambient"}}}};
  patch.merge_patch(nlohmann::json::parse(merge_patch));
  WritePod(pod, patch.dump());
}

void Bed::WritePod(const PodInfo& pod, const std::string& patch) {
  nlohmann::json json = {{"uid", pod.uid},
                         {"name", pod.name},
                         {"namespace", "shop"},
                         {"serviceAccount", "sa-" + pod.name},
                         {"labels", nlohmann::json::object()},
                         {"annotations", nlohmann::json::object()},
                         {"namespaceLabels", nlohmann::json::object()},
                         {"hostNetwork", false},
                         {"netns", "/run/netns/" + pod.netns},
                         {"ips", {pod.ip4, pod.ip6}},
                         {"phase", "Running"}};
  json.merge_patch(nlohmann::json::parse(patch));
  WriteFile(dir_ + "/tmp.json", json.dump());
  fs::rename(dir_ + "/tmp.json", dir_ + "/pods/" + pod.uid + ".json");
}

void Bed::HidePod(const PodInfo& pod) { fs::remove(dir_ + "/pods/" + pod.uid + ".json"); }

void Bed::StartAgent(std::vector<std::string> extra, int wait_ms) {
  if (!extra.empty() || agent_arguments_.empty()) {
    agent_arguments_ = {AgentPath(),
                        "--node-name",
                        "n1",
                        "--pod-source",
                        "folder:" + dir_ + "/pods",
                        "--status-dir",
                        dir_ + "/status",
                        "--zds-socket",
                        zds_socket(),
                        "--cni-socket",
                        dir_ + "/cni.sock",
                        "--bpf-dir",
                        bpf_dir()};
    for (auto& argument : extra) agent_arguments_.push_back(argument);
  }
  agent_ = Process(LaunchAgent());
  if (!WaitFor([&] { return Admin("/healthz/ready").find("ready") != std::string::npos; }, wait_ms))
    throw std::runtime_error("the agent does not become ready:\n" + Log());
}

pid_t Bed::LaunchAgent(bool traced) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    EnterCgroup(CgroupDir("agent"));
    EnterNetns(node_ns());
    const int log = ::open(log_path().c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    ::dup2(log, 1);
    ::dup2(log, 2);
    std::vector<char*> argv;
    for (auto& argument : agent_arguments_) argv.push_back(argument.data());
    argv.push_back(nullptr);
    if (traced) ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    ::execv(argv[0], argv.data());
    ::_exit(97);
  }
  return pid;
}

void Bed::StopAgent(int signal) { agent_.Kill(signal); }

int Bed::CleanupAgent(const char* flag, std::vector<std::string> more) {
  std::vector<std::string> arguments = agent_arguments_;
  if (!more.empty()) {
    for (auto& argument : arguments)
      if (argument.rfind("folder:", 0) == 0) argument = "kubernetes";
  }
  arguments.insert(arguments.end(), more.begin(), more.end());
  arguments.push_back(flag);
  const pid_t pid = ::fork();
  if (pid == 0) {
    EnterNetns(node_ns());
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    ::execv(argv[0], argv.data());
    ::_exit(97);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void Bed::StartPeer(int workers, bool dns, bool reads_marks) {
  peer_ = Spawn({node_ns(), "ztunnel"},
                [=, this] { RunZdsPeer(zds_socket(), workers, dns, reads_marks); });
}

std::string Bed::StatusText(const PodInfo& pod) const {
  return ReadFile(dir_ + "/status/" + pod.uid + ".json");
}

std::string Bed::Redirection(const PodInfo& pod) const {
  auto json = nlohmann::json::parse(StatusText(pod), nullptr, false);
  return json.is_object() ? json.value("redirection", "") : "";
}

std::string Bed::Log() const { return ReadFile(log_path()); }

std::string Bed::SanitizerReport() {
  StopAgent(SIGTERM);  // leaks are looked for at the end
  return FindReport(Log());
}

bool Bed::WaitFor(const std::function<bool()>& condition, int milliseconds) const {
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds) * Slowness();
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

bool Bed::WaitEnabled(const PodInfo& pod) const {
  return WaitFor([&] { return Redirection(pod) == "enabled"; });
}

std::string Bed::Admin(const std::string& path, const std::string& method) const {
  return Run({node_ns(), "host"}, [&]() -> std::string {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in to{AF_INET, htons(15030), {htonl(INADDR_LOOPBACK)}, {}};
    timeval limit{30, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) return "";
    const std::string request = method + " " + path +
                                " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" +
                                (method == "GET" ? "" : "Content-Length: 0\r\n") + "\r\n";
    (void)!::write(fd, request.data(), request.size());
    std::string answer;
    char buffer[4096];
    for (ssize_t n; (n = ::read(fd, buffer, sizeof buffer)) > 0;)
      answer.append(buffer, static_cast<size_t>(n));
    const size_t body = answer.find("\r\n\r\n");
    return body == std::string::npos ? "" : answer.substr(body + 4);
  });
}

uint64_t Bed::Counter(const PodInfo& pod, const std::string& name) const {
  const std::string text = Admin("/pods");
  auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_array()) throw std::runtime_error("/pods is not JSON: " + text);
  for (const auto& entry : json)
    if (entry["uid"] == pod.uid && entry.contains("counters")) return entry["counters"].at(name);
  throw std::runtime_error("no counters of " + pod.uid);
}

std::string Bed::CmdAdd(const PodInfo& pod, const std::string& more) const {
  return Run({node_ns(), "host"}, [&]() -> std::string {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    std::snprintf(to.sun_path, sizeof to.sun_path, "%s/cni.sock", dir_.c_str());
    if (::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) return "error: connect";
    std::string body = nlohmann::json{{"Netns", "/run/netns/" + pod.netns},
                                      {"PodName", pod.name},
                                      {"PodNamespace", "shop"},
                                      {"IPs", {{{"IP", pod.ip4}}}}}
                           .dump();
    body.insert(body.size() - 1, more);
    const std::string request =
        "POST /cmdadd HTTP/1.1\r\nHost: cni\r\nContent-Type: application/json\r\n"
        "Connection: close\r\nContent-Length: " +
        std::to_string(body.size()) + "\r\n\r\n" + body;
    (void)!::write(fd, request.data(), request.size());
    std::string answer;
    char buffer[4096];
    for (ssize_t n; (n = ::read(fd, buffer, sizeof buffer)) > 0;)
      answer.append(buffer, static_cast<size_t>(n));
    return answer;
  });
}

Process Bed::Spawn(const Where& where, const std::function<void()>& body) const {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::signal(SIGPIPE, SIG_IGN);
    EnterCgroup(CgroupDir(where.cgroup.empty() ? "pods/other" : where.cgroup));
    EnterNetns(where.netns);
    try {
      body();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "child: %s\n", e.what());
    }
    ::_exit(0);
  }
  return Process(pid);
}

std::string Bed::Run(const Where& where, const std::function<std::string()>& body) const {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
  Process child = Spawn(where, [&] {
    const std::string result = body();
    (void)!::write(ends[1], result.data(), result.size());
  });
  ::close(ends[1]);
  std::string result;
  char buffer[65536];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;)
    result.append(buffer, static_cast<size_t>(n));
  ::close(ends[0]);
  return result;
}

bool Bed::Sh(const std::string& netns, const std::string& command) const {
  return System("ip netns exec " + netns + " sh -c '" + command + "'");
}

std::string ReadLine(int fd) {
  std::string line;
  for (char c; ::read(fd, &c, 1) == 1 && c != '\n';) line += c;
  return line;
}

}  // namespace qanat::test
