// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/trust/revocation_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/base/log.h"

namespace qanat::ztunnel {
namespace {

constexpr size_t kMostBytes = 64u << 20;  // some million entries

// Followed through links: Kubernetes changes a mounted ConfigMap by pointing a link elsewhere.
bool SameFile(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size &&
         a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec &&
         a.st_ctim.tv_sec == b.st_ctim.tv_sec && a.st_ctim.tv_nsec == b.st_ctim.tv_nsec;
}

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

RevocationFile::RevocationFile(event::EventLoop& loop, std::string path, Changed changed,
                               Options options)
    : loop_(loop),
      path_(std::move(path)),
      changed_(std::move(changed)),
      options_(options),
      look_(loop, [this] { Look(); }),
      settle_(loop, [this] { Load(); }) {}

void RevocationFile::Start() {
  inotify_.Reset(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (inotify_) {
    watch_ = std::make_unique<event::IoWatch>(loop_, inotify_.get(), EPOLLIN,
                                              [this](uint32_t) { OnInotify(); });
  }
  Watch();
  ::stat(path_.c_str(), &seen_);
  Load();
  look_.Start(options_.look);
}

// The folder may come later, and again: the look repeats this. It costs nothing where it is known.
void RevocationFile::Watch() {
  if (!inotify_) return;
  ::inotify_add_watch(inotify_.get(), FolderOf(path_).c_str(),
                      IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE);
}

void RevocationFile::OnInotify() {
  char events[4096];
  while (::read(inotify_.get(), events, sizeof events) > 0) {
  }
  // Whichever file of the folder it was: a stat tells whether it was ours.
  Look();
}

void RevocationFile::Look() {
  look_.Start(options_.look);
  Watch();
  SayStale();
  struct stat now{};
  ::stat(path_.c_str(), &now);  // all zero where there is nothing
  if (SameFile(now, seen_)) return;
  seen_ = now;
  settle_.Start(options_.settle);
}

Result<std::string> RevocationFile::ReadAll() const {
  Fd file(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) return FailErrno("it cannot be opened");
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t n = ::read(file.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FailErrno("it cannot be read");
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > kMostBytes) {
      return Fail(Code::kResourceExhausted,
                  fmt::format("it is larger than {} MiB", kMostBytes >> 20));
    }
  }
}

void RevocationFile::Load() {
  Result<std::string> text = ReadAll();
  if (!text) return Refuse(text.error().message);
  if (lists_ != nullptr && *text == text_) {
    in_step_ = true;
    return;
  }
  auto parsed =
      tls::RevocationList::Parse({reinterpret_cast<const uint8_t*>(text->data()), text->size()});
  if (!parsed) return Refuse(parsed.error().message);
  if (const Status status = (*parsed)->CheckSignatures(authorities_); !status) {
    return Refuse(status.error().message);
  }
  lists_ = std::move(*parsed);
  text_ = std::move(*text);
  failed_.clear();
  said_stale_.clear();
  in_step_ = true;
  LOG_INFO("crl", "{}: {} lists, {} revoked certificates", path_, lists_->lists(),
           lists_->entries());
  SayStale();
  changed_(lists_);
}

void RevocationFile::Refuse(const std::string& why) {
  in_step_ = false;
  ++failures_;
  if (why == failed_) return;
  failed_ = why;
  LOG_ERROR("crl",
            "the revocation lists of CRL_PATH {} are not taken: {}; {}. Put the CA's lists there, "
            "complete and signed, in PEM or DER (Istio: key ca-crl.pem of the secret cacerts)",
            path_, why,
            lists_ != nullptr ? "those from before stay in force"
                              : "until they come nobody counts as revoked");
}

void RevocationFile::SayStale() {
  if (lists_ == nullptr) return;
  const std::vector<std::string> stale = lists_->Stale(std::chrono::system_clock::now());
  stale_ = stale.size();
  for (const std::string& text : stale) {
    if (said_stale_.insert(text).second) {
      LOG_WARN("crl", "{}: {}. Have the CA write a new one", path_, text);
    }
  }
}

void RevocationFile::SetAuthorities(std::vector<tls::Certificate> authorities) {
  authorities_ = std::move(authorities);
  if (lists_ == nullptr) {
    // What was refused for a signature may be good now.
    if (!failed_.empty()) settle_.Start({});
    return;
  }
  if (const Status status = lists_->CheckSignatures(authorities_); !status) {
    if (std::exchange(failed_, status.error().message) == failed_) return;
    LOG_ERROR("crl", "{}: {}; it revokes nothing. Put the list of the CA in use there", path_,
              status.error().message);
  } else if (!in_step_) {
    settle_.Start({});
  }
}

}  // namespace qanat::ztunnel
