// SPDX-License-Identifier: Apache-2.0
#include "common/kube/reflector.h"

#include "common/kube/credentials.h"
#include "common/kube/reflector_impl.h"
#include "common/kube/status.h"

namespace qanat::kube {
namespace {

constexpr int kMaxExpiredPages = 2;          // then everything is asked for at once
constexpr int kMaxWatchFailures = 5;         // in a row without an event; then a LIST
constexpr std::chrono::seconds kSettled{2};  // a watch that lived this long was a good one
// While the server cannot be reached at all. The client makes one attempt to connect for everybody,
// so asking more often than a server in trouble may be asked costs nothing.
constexpr std::chrono::milliseconds kUnreachable{5000};
constexpr std::chrono::seconds kGrace{30};  // after the server should have ended its watch

}  // namespace

std::string KindPrefix(const Resource& resource) {
  return R"({"apiVersion":")" + resource.ApiVersion() + R"(","kind":")" + resource.kind + "\"";
}

Reflector::Impl::Impl(Client& client, Resource resource, ReflectorOptions options,
                      ReflectorEvents events)
    : client_(client),
      resource_(std::move(resource)),
      options_(std::move(options)),
      events_(std::move(events)),
      wanted_version_(resource_.version),
      prefix_(KindPrefix(resource_)),
      timer_(client.loop(),
             [this] {
               if (list_next_) {
                 List();
               } else {
                 Watch();
               }
             }),
      backoff_({options_.backoff_first, options_.backoff_max, 2.0, 0.2}),
      page_(options_.page) {
  listener_ = client_.OnBack([this] {
    const auto self = shared_from_this();
    Back();
  });
}

void Reflector::Impl::Close() {
  closed_ = true;
  timer_.Stop();
  listener_.reset();
  running_.reset();
}

// ---- LIST ----

void Reflector::Impl::List() {
  unreachable_ = false;
  status_.state = State::kListing;
  ++status_.lists;
  ++list_;
  continue_.clear();
  list_version_.clear();
  NextPage();
}

void Reflector::Impl::NextPage() {
  CallRequest request =
      kube::List(resource_, options_.ns, options_.label_selector, options_.field_selector);
  if (paging_) request.query.emplace_back("limit", std::to_string(page_));
  if (!continue_.empty()) request.query.emplace_back("continue", continue_);
  request.raw = true;
  request.max_response_bytes = options_.page_bytes;
  request.timeout = std::chrono::seconds(60);
  running_ = client_.Call(std::move(request), [this](Result<CallResponse> result) {
    const auto self = shared_from_this();
    OnPage(std::move(result));
  });
}

void Reflector::Impl::OnPage(Result<CallResponse> result) {
  running_.reset();
  if (!result) {
    if (result.error().code == Code::kResourceExhausted) {
      page_ = std::max<size_t>(1, page_ / 4);
      paging_ = true;
      expired_pages_ = 0;
    }
    return ListFailed(0, result.error(), false);
  }
  const int code = result->status;
  if (code == 200) {
    std::string error;
    const bool good = TakePage(result->body, error);
    if (closed_) return;
    if (!good) {
      return ListFailed(0, Error{Code::kInternal, "list " + resource_.Name() + ": " + error, 0},
                        false);
    }
    if (continue_.empty()) return Listed();
    return NextPage();
  }
  if (code == 410 && !continue_.empty()) {
    // The pages are of one resourceVersion, and that one is gone by now: from the beginning.
    if (++expired_pages_ >= kMaxExpiredPages) paging_ = false;
    return Wait(true, backoff_.Next());
  }
  const ApiStatus status = ParseStatus(result->body);
  const bool a_status = !status.reason.empty();
  ListFailed(code,
             WithCredentials(ErrorOf("GET", resource_.Path(options_.ns), false, code, result->body),
                             client_.config()),
             code == 404 && (!a_status || status.resource_missing));
}

bool Reflector::Impl::TakePage(std::string_view body, std::string& error) {
  ObjectMeta list;
  if (!ReadMeta(body, list)) {
    error = "the answer is not a list in JSON";
    return false;
  }
  continue_ = list.continue_token;
  if (list_version_.empty()) list_version_ = list.resource_version;
  if (list_version_.empty()) {
    error = "the list has no resourceVersion";
    return false;
  }
  const std::string_view items = FindMember(body, "items");
  if (items.empty()) return true;  // Go leaves out nothing, others may leave out an empty list
  const bool whole = ForEachItem(items, [&](std::string_view item) {
    ObjectMeta meta;
    if (!ReadMeta(item, meta) || meta.name.empty()) {
      error = "an item without readable metadata";
      return false;
    }
    return Upsert(item, meta);
  });
  if (!whole && error.empty()) error = "the answer is broken JSON";
  return error.empty();
}

