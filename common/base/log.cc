// SPDX-License-Identifier: Apache-2.0
#include "common/base/log.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <ctime>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "common/base/log_line.h"
#include "common/base/utf8.h"

namespace qanat::log {
namespace {

struct Levels_ {
  Level root = Level::kInfo;
  std::map<std::string, Level, std::less<>> scopes;
  Level lowest = Level::kInfo;  // that any of them wants: most disabled messages end here
};

// The one deliberate piece of process-wide state: where log lines go and which are wanted.
struct State {
  std::mutex mutex;  // of who changes something
  // By what makes them up, never destroyed: threads read the present one without a lock.
  std::map<std::string, std::unique_ptr<const Levels_>> all_levels;
  std::atomic<const Levels_*> levels{nullptr};
  std::vector<std::unique_ptr<const std::string>> all_programs;  // the same
  std::atomic<const std::string*> program{nullptr};
  std::atomic<Format> format{Format::kText};
  State() {
    const auto [it, added] = all_levels.emplace("info", std::make_unique<const Levels_>());
    levels = it->second.get();
  }
};

// Where the lines of this thread go, if not to stderr.
thread_local std::function<void(std::string_view)> thread_sink;

State& GetState() {
  static State* state = new State;  // never destroyed: threads may log during exit
  return *state;
}

constexpr std::array<std::string_view, 6> kNames = {"trace", "debug", "info",
                                                    "warn",  "error", "off"};

Result<Level> ParseLevel(std::string_view text) {
  if (text == "warning") text = "warn";
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (text == kNames[i]) return static_cast<Level>(i);
  }
  return Fail(Code::kInvalidArgument, "unknown log level \"" + std::string(text) +
                                          "\": use trace, debug, info, warn, error or off");
}

void Escape(char c, std::string& out) {
  const auto u = static_cast<unsigned char>(c);
  if (c == '"' || c == '\\') {
    out += '\\';
    out += c;
  } else if (c == '\n') {
    out += "\\n";
  } else if (c == '\t') {
    out += "\\t";
  } else if (c == '\r') {
    out += "\\r";
  } else if (u < 0x20 || u == 0x7f) {
    out += fmt::format("\\u{:04x}", u);
  } else {
    out += c;
  }
}

std::string Spec(const Levels_& levels) {
  std::string out(kNames[static_cast<size_t>(levels.root)]);
  for (const auto& [scope, level] : levels.scopes) {
    out += fmt::format(",{}={}", scope, kNames[static_cast<size_t>(level)]);
  }
  return out;
}

void WriteLine(std::string line) {
  if (thread_sink) return thread_sink(line);
  line += '\n';
  // One write() per line, so that lines of several threads and processes do not mix.
  size_t done = 0;
  while (done < line.size()) {
    ssize_t n = ::write(STDERR_FILENO, line.data() + done, line.size() - done);
    if (n <= 0) return;
    done += static_cast<size_t>(n);
  }
}

}  // namespace

void Init(std::string_view program, Format format) {
  State& state = GetState();
  std::lock_guard lock(state.mutex);
  state.all_programs.push_back(std::make_unique<const std::string>(program));
  state.program.store(state.all_programs.back().get(), std::memory_order_release);
  state.format = format;
}

Status SetLevels(std::string_view spec) {
  auto levels = std::make_unique<Levels_>();
  while (!spec.empty()) {
    size_t comma = spec.find(',');
    std::string_view item = spec.substr(0, comma);
    spec = comma == spec.npos ? std::string_view{} : spec.substr(comma + 1);
    if (item.empty()) continue;
    size_t split = item.find_last_of("=:");
    if (split == item.npos) {
      QANAT_ASSIGN_OR_RETURN(levels->root, ParseLevel(item));
    } else {
      QANAT_ASSIGN_OR_RETURN(Level level, ParseLevel(item.substr(split + 1)));
      levels->scopes[std::string(item.substr(0, split))] = level;
    }
  }
  levels->lowest = levels->root;
  for (const auto& [scope, level] : levels->scopes) {
    levels->lowest = std::min(levels->lowest, level);
  }
  State& state = GetState();
  std::lock_guard lock(state.mutex);
  const auto [it, added] = state.all_levels.try_emplace(Spec(*levels), std::move(levels));
  state.levels.store(it->second.get(), std::memory_order_release);
  return {};
}

std::string Levels() { return Spec(*GetState().levels.load(std::memory_order_acquire)); }

bool Enabled(std::string_view scope, Level level) {
  const Levels_& levels = *GetState().levels.load(std::memory_order_acquire);
  if (level < levels.lowest) return false;
  if (levels.scopes.empty()) return true;
  const auto it = levels.scopes.find(scope);
  return level >= (it == levels.scopes.end() ? levels.root : it->second);
}

std::string JsonQuote(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 2);
  out = '"';
  // Bytes of a peer may be in it, and a line that is no UTF-8 is one that readers throw away.
  for (size_t bad = 0; bad != text.npos;) {
    bad = FirstNotUtf8(text);
    for (const char c : text.substr(0, bad)) Escape(c, out);
    if (bad == text.npos) break;
    out += "\\ufffd";
    text.remove_prefix(bad + 1);
  }
  out += '"';
  return out;
}

std::string Timestamp() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  auto micros = std::chrono::duration_cast<std::chrono::microseconds>(now).count();
  time_t seconds = micros / 1000000;
  // Lines come by the thousand a second: the calendar is worked out once for each.
  thread_local time_t known = -1;
  thread_local std::string text;
  if (seconds != known) {
    tm utc{};
    gmtime_r(&seconds, &utc);
    text = fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.000000Z", utc.tm_year + 1900,
                       utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec);
    known = seconds;
  }
  std::string out = text;
  auto rest = static_cast<uint32_t>(micros % 1000000);
  for (size_t at = out.size() - 2; rest > 0; rest /= 10) {
    out[at--] = static_cast<char>('0' + rest % 10);
  }
  return out;
}

Format CurrentFormat() { return GetState().format; }

std::string FormatLine(std::string_view scope, Level level, std::string_view message) {
  std::string_view name = kNames[static_cast<size_t>(level)];
  if (CurrentFormat() == Format::kJson) {
    const std::string* program = GetState().program.load(std::memory_order_acquire);
    return fmt::format(R"({{"level":"{}","time":"{}","scope":{},"component":{},"message":{}}})",
                       name, Timestamp(), JsonQuote(scope), JsonQuote(program ? *program : ""),
                       JsonQuote(message));
  }
  // A line break inside a message would let one look like another, and a terminal obeys others.
  std::string text(message);
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return fmt::format("{}\t{}\t{}\t{}", Timestamp(), name, scope, text);
}

void Write(std::string_view scope, Level level, std::string_view message) {
  WriteLine(FormatLine(scope, level, message));
}

void WriteRaw(std::string_view line) { WriteLine(std::string(line)); }

void SendThisThreadTo(std::function<void(std::string_view line)> sink) {
  thread_sink = std::move(sink);
}

}  // namespace qanat::log
