// SPDX-License-Identifier: Apache-2.0
#include "tests/support/child.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

extern char** environ;

namespace qanat::test {
namespace {

constexpr const char* kReports[] = {
    "ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer",
    "UndefinedBehaviorSanitizer", "runtime error:", "Segmentation fault", "terminate called",
    "Assertion `",
    "was refused (said once",  // a system call: common/sandbox
    // PEM of a private key, and base64 of that; DER of one of P-256 in base64 and hex (PKCS#8,
    // SEC 1).
    "BEGIN PRIVATE KEY", "BEGIN EC PRIVATE KEY", "BEGIN RSA PRIVATE KEY",
    "LS0tLS1CRUdJTiBQUklWQVRFIEtFW", "LS0tLS1CRUdJTiBFQyBQUklWQVRFIEtFW", "MIGHAgEAMBMGByqGSM49",
    "MHcCAQEEI", "308187020100301306072a8648ce3d0201", "30770201010420"};
constexpr size_t kExcerpt = 4000;

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  out.reserve(texts.size() + 1);
  for (std::string& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

}  // namespace

std::string FindReport(const std::string& output) {
  size_t first = std::string::npos;
  for (const char* text : kReports) first = std::min(first, output.find(text));
  if (first == std::string::npos) return {};
  const size_t line = output.rfind('\n', first);
  return output.substr(line == std::string::npos ? 0 : line + 1, kExcerpt);
}

Child::Child(const Options& options) : log_(options.log) {
  std::vector<std::string> command = options.command, environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.emplace_back(*entry);
  for (const std::string& entry : options.environment) {
    const std::string name = entry.substr(0, entry.find('=') + 1);
    std::erase_if(environment, [&](const std::string& e) { return e.starts_with(name); });
    environment.push_back(entry);
  }
  // The test has threads: between fork and exec only what a signal handler may do.
  std::vector<char*> argv = Pointers(command), envp = Pointers(environment);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ != 0) return;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(125);
  if (options.netns >= 0 && ::setns(options.netns, CLONE_NEWNET) != 0) ::_exit(126);
  const int log = ::open(log_.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
  ::dup2(log, 1);
  ::dup2(log, 2);
  ::execve(argv[0], argv.data(), envp.data());
  ::_exit(127);
}

Child::~Child() {
  if (!running()) return;
  Signal(SIGKILL);
  Wait(10000);
}

bool Child::running() { return Wait(0) == "running"; }

void Child::Signal(int signal) const {
  if (pid_ > 0) ::kill(pid_, signal);
}

std::string Child::Wait(int timeout_ms) {
  for (int waited = 0; pid_ > 0; waited += 10) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      end_ = WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                 : "exit code " + std::to_string(WEXITSTATUS(status));
    } else if (waited >= timeout_ms) {
      break;
    } else {
      ::usleep(10000);
    }
  }
  return end_;
}

std::string Child::Stop(int timeout_ms) {
  Signal(SIGTERM);
  if (Wait(timeout_ms) == "running") {
    Signal(SIGKILL);
    Wait(10000);
  }
  return end_;
}

std::string Child::Log() const {
  std::ifstream in(log_);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

bool Child::WaitForLog(const std::string& text, int timeout_ms) {
  for (int waited = 0;; waited += 20) {
    const bool was_running = running();  // what it says before its end is there after it
    if (Log().find(text) != std::string::npos) return true;
    if (waited >= timeout_ms || !was_running) return false;
    ::usleep(20000);
  }
}

}  // namespace qanat::test