// What this LIST did not see is no more.
void Reflector::Impl::Listed() {
  for (auto it = known_.begin(); it != known_.end();) {
    if (it->second.list == list_) {
      ++it;
      continue;
    }
    const std::string key = it->first;
    ++it;  // Gone() erases
    if (!Gone(key)) return;
  }
  expired_pages_ = 0;
  paging_ = true;
  status_.resource_version = list_version_;
  status_.synced = true;
  status_.last_error.clear();
  watch_failures_ = 0;
  const int64_t relist = options_.relist.count();
  relist_at_ =
      event::Clock::now() +
      std::chrono::milliseconds(relist + static_cast<int64_t>(random_()) % (relist / 2 + 1));
  if (events_.on_sync) events_.on_sync();
  if (!closed_) Watch();
}

void Reflector::Impl::ListFailed(int http_status, const Error& error, bool missing) {
  if (http_status == 404 && missing) return AskVersions(error);
  Wait(true, Pause(http_status));
  Report(error);
}

void Reflector::Impl::Absent(const Error& error) {
  Wait(true, options_.absent_retry);
  status_.state = State::kAbsent;
  while (!known_.empty()) {
    if (!Gone(known_.begin()->first)) return;
  }
  backoff_.Reset();
  status_.resource_version.clear();
  const bool news = status_.last_error != error.message || !status_.synced;
  status_.last_error = error.message;
  status_.synced = true;
  if (!news) return;
  if (events_.on_absent) events_.on_absent(error);
  if (!closed_ && events_.on_sync) events_.on_sync();
}

// ---- both ----

bool Reflector::Impl::Upsert(std::string_view object, ObjectMeta& meta) {
  const std::string key = meta.Key();
  const auto it = known_.find(key);
  if (it != known_.end()) {
    it->second.list = list_;
    if (it->second.uid != meta.uid) {
      // Deleted and made anew while we did not look: its users must see that.
      if (!Gone(key)) return false;
    } else if (it->second.version == meta.resource_version) {
      return true;
    }
  }
  known_[key] = Known{meta.uid, meta.resource_version, list_};
  status_.objects = known_.size();
  if (!events_.on_upsert) return true;
  if (meta.has_kind) {
    events_.on_upsert(key, object);
  } else {
    // The items of a list come without kind and apiVersion.
    std::string_view rest = object.substr(object.find('{') + 1);
    const bool more = rest.find('"') != std::string_view::npos;
    events_.on_upsert(key, prefix_ + (more ? "," : "") + std::string(rest));
  }
  return !closed_;
}

bool Reflector::Impl::Gone(const std::string& key) {
  // The caller's may be the one that is erased.
  const std::string copy = key;  // NOLINT(performance-unnecessary-copy-initialization)
  if (known_.erase(copy) == 0) return true;
  status_.objects = known_.size();
  if (events_.on_gone) events_.on_gone(copy);
  return !closed_;
}

void Reflector::Impl::Report(const Error& error) {
  const bool news = status_.last_error != error.message;
  status_.last_error = error.message;
  if (news && events_.on_error) events_.on_error(error);
}

std::chrono::milliseconds Reflector::Impl::Pause(int http_status) {
  unreachable_ = http_status == 0;
  const std::chrono::milliseconds next = backoff_.Next();
  return unreachable_ ? std::min(next, kUnreachable) : next;
}

// Somebody else's request was answered: no reason to wait on. Spread over a moment, since all of
// the process's reflectors hear it.
void Reflector::Impl::Back() {
  if (status_.state != State::kWaiting || !unreachable_ || !timer_.armed()) return;
  unreachable_ = false;
  backoff_.Reset();
  timer_.Start(std::chrono::milliseconds(random_() % 100));
}

void Reflector::Impl::Wait(bool list, std::chrono::milliseconds delay) {
  running_.reset();
  list_next_ = list;
  status_.state = State::kWaiting;
  timer_.Start(delay);
}

Reflector::Reflector(Client& client, Resource resource, ReflectorOptions options,
                     ReflectorEvents events)
    : impl_(std::make_shared<Impl>(client, std::move(resource), std::move(options),
                                   std::move(events))) {
  impl_->Start();
}
Reflector::~Reflector() { impl_->Close(); }
Reflector::Status Reflector::status() const { return impl_->status_; }
const Resource& Reflector::resource() const { return impl_->resource_; }

// ---- WATCH ----

