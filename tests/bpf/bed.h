// SPDX-License-Identifier: Apache-2.0
// A node on this machine for tests: a network namespace with a bridge, pods on it, a host outside,
// cgroups, and helpers to run code there. Everything is removed by the destructor.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace qanat::test {

// How much longer than on a machine of its own a test waits for something: QANAT_TEST_SLOWNESS,
// or 1.
int Slowness();

// A forked child; killed and reaped when the handle goes.
class Process {
 public:
  Process() = default;
  explicit Process(pid_t pid) : pid_(pid) {}
  Process(Process&& other) noexcept : pid_(other.pid_) { other.pid_ = -1; }
  Process& operator=(Process&& other) noexcept;
  ~Process() { Kill(9); }
  void Kill(int signal);  // and waits for the end
  void Signal(int signal) const;
  bool Running();
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

struct Where {
  std::string netns;   // name below /run/netns
  std::string cgroup;  // below the bed's cgroup; empty: pods/other
};

class Bed {
 public:
  explicit Bed(std::string name);
  ~Bed();

  struct PodInfo {
    std::string uid, name, netns, ip4, ip6;
  };
  // A namespace on the bridge with eth0; not yet known to the agent.
  PodInfo MakePod(const std::string& name, int last_byte);
  void DeletePodNs(const PodInfo& pod);
  // Writes the pod file; labelled into the mesh or not.
  void ShowPod(const PodInfo& pod, bool in_mesh = true, const std::string& netns_path = "",
               bool sidecar = false);
  // The same with a JSON merge patch on top: {"phase":"Succeeded"}
  void ShowChanged(const PodInfo& pod, const std::string& merge_patch);
  void HidePod(const PodInfo& pod);

  // Throws when it does not become ready in time.
  void StartAgent(std::vector<std::string> extra = {}, int wait_ms = 60000);
  // Without waiting, or taking it for agent(). Traced: by the calling thread, stops in exec.
  pid_t LaunchAgent(bool traced = false);
  // Which agent is started from now on.
  void SetProgram(const std::string& program) { agent_arguments_.at(0) = program; }
  const std::string& program() const { return agent_arguments_.at(0); }
  // SIGKILL or SIGTERM, waits for its end.
  void StopAgent(int signal = 15);
  // qanat-agent --uninstall of the agent that was started; its exit code. With more settings: as
  // if in a cluster.
  int CleanupAgent(const char* flag = "--cleanup", std::vector<std::string> more = {});
  // The ZDS peer, in the cgroup "ztunnel". As our own proxy and no other, with `dns` it listens for
  // DNS too, with `reads_marks` it reads what the kernel has drawn.
  void StartPeer(int workers = 2, bool dns = false, bool reads_marks = false);
  Process& agent() { return agent_; }
  Process& peer() { return peer_; }

  // The status file's redirection ("" when there is none), and the whole file.
  std::string Redirection(const PodInfo& pod) const;
  std::string StatusText(const PodInfo& pod) const;
  bool WaitFor(const std::function<bool()>& condition, int milliseconds = 60000) const;
  bool WaitEnabled(const PodInfo& pod) const;
  // Over the admin port inside the node's namespace.
  std::string Admin(const std::string& path, const std::string& method = "GET") const;
  uint64_t Counter(const PodInfo& pod, const std::string& name) const;
  // POST /cmdadd; the status code and body.
  std::string CmdAdd(const PodInfo& pod, const std::string& more = "") const;

  // Runs `body` in a child process there and returns what it returned; "error: ..." if it died.
  std::string Run(const Where& where, const std::function<std::string()>& body) const;
  Process Spawn(const Where& where, const std::function<void()>& body) const;
  // Runs a shell command inside a namespace; true when it succeeded.
  bool Sh(const std::string& netns, const std::string& command) const;

  std::string node_ns() const { return name_ + "-node"; }
  std::string out_ns() const { return name_ + "-out"; }
  std::string dir() const { return dir_; }
  std::string bpf_dir() const { return "/sys/fs/bpf/" + name_; }
  std::string zds_folder() const { return dir_ + "/zds"; }
  std::string zds_socket() const { return zds_folder() + "/ztunnel.sock"; }
  std::string log_path() const { return dir_ + "/agent.log"; }
  std::string Log() const;
  // Ends the agent in order and returns what sanitizers said in its log; empty is what is wanted.
  std::string SanitizerReport();

 private:
  std::string CgroupDir(const std::string& name) const;
  void RemoveAll();
  void WritePod(const PodInfo& pod, const std::string& patch);

  std::string name_;
  std::string dir_;
  std::string cgroup_;
  std::vector<std::string> pods_;
  std::vector<std::string> agent_arguments_;
  Process agent_;
  Process peer_;
};

// The ZDS peer's program: runs until killed. Listeners answer one line each and close:
// "out|in|hbone <worker> <local> <peer>", and " drawn=CODE" where the mark says so. Connections to
// port 9000 are echoed instead, as long as the proxy has the pod.
void RunZdsPeer(const std::string& socket_path, int workers, bool dns = false,
                bool reads_marks = false);
// In the calling thread's network namespace: UDP and TCP at 15053. Then: one answer.
std::vector<int> OpenDnsListeners(bool v6);
void AnswerDns(int listener);

// For Run(): connect, read one line. Returns the line or "error: NAME".
struct Dial {
  std::string to;          // "10.0.0.1:80", "[::1]:80"
  bool as_mapped = false;  // IPv6 socket to ::ffff:...
  bool nonblocking = false;
  bool mptcp = false;
  bool fastopen = false;  // data with the SYN
  bool deferred = false;  // TCP_FASTOPEN_CONNECT: the SYN goes with the first send, after late_*
  unsigned late_mark = 0;
  std::string late_device;
  std::string bind;  // "IP:port"
  bool transparent = false;
  unsigned mark = 0;
  std::string device;            // SO_BINDTODEVICE
  bool drop_privileges = false;  // after the socket is made
  int timeout_ms = 20000;        // tests that wait for silence ask for less
  bool say_self = false;         // append " self=LOCAL peer=REMOTE"
};
std::string Call(const Dial& dial);

// The next line, without its end: a program may write it in pieces. "" at the end of all.
std::string ReadLine(int fd);
// Listens on [::]:port (all addresses) and answers "app <local> <peer>" to each connection.
void ServeApp(int port);

}  // namespace qanat::test
