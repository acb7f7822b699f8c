// SPDX-License-Identifier: Apache-2.0
// The watch: an answer that goes on, cut into lines.
#include "common/kube/client_impl.h"
#include "common/kube/credentials.h"
#include "common/kube/line_splitter.h"
#include "common/kube/status.h"

namespace qanat::kube {
namespace {

constexpr size_t kMaxRefusal = 64 * 1024;

Query WithWatch(Query query) {
  query.emplace_back("watch", "true");
  return query;
}

class WatchExchange final : public Exchange {
 public:
  WatchExchange(std::shared_ptr<Client::Impl> client, WatchRequest request, Client::OnLine on_line,
                Client::OnEnd on_end)
      : Exchange(std::move(client), "GET", std::move(request.path),
                 WithWatch(std::move(request.query))),
        head_timeout_(request.head_timeout),
        lifetime_(request.lifetime),
        max_line_(request.max_line_bytes),
        lines_(max_line_),
        on_line_(std::make_shared<const Client::OnLine>(std::move(on_line))),
        on_end_(std::move(on_end)) {
    deadline_.Start(head_timeout_);
    Begin();
  }

  void Fail(Error error) override { End({false, status_ >= 400 ? status_ : 0, std::move(error)}); }

 private:
  bool Repeatable() const override { return status_ == 0; }

  void OnHead(const http::ResponseHead& head) override {
    lines_ = LineSplitter(max_line_);
    refusal_.clear();
    if (head.status < 400) deadline_.Start(lifetime_);
  }

  bool OnBody(std::string_view data) override {
    if (status_ >= 400) {
      refusal_.append(data.substr(0, kMaxRefusal - std::min(kMaxRefusal, refusal_.size())));
      return true;
    }
    const std::weak_ptr<bool> alive = alive_;
    // Kept: the callback may destroy this, and must not lose what it stands on.
    const std::shared_ptr<const Client::OnLine> on_line = on_line_;
    const auto result = lines_.Add(data, [&](std::string_view line) {
      (*on_line)(line);
      return !alive.expired();
    });
    if (result == LineSplitter::Result::kStopped) return false;
    if (result == LineSplitter::Result::kTooLong) {
      Fail(Error{
          Code::kResourceExhausted,
          "watch of " + Where() + ": an event is over " + std::to_string(max_line_) + " bytes", 0});
      return false;
    }
    return true;
  }

  void OnComplete() override {
    if (status_ >= 400) {
      if (status_ == 401 && AgainWithNewToken()) return;
      return End(
          {false, status_,
           WithCredentials(ErrorOf(method_, path_, true, status_, refusal_), client_->config_)});
    }
    if (lines_.in_line()) {
      return Fail(Error{Code::kUnavailable,
                        "watch of " + Where() + ": ended in the middle of an event", 0});
    }
    End({true, 0, {}});
  }

  void OnDeadline() override {
    const bool begun = status_ != 0;
    Fail(Error{Code::kDeadlineExceeded,
               "watch of " + Where() +
                   (begun ? ": did not end after " + std::to_string(lifetime_.count()) + " ms"
                          : ": no answer within " + std::to_string(head_timeout_.count()) + " ms" +
                                client_->ConnectState()),
               0});
  }

  void End(const WatchEnd& end) {
    Stop();
    Client::OnEnd call = std::move(on_end_);
    on_end_ = nullptr;
    if (call) call(end);  // may destroy this
  }

  const std::chrono::milliseconds head_timeout_;
  const std::chrono::milliseconds lifetime_;
  const size_t max_line_;
  LineSplitter lines_;
  std::string refusal_;
  std::shared_ptr<const Client::OnLine> on_line_;
  Client::OnEnd on_end_;
};

}  // namespace

HandlePtr StartWatch(std::shared_ptr<Client::Impl> client, WatchRequest request,
                     Client::OnLine on_line, Client::OnEnd on_end) {
  return std::make_unique<WatchExchange>(std::move(client), std::move(request), std::move(on_line),
                                         std::move(on_end));
}

}  // namespace qanat::kube