void Reflector::Impl::Watch() {
  unreachable_ = false;
  status_.state = State::kWatching;
  ++status_.watches;
  watch_since_ = event::Clock::now();
  watch_events_ = 0;
  WatchRequest request;
  const CallRequest list =
      kube::List(resource_, options_.ns, options_.label_selector, options_.field_selector);
  request.path = list.path;
  request.query = list.query;
  // Spread, so that the watches of all clients do not end together.
  const auto base = static_cast<uint64_t>(std::max<int64_t>(1, options_.watch_timeout.count()));
  const auto seconds = static_cast<int64_t>(base + random_() % base);
  request.query.emplace_back("allowWatchBookmarks", "true");
  request.query.emplace_back("resourceVersion", status_.resource_version);
  request.query.emplace_back("timeoutSeconds", std::to_string(seconds));
  request.lifetime = std::chrono::seconds(seconds) + kGrace;
  running_ = client_.Watch(
      std::move(request),
      [this](std::string_view line) {
        const auto self = shared_from_this();
        OnLine(line);
      },
      [this](const WatchEnd& end) {
        const auto self = shared_from_this();
        OnWatchEnd(end);
      });
}

void Reflector::Impl::OnLine(std::string_view line) {
  std::string type;
  std::string_view object;
  const bool whole = ForEachMember(line, [&](std::string_view key, std::string_view value) {
    if (key == "type") type = DecodeString(value).value_or("");
    if (key == "object") object = value;
    return true;
  });
  if (whole && type == "ERROR") return OnErrorEvent(object);
  ObjectMeta meta;
  if (!whole || object.empty() || !ReadMeta(object, meta) || meta.resource_version.empty() ||
      (type != "BOOKMARK" && meta.name.empty())) {
    // What it said is lost, so only a LIST can tell.
    return Relist(Error{Code::kInternal,
                        "watch " + resource_.Name() +
                            ": an event that is not one: " + std::string(line.substr(0, 100)),
                        0},
                  false);
  }
  ++watch_events_;
  ++status_.events;
  watch_failures_ = 0;
  backoff_.Reset();
  status_.last_error.clear();
  const std::string version = meta.resource_version;
  bool open = true;
  if (type == "ADDED" || type == "MODIFIED") {
    open = Upsert(object, meta);
  } else if (type == "DELETED") {
    open = Gone(meta.Key());
  }
  // Only what has been delivered counts as seen.
  if (open) status_.resource_version = version;
}

void Reflector::Impl::OnErrorEvent(std::string_view object) {
  const ApiStatus status = ParseStatus(object);
  const int code = status.code != 0 ? status.code : 500;
  const Error error = ErrorOf("GET", resource_.Path(options_.ns), true, code, object);
  if (code == 410 || status.reason == "Expired" || status.reason == "Gone") {
    return Relist(error, true);
  }
  if (code == 429 || (code >= 500 && !status.version_too_large)) {
    return OnWatchEnd({false, code, error});
  }
  Relist(error, false);
}

void Reflector::Impl::Relist(const Error& error, bool at_once) {
  // At once only if the watch had been of use: a server that answers each watch with 410 would
  // otherwise be listed in a tight loop.
  const bool quick =
      at_once && (watch_events_ > 0 || event::Clock::now() - watch_since_ >= kSettled);
  if (quick) backoff_.Reset();
  Wait(true, quick ? std::chrono::milliseconds(0) : backoff_.Next());
  if (!at_once) Report(error);  // an expired version is no fault
}

void Reflector::Impl::OnWatchEnd(const WatchEnd& end) {
  running_.reset();
  const bool settled = event::Clock::now() - watch_since_ >= kSettled;
  const bool due = event::Clock::now() >= relist_at_;
  if (due) Follow(wanted_version_);  // it may be served by now
  if (end.in_order && (settled || watch_events_ > 0)) {
    backoff_.Reset();
    watch_failures_ = 0;
    status_.last_error.clear();
    return Wait(due, {});
  }
  if (end.http_status == 410) return Relist(end.error, true);
  ++watch_failures_;
  // 404: the CRD may be gone. 400 and the like: our resourceVersion may be of another life of etcd.
  const bool hopeless = end.http_status >= 400 && end.http_status < 500 && end.http_status != 429 &&
                        end.http_status != 401 && end.http_status != 403;
  const bool too_large = end.error.message.find("Too large resource version") != std::string::npos;
  const bool list = due || hopeless || too_large || watch_failures_ >= kMaxWatchFailures;
  if (list) watch_failures_ = 0;
  // A connection that was lost after a good while is made again at once, once.
  const bool first = settled && watch_failures_ == 1 && end.http_status == 0;
  Wait(list, first ? std::chrono::milliseconds(0) : Pause(end.http_status));
  if (!end.in_order && !first) Report(end.error);
}

}  // namespace qanat::kube
