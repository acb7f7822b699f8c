// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/local_source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "common/base/log.h"
#include "common/base/read_file.h"

namespace qanat::ztunnel {
namespace {

// Followed through links: Kubernetes changes a mounted ConfigMap by pointing a link elsewhere.
bool SameFile(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size &&
         a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec &&
         a.st_ctim.tv_sec == b.st_ctim.tv_sec && a.st_ctim.tv_nsec == b.st_ctim.tv_nsec;
}

constexpr size_t kMostBytes = 256 << 20;

Result<std::string> ReadLocalFile(const std::string& path) {
  auto text = ReadFile(path, kMostBytes, FileKind::kRegular);
  if (!text) return Fail(text.error().Annotate("LOCAL_XDS_PATH: cannot read"));
  return text;
}

}  // namespace

LocalSource::LocalSource(event::EventLoop& loop, std::string path, std::string text,
                         state::MeshState& state, Changed changed, event::Duration poll)
    : path_(std::move(path)),
      text_(std::move(text)),
      state_(state),
      changed_(std::move(changed)),
      poll_(poll),
      timer_(loop, [this] { Look(); }) {}

Status LocalSource::Start() {
  if (!path_.empty()) {
    ::stat(path_.c_str(), &seen_);
    looked_at_ = seen_;
    timer_.Start(poll_);
  }
  return Load();
}

void LocalSource::Look() {
  timer_.Start(poll_);
  struct stat now{};
  ::stat(path_.c_str(), &now);  // all zero where there is nothing
  // Not while somebody writes it: half of it may be a mesh without its policies.
  const bool rests = SameFile(now, looked_at_);
  looked_at_ = now;
  if (!rests || SameFile(now, seen_)) return;
  seen_ = now;
  if (const Status status = Load(); !status) {
    ++failures_;
    LOG_ERROR("local", "{}; the state before stays in force", status.error().message);
  }
}

Status LocalSource::Load() {
  std::string text = text_;
  if (!path_.empty()) {
    QANAT_ASSIGN_OR_RETURN(text, ReadLocalFile(path_));
    if (!have_.addresses.empty() && text.find_first_not_of(" \t\r\n") == std::string::npos) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("LOCAL_XDS_PATH: {} is empty; a mesh of nothing is written as "
                              "\"workloads: []\"",
                              path_));
    }
  }
  auto parsed = ParseLocalConfig(text);
  if (!parsed) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}, {}", path_.empty() ? "LOCAL_XDS" : path_, parsed.error().message));
  }
  Apply(std::move(*parsed));
  return {};
}

void LocalSource::Apply(LocalResources wanted) {
  std::vector<std::string> touched;
  for (const auto& [name, bytes] : have_.addresses) {
    if (wanted.addresses.contains(name)) continue;
    state_.RemoveAddress(name);
    touched.push_back(name);
  }
  for (const auto& [name, bytes] : have_.policies) {
    if (!wanted.policies.contains(name)) state_.RemoveAuthorization(name);
  }
  // Policies first: nothing becomes reachable before what is to protect it.
  for (const auto& [name, bytes] : wanted.policies) {
    if (const Status status = state_.UpsertAuthorization(name, bytes); !status) {
      LOG_WARN("local", "policy {}: {}", name, status.error().message);
    }
  }
  for (const auto& [name, bytes] : wanted.addresses) {
    const auto it = have_.addresses.find(name);
    if (it != have_.addresses.end() && it->second == bytes) continue;
    if (const Status status = state_.UpsertAddress(name, bytes); !status) {
      LOG_WARN("local", "{}: {}", name, status.error().message);
    }
    touched.push_back(name);
  }
  LOG_INFO("local", "{} workloads and services, {} policies", wanted.addresses.size(),
           wanted.policies.size());
  have_ = std::move(wanted);
  changed_(touched);
}

}  // namespace qanat::ztunnel
