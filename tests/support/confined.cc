// SPDX-License-Identifier: Apache-2.0
#include "tests/support/confined.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "common/sandbox/calls.h"

namespace qanat::test {

std::string InChild(const std::function<std::string()>& action, std::string* log) {
  int answer[2], errors[2];
  if (pipe2(answer, O_CLOEXEC) != 0 || pipe2(errors, O_CLOEXEC) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    dup2(errors[1], STDERR_FILENO);
    const std::string text = action();
    (void)!write(answer[1], text.data(), text.size());
    _exit(0);
  }
  close(answer[1]);
  close(errors[1]);
  const auto all = [](int fd) {
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) {
      text.append(buffer, static_cast<size_t>(n));
    }
    close(fd);
    return text;
  };
  std::string text = all(answer[0]);
  const std::string said = all(errors[0]);
  if (log != nullptr) *log = said;
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0) text += fmt::format(" (status {:#x}: {})", status, said);
  return text;
}

std::string ErrorOf(long result) { return result >= 0 ? "ok" : strerrorname_np(errno); }

std::string OwnStatus(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(name, 0) != 0) continue;
    std::istringstream words(line.substr(name.size()));
    std::string out;
    for (std::string word; words >> word;) out += (out.empty() ? "" : " ") + word;
    return out;
  }
  return "?";
}

std::string TryAll(const std::function<Status()>& enter, const std::vector<Attempt>& attempts) {
  if (const Status status = enter(); !status) return status.error().message;
  std::string wrong;
  for (const Attempt& attempt : attempts) {
    errno = 0;
    const std::string got = ErrorOf(attempt.call());
    if (got != attempt.expected) wrong += fmt::format("{}: {}; ", attempt.name, got);
  }
  return wrong + "done";
}

int ListedTwice(std::span<const int> own) {
  std::vector<int> all(own.begin(), own.end());
  for (const std::span<const int> calls : {sandbox::CommonCalls(), sandbox::SanitizerCalls()}) {
    all.insert(all.end(), calls.begin(), calls.end());
  }
  for (const sandbox::Checked& checked : sandbox::CheckedCalls()) all.push_back(checked.call);
  std::sort(all.begin(), all.end());
  const auto twice = std::adjacent_find(all.begin(), all.end());
  return twice == all.end() ? 0 : *twice;
}

}  // namespace qanat::test
