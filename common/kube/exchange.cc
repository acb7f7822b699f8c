// SPDX-License-Identifier: Apache-2.0
// One HTTP exchange with the API server and when it may be repeated; the single call.
#include <charconv>

#include "common/kube/client_impl.h"
#include "common/kube/credentials.h"
#include "common/kube/status.h"

namespace qanat::kube {
namespace {

constexpr int kMaxRepeats = 5;
constexpr int kMaxThrottled = 10;  // as client-go has it
constexpr std::chrono::seconds kMaxRetryAfter{30};

}  // namespace

Exchange::Exchange(std::shared_ptr<Client::Impl> client, std::string method, std::string path,
                   Query query)
    : client_(std::move(client)),
      method_(std::move(method)),
      path_(std::move(path)),
      deadline_(client_->loop_, [this] { OnDeadline(); }),
      query_(std::move(query)),
      again_(client_->loop_, [this] { client_->Add(this, true); }) {}

Exchange::~Exchange() { Stop(); }

void Exchange::Stop() {
  deadline_.Stop();
  again_.Stop();
  client_->Forget(this);
  if (http::Stream* stream = std::exchange(stream_, nullptr)) {
    stream->Reset(http::ResetCode::kCancel);
  }
}

void Exchange::ClientGone() {
  deadline_.Stop();
  again_.Stop();
  if (http::Stream* stream = std::exchange(stream_, nullptr)) {
    stream->Reset(http::ResetCode::kCancel);
  }
}

bool Exchange::Attach(http::ClientConnection& connection) {
  if (!client_->url_) {
    Fail(client_->url_.error());
    return true;
  }
  http::RequestHead head;
  head.method = method_;
  head.scheme = client_->url_->tls ? "https" : "http";
  head.authority = client_->url_->authority;
  head.path = client_->url_->prefix + path_;
  if (!query_.empty()) head.path += "?" + EncodeQuery(query_);
  const std::string& agent = client_->config_.user_agent;
  head.headers.Add("user-agent", agent.empty() ? "qanat/" QANAT_VERSION : agent);
  head.headers.Add("accept", "application/json");
  auto token = client_->token_.Get(client_->loop_.now());
  if (!token) {
    Fail(token.error());
    return true;
  }
  if (!token->empty()) head.headers.Add("authorization", "Bearer " + *token);
  const bool has_body = !body_.empty();
  if (has_body) {
    head.headers.Add("content-type", content_type_);
    head.headers.Add("content-length", std::to_string(body_.size()));
  }
  status_ = 0;
  ended_ = false;
  stream_ = connection.Open(head, !has_body, this);
  if (stream_ == nullptr) {
    if (!connection.CanOpen()) return false;
    Fail(Error{Code::kInvalidArgument, Where() + ": not a path that can be asked for", 0});
    return true;
  }
  // Kept for a repeat.
  if (has_body) stream_->SendData(body_, true);
  return true;
}

void Exchange::Again(std::chrono::milliseconds delay) {
  if (http::Stream* stream = std::exchange(stream_, nullptr)) {
    stream->Reset(http::ResetCode::kCancel);
  }
  client_->Forget(this);
  if (delay.count() == 0) {
    client_->Add(this, true);
  } else {
    again_.Start(delay);
  }
}

bool Exchange::AgainWithNewToken() {
  if (token_tried_ || !client_->token_.Refresh(client_->loop_.now())) return false;
  token_tried_ = true;
  Again({});
  return true;
}

void Exchange::OnResponse(http::ResponseHead head, bool end) {
  client_->NoteAnswer();
  status_ = head.status;
  ended_ = end;
  OnHead(head);
}

void Exchange::OnData(std::string_view data, bool end) {
  if (end) ended_ = true;
  if (!data.empty()) OnBody(data);
}

void Exchange::OnClosed(http::CloseReason reason, std::string_view detail) {
  stream_ = nullptr;
  client_->Forget(this);
  if (ended_) return OnComplete();
  const bool untouched = reason == http::CloseReason::kRefused;
  const bool lost =
      reason == http::CloseReason::kConnectionLost || reason == http::CloseReason::kPeerReset;
  if ((untouched || (lost && Repeatable())) && repeats_ < kMaxRepeats) {
    ++repeats_;
    return Again({});
  }
  std::string text = Where() + ": ";
  text += status_ == 0 ? "no answer" : "the answer broke off";
  text += ": " + std::string(http::CloseReasonName(reason));
  if (!detail.empty()) text += ", " + std::string(detail);
  if (lost && method_ != "GET") text += "; whether the API server acted on it is not known";
  Fail(Error{reason == http::CloseReason::kTooLarge ? Code::kResourceExhausted : Code::kUnavailable,
             std::move(text), 0});
}

namespace {

class CallExchange final : public Exchange {
 public:
  CallExchange(std::shared_ptr<Client::Impl> client, CallRequest request, Client::Done done)
      : Exchange(std::move(client), std::move(request.method), std::move(request.path),
                 std::move(request.query)),
        timeout_(request.timeout),
        max_bytes_(request.max_response_bytes),
        raw_(request.raw),
        done_(std::move(done)) {
    SetBody(std::move(request.body), std::move(request.content_type));
    deadline_.Start(timeout_);
    Begin();
  }

