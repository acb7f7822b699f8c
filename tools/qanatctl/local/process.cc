// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cstring>

#include "common/base/program.h"
#include "common/netns/netns.h"
#include "tools/qanatctl/local/cgroup.h"

namespace qanat::local {
namespace {

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (const std::string& s : strings) out.push_back(const_cast<char*>(s.c_str()));
  out.push_back(nullptr);
  return out;
}

void ResetSignals() {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int s = 1; s < 32; ++s) signal(s, SIG_DFL);
}

Status Redirect(const SpawnSpec& spec, int input) {
  Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null) return FailErrno("open /dev/null");
  if (dup2(input >= 0 ? input : null.get(), 0) < 0) return FailErrno("stdin");
  Fd log;
  if (!spec.log.empty()) {
    log.Reset(open(spec.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    if (!log) return FailErrno("open " + spec.log);
  }
  const int out = log ? log.get() : null.get();
  if (dup2(out, 1) < 0 || dup2(out, 2) < 0) return FailErrno("stdout");
  return {};
}

// Descriptors to where the protocol has them, and the child's pid, which nobody knows before.
Status PassOn(const std::vector<takeover::PassedFd>& passed, std::vector<std::string>& env,
              int& report) {
  constexpr int kFirst = 3;  // SD_LISTEN_FDS_START
  const int end = kFirst + static_cast<int>(passed.size());
  const auto lift = [end](int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, end); };
  std::vector<int> lifted;
  std::string names;
  for (const takeover::PassedFd& one : passed) {
    lifted.push_back(lift(one.fd));
    if (lifted.back() < 0) return FailErrno("duplicate what " + one.name + " is kept as");
    names.append(names.empty() ? "" : ":").append(one.name);
  }
  if ((report = lift(report)) < 0) return FailErrno("duplicate a pipe");
  for (size_t i = 0; i < lifted.size(); ++i) {
    if (dup2(lifted[i], kFirst + static_cast<int>(i)) < 0) return FailErrno("pass a descriptor");
  }
  syscall(SYS_close_range, static_cast<unsigned>(end), ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
  env.push_back(fmt::format("LISTEN_PID={}", getpid()));
  env.push_back(fmt::format("LISTEN_FDS={}", passed.size()));
  env.push_back("LISTEN_FDNAMES=" + names);
  return {};
}

[[noreturn]] void GiveUp(int report, const Error& error) {
  [[maybe_unused]] ssize_t n = write(report, error.message.data(), error.message.size());
  _exit(127);
}

// In the child. Returns only on failure.
Status Become(const SpawnSpec& spec, int input, int report) {
  ResetSignals();
  setsid();
  RaiseFileLimit();
  if (!spec.cgroup.empty()) QANAT_RETURN_IF_ERROR(EnterCgroup(spec.cgroup, 0));
  QANAT_RETURN_IF_ERROR(Redirect(spec, input));
  auto run = [&]() -> Status {
    if (spec.sandbox) {
      // No way back from here: half a sandbox has neither the rights nor the files to return.
      if (Status entered = EnterSandbox(*spec.sandbox); !entered) GiveUp(report, entered.error());
    }
    std::vector<char*> argv = Pointers(spec.argv);
    std::vector<std::string> environment = spec.env;
    if (spec.passed.empty()) {
      syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
    } else if (Status passed = PassOn(spec.passed, environment, report); !passed) {
      GiveUp(report, passed.error());
    }
    std::vector<char*> env = Pointers(environment);
    environ = env.data();  // also decides where execvp looks
    execvp(argv[0], argv.data());
    GiveUp(report, FailErrno("exec " + spec.argv[0]).value());
  };
  if (spec.netns.empty()) return run();
  QANAT_ASSIGN_OR_RETURN(auto netns, netns::NetNs::Open(spec.netns));
  return netns.Run(run);
}

}  // namespace

std::string ExitInfo::ToString() const {
  if (signal != 0) return fmt::format("signal {} ({})", signal, strsignal(signal));
  return fmt::format("exit code {}", code);
}

Result<pid_t> Spawn(const SpawnSpec& spec) {
  if (spec.argv.empty() || spec.argv[0].empty()) {
    return Fail(Code::kInvalidArgument, "there is no command to run");
  }
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) return FailErrno("pipe");
  Fd read_end(report[0]);
  Fd write_end(report[1]);
  Fd input;
  if (spec.input) {
    int in[2];
    if (pipe2(in, O_CLOEXEC) != 0) return FailErrno("pipe");
    input.Reset(in[0]);
    Fd feed(in[1]);
    fcntl(feed.get(), F_SETPIPE_SZ, 1 << 20);
    fcntl(feed.get(), F_SETFL, O_NONBLOCK);
    const ssize_t n = write(feed.get(), spec.input->data(), spec.input->size());
    if (n != static_cast<ssize_t>(spec.input->size())) {
      return Fail(Code::kResourceExhausted, "input too long for " + spec.argv[0]);
    }
  }
  const pid_t pid = fork();
  if (pid < 0) return FailErrno("fork");
  if (pid == 0) {
    GiveUp(write_end.get(), Become(spec, input.get(), write_end.get()).error());
  }
  write_end.Reset();
  std::string message;
  char buffer[512];
  while (true) {
    const ssize_t n = read(read_end.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    message.append(buffer, static_cast<size_t>(n));
  }
  if (message.empty()) return pid;
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  return Fail(Code::kFailedPrecondition, "cannot start: " + message);
}

Result<std::unique_ptr<Process>> Process::Start(event::EventLoop& loop, const SpawnSpec& spec,
                                                OnExit on_exit) {
  QANAT_ASSIGN_OR_RETURN(const pid_t pid, Spawn(spec));
  Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd) {
    const int error = errno;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return FailErrno("pidfd_open", error);
  }
  fcntl(pidfd.get(), F_SETFD, FD_CLOEXEC);
  return std::unique_ptr<Process>(new Process(loop, pid, std::move(pidfd), std::move(on_exit)));
}

Process::Process(event::EventLoop& loop, pid_t pid, Fd pidfd, OnExit on_exit)
    : loop_(loop), pid_(pid), pidfd_(std::move(pidfd)), on_exit_(std::move(on_exit)) {
  watch_ =
      std::make_unique<event::IoWatch>(loop_, pidfd_.get(), EPOLLIN, [this](uint32_t) { Reap(); });
}

Process::~Process() {
  watch_.reset();
  if (running_) waitpid(pid_, nullptr, WNOHANG);
}

void Process::Signal(int signal) {
  if (running_) syscall(SYS_pidfd_send_signal, pidfd_.get(), signal, nullptr, 0);
}

void Process::Reap() {
  int status = 0;
  const pid_t got = waitpid(pid_, &status, WNOHANG);
  if (got == 0) return;
  running_ = false;
  watch_.reset();
  ExitInfo info;
  if (got == pid_ && WIFEXITED(status)) info.code = WEXITSTATUS(status);
  if (got == pid_ && WIFSIGNALED(status)) info.signal = WTERMSIG(status);
  OnExit done = std::move(on_exit_);
  if (done) done(info);  // may destroy this
}

}  // namespace qanat::local
