// SPDX-License-Identifier: Apache-2.0
// qanat-cni: the chained CNI plugin. A container runtime starts it for every pod; what it decides:
// decision.h.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "agent/plugin/plugin.h"
#include "common/base/fd.h"
#include "common/base/log.h"

namespace {

constexpr size_t kMaxInput = 4 << 20;
constexpr off_t kMaxLog = 1 << 20;

std::string ReadStdin() {
  std::string text;
  char buffer[16384];
  while (text.size() < kMaxInput) {
    const ssize_t n = ::read(0, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

void WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    text.remove_prefix(static_cast<size_t>(n));
  }
}

// One line a call; a log that has grown begins anew. Never a reason to fail.
void Log(const std::string& stdin_text, const std::string& line) {
  const auto json = nlohmann::json::parse(stdin_text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return;
  auto path = json.find("logFile");
  if (path == json.end() || !path->is_string()) return;
  const std::string name = path->get<std::string>();
  struct stat s{};
  const bool full = ::stat(name.c_str(), &s) == 0 && s.st_size > kMaxLog;
  qanat::Fd fd(::open(name.c_str(),
                      O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | (full ? O_TRUNC : 0),
                      0640));
  if (fd) WriteAll(fd.get(), line);
}

}  // namespace

int main() {
  using namespace qanat;
  log::Init("qanat-cni", log::Format::kText);
  const plugin::Environment environment = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value ? value : "";
  };
  const std::string text = ReadStdin();
  const plugin::Answer answer = plugin::Run(environment, text);
  if (!answer.note.empty()) {
    Log(text, log::Timestamp() + " " + environment("CNI_COMMAND") + " " + answer.note + "\n");
    if (answer.exit_code != 0) WriteAll(2, "qanat-cni: " + answer.note + "\n");
  }
  WriteAll(1, answer.output);
  return answer.exit_code;
}