  void Fail(Error error) override { Finish(qanat::Fail(std::move(error))); }

 private:
  bool Repeatable() const override { return method_ == "GET"; }

  void OnHead(const http::ResponseHead& head) override {
    response_ = {head.status, {}};
    retry_after_.reset();
    int seconds = 0;
    const std::string_view text = head.headers.Get("retry-after").value_or("");
    if (std::from_chars(text.data(), text.data() + text.size(), seconds).ec == std::errc() &&
        seconds >= 0) {
      retry_after_ = std::min(kMaxRetryAfter, std::chrono::seconds(seconds));
    }
  }

  bool OnBody(std::string_view data) override {
    if (response_.body.size() + data.size() > max_bytes_) {
      Fail(Error{Code::kResourceExhausted,
                 Where() + ": the answer is over " + std::to_string(max_bytes_) +
                     " bytes; ask for less (a limit, a namespace or a selector)",
                 0});
      return false;
    }
    response_.body.append(data);
    return true;
  }

  void OnComplete() override {
    const int status = response_.status;
    if (status == 401 && AgainWithNewToken()) return;
    // The server says with Retry-After that it did nothing yet.
    if ((status == 429 || status >= 500) && retry_after_ && throttled_ < kMaxThrottled) {
      ++throttled_;
      throttled_by_ = status;
      return Again(
          std::max<std::chrono::milliseconds>(*retry_after_, std::chrono::milliseconds(100)));
    }
    if (status >= 400 && !raw_) {
      return Fail(WithCredentials(ErrorOf(method_, path_, false, status, response_.body),
                                  client_->config_));
    }
    Finish(std::move(response_));
  }

  void OnDeadline() override {
    std::string text = Where() + ": no answer within " + std::to_string(timeout_.count()) + " ms";
    if (throttled_ > 0) {
      text += "; the API server put us off " + std::to_string(throttled_) + " times with " +
              std::to_string(throttled_by_) + " (is it overloaded?)";
    } else {
      text += client_->ConnectState();
    }
    Fail(Error{Code::kDeadlineExceeded, std::move(text), 0});
  }

  void Finish(Result<CallResponse> result) {
    Stop();
    // `done` may destroy this.
    Client::Done call = std::move(done_);
    done_ = nullptr;
    if (call) call(std::move(result));
  }

  const std::chrono::milliseconds timeout_;
  const size_t max_bytes_;
  const bool raw_;
  Client::Done done_;
  CallResponse response_;
  std::optional<std::chrono::milliseconds> retry_after_;
  int throttled_ = 0;
  int throttled_by_ = 0;
};

}  // namespace

HandlePtr StartCall(std::shared_ptr<Client::Impl> client, CallRequest request, Client::Done done) {
  return std::make_unique<CallExchange>(std::move(client), std::move(request), std::move(done));
}

}  // namespace qanat::kube
