// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/http_call.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

namespace qanat::ctl {
namespace {

constexpr size_t kMaxResponse = 256u << 20;  // a config dump of a large mesh

bool SameName(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) ==
           std::tolower(static_cast<unsigned char>(y));
  });
}

Result<std::optional<std::string>> Dechunk(std::string_view in) {
  std::string out;
  while (true) {
    const size_t eol = in.find("\r\n");
    if (eol == std::string_view::npos) return std::optional<std::string>();
    size_t size = 0;
    auto parsed = std::from_chars(in.data(), in.data() + eol, size, 16);
    if (parsed.ec != std::errc() || size > kMaxResponse) {
      return Fail(Code::kInvalidArgument, "the HTTP answer has a bad chunk size");
    }
    in.remove_prefix(eol + 2);
    if (size == 0) return std::optional<std::string>(std::move(out));
    if (in.size() < size + 2) return std::optional<std::string>();
    out.append(in.substr(0, size));
    in.remove_prefix(size + 2);
  }
}

std::string Serialize(const HttpRequest& request) {
  std::string out =
      fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", request.method,
                  request.path, request.host.empty() ? "localhost" : request.host);
  for (const auto& [name, value] : request.headers) {
    if (!SameName(name, "host")) out += name + ": " + value + "\r\n";
  }
  if (!request.body.empty() || request.method == "POST") {
    out += fmt::format("Content-Length: {}\r\n", request.body.size());
  }
  return out + "\r\n" + request.body;
}

}  // namespace

Result<std::optional<HttpResponse>> ParseHttpResponse(std::string_view bytes, bool ended) {
  const auto incomplete = [&]() -> Result<std::optional<HttpResponse>> {
    if (!ended) return std::optional<HttpResponse>();
    return Fail(Code::kIo, bytes.empty() ? "the connection was closed without an answer"
                                         : "the HTTP answer ended early");
  };
  // 100 Continue and its like come before the answer.
  for (size_t interim; bytes.starts_with("HTTP/1.1 1") &&
                       (interim = bytes.find("\r\n\r\n")) != std::string_view::npos;) {
    bytes.remove_prefix(interim + 4);
  }
  const size_t end = bytes.find("\r\n\r\n");
  if (end == std::string_view::npos) {
    if (bytes.size() > 65536) return Fail(Code::kInvalidArgument, "the answer is not HTTP");
    return incomplete();
  }
  std::string_view head = bytes.substr(0, end + 2);
  std::string_view body = bytes.substr(end + 4);
  HttpResponse out;
  if (!head.starts_with("HTTP/1.") || head.size() < 14) {
    return Fail(Code::kInvalidArgument, "the answer is not HTTP");
  }
  auto status = std::from_chars(head.data() + 9, head.data() + 12, out.status);
  if (status.ec != std::errc() || out.status < 200) {
    return Fail(Code::kInvalidArgument, "the answer is not HTTP");
  }
  std::optional<size_t> length;
  bool chunked = false;
  head.remove_prefix(head.find("\r\n") + 2);
  while (!head.empty()) {
    const size_t eol = head.find("\r\n");
    const std::string_view line = head.substr(0, eol);
    head.remove_prefix(eol + 2);
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    std::string_view value = line.substr(colon + 1);
    while (!value.empty() && value.front() == ' ') value.remove_prefix(1);
    if (SameName(line.substr(0, colon), "content-length")) {
      size_t n = 0;
      auto parsed = std::from_chars(value.data(), value.data() + value.size(), n);
      if (parsed.ec != std::errc() || n > kMaxResponse) {
        return Fail(Code::kInvalidArgument, "the HTTP answer has a bad Content-Length");
      }
      length = n;
    } else if (SameName(line.substr(0, colon), "transfer-encoding")) {
      chunked = SameName(value, "chunked");
    }
  }
  if (out.status == 204 || out.status == 304) return std::optional<HttpResponse>(std::move(out));
  if (chunked) {
    QANAT_ASSIGN_OR_RETURN(auto text, Dechunk(body));
    if (!text) return incomplete();
    out.body = std::move(*text);
    return std::optional<HttpResponse>(std::move(out));
  }
  if (length) {
    if (body.size() < *length) return incomplete();
    out.body = std::string(body.substr(0, *length));
    return std::optional<HttpResponse>(std::move(out));
  }
  if (!ended) return std::optional<HttpResponse>();
  out.body = std::string(body);
  return std::optional<HttpResponse>(std::move(out));
}

HttpCall::HttpCall(event::EventLoop& loop, const HttpTarget& target, const HttpRequest& request,
                   std::chrono::milliseconds timeout, Done done)
    : loop_(loop), done_(std::move(done)) {
  out_ = Serialize(request);
  Start(target, timeout);
}

std::unique_ptr<HttpCall> HttpCall::Connect(event::EventLoop& loop, const HttpTarget& target,
                                            std::chrono::milliseconds timeout, Done done) {
  std::unique_ptr<HttpCall> call(new HttpCall(loop, std::move(done)));
  call->connect_only_ = true;
  call->Start(target, timeout);
  return call;
}

HttpCall::~HttpCall() = default;

void HttpCall::Start(const HttpTarget& target, std::chrono::milliseconds timeout) {
  where_ = target.unix_path.empty() ? target.address.ToString() : target.unix_path;
  timer_ = std::make_unique<event::Timer>(loop_, [this] {
    if (early_) return Finish(std::move(*early_));
    Finish(Fail(Code::kDeadlineExceeded,
                fmt::format("{}: no {} in time", where_, connected_ ? "answer" : "connection")));
  });
  auto open = [&]() -> Status {
    sockaddr_storage storage{};
    socklen_t length = 0;
    int family = AF_UNIX;
    if (target.unix_path.empty()) {
      length = target.address.ToSockaddr(storage);
      family = target.address.ip().family();
    } else {
      auto* address = reinterpret_cast<sockaddr_un*>(&storage);
      address->sun_family = AF_UNIX;
      if (target.unix_path.size() >= sizeof address->sun_path) {
        return Fail(Code::kInvalidArgument, target.unix_path + ": the path is too long");
      }
      std::memcpy(address->sun_path, target.unix_path.c_str(), target.unix_path.size() + 1);
      length = sizeof *address;
    }
    fd_.Reset(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd_) return FailErrno("socket");
    if (connect(fd_.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0 &&
        errno != EINPROGRESS) {
      return FailErrno("connect to " + where_);
    }
    return {};
  };
  Status status = target.netns != nullptr ? target.netns->Run(open) : open();
  if (!status) {
    early_ = Fail(status.error());
    timer_->Start(std::chrono::milliseconds(0));
    return;
  }
  timer_->Start(timeout);
  watch_ = std::make_unique<event::IoWatch>(loop_, fd_.get(), EPOLLIN | EPOLLOUT,
                                            [this](uint32_t events) { OnEvents(events); });
}

void HttpCall::OnEvents(uint32_t events) {
  if (!connected_) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return Finish(FailErrno("connect to " + where_, error));
    if ((events & EPOLLOUT) == 0) return;
    connected_ = true;
    if (connect_only_) return Finish(HttpResponse{});
  }
  if (sent_ < out_.size()) {
    const ssize_t n = send(fd_.get(), out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL);
    if (n > 0) sent_ += static_cast<size_t>(n);
    if (n < 0 && errno != EAGAIN) return Finish(FailErrno("send to " + where_));
    if (sent_ == out_.size()) watch_->SetEvents(EPOLLIN);
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
  bool ended = false;
  char buffer[65536];
  while (true) {
    const ssize_t n = recv(fd_.get(), buffer, sizeof buffer, 0);
    if (n > 0) {
      in_.append(buffer, static_cast<size_t>(n));
      if (in_.size() > kMaxResponse) {
        return Finish(Fail(Code::kResourceExhausted, where_ + ": the answer is too large"));
      }
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) return Finish(FailErrno("receive from " + where_));
    ended = true;
    break;
  }
  auto parsed = ParseHttpResponse(in_, ended);
  if (!parsed) return Finish(Fail(parsed.error().Annotate(where_)));
  if (*parsed) Finish(std::move(**parsed));
}

void HttpCall::Finish(Result<HttpResponse> result) {
  watch_.reset();
  timer_->Stop();
  fd_.Reset();
  Done done = std::move(done_);
  done(std::move(result));  // may destroy this
}

Result<HttpResponse> HttpDo(const HttpTarget& target, const HttpRequest& request,
                            std::chrono::milliseconds timeout) {
  event::EventLoop loop;
  std::optional<Result<HttpResponse>> answer;
  HttpCall call(loop, target, request, timeout,
                [&](Result<HttpResponse> result) { answer = std::move(result); });
  while (!answer) loop.RunOnce(std::chrono::milliseconds(1000));
  return std::move(*answer);
}

}  // namespace qanat::ctl
