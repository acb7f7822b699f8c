// SPDX-License-Identifier: Apache-2.0
#include "common/http/client.h"

#include "common/http/connection.h"
#include "common/net/socket.h"

namespace qanat::http {

// Dies by DeferDelete, since `done` may destroy the Fetch inside one of the connection's callbacks.
struct Fetch::Impl final : event::Deferred, private ClientEvents, private StreamEvents {
  Impl(event::EventLoop& l, FetchRequest r, Done d)
      : loop(l),
        request(std::move(r)),
        done(std::move(d)),
        timeout(loop,
                [this] {
                  Finish(Fail(Code::kDeadlineExceeded, "no answer from " + Target() + " within " +
                                                           std::to_string(request.timeout.count()) +
                                                           " ms"));
                }),
        start(loop, [this] { Start(); }) {
    timeout.Start(request.timeout);
    start.Start({});
  }
  std::string Target() const {
    return request.unix_path.empty() ? request.address.ToString() : request.unix_path;
  }
  void Start() {
    if (finished) return;
    if (!request.unix_path.empty()) return OnConnected(ConnectUnix(request.unix_path));
    net::ConnectOptions options;
    options.to = request.address;
    options.timeout = request.timeout;
    options.netns = request.netns;
    connector = std::make_unique<net::Connector>(
        loop, options, [this](Result<Fd> fd) { OnConnected(std::move(fd)); });
  }
  void OnConnected(Result<Fd> fd) {
    if (finished) return;
    if (!fd) return Finish(Fail(fd.error().Annotate("connect to " + Target())));
    Options options;
    options.max_header_bytes = 64 * 1024;
    connection = MakeHttp1Client(net::MakeSocketTransport(loop, std::move(*fd)), this, options);
    RequestHead head;
    head.method = request.method;
    head.path = request.path;
    head.authority = request.host;
    head.headers = request.headers;
    head.headers.Set("connection", "close");
    const bool end = request.body.empty();
    if (!end) head.headers.Set("content-length", std::to_string(request.body.size()));
    Stream* stream = connection->Open(head, end, this);
    if (stream == nullptr) return Finish(Fail(Code::kInvalidArgument, "malformed request"));
    if (!end) stream->SendData(request.body, true);
  }
  void OnResponse(ResponseHead head, bool) override {
    response.status = head.status;
    response.headers = std::move(head.headers);
  }
  void OnData(std::string_view data, bool) override {
    if (response.body.size() + data.size() > request.max_response_bytes) {
      return Finish(Fail(Code::kResourceExhausted, "the answer of " + Target() + " is too large"));
    }
    response.body.append(data);
  }
  void OnTrailers(HeaderList) override {}
  void OnClosed(CloseReason reason, std::string_view detail) override {
    if (reason == CloseReason::kDone) return Finish(std::move(response));
    Finish(Fail(Code::kUnavailable, Target() + ": " + std::string(detail)));
  }
  void OnConnectionClosed(ClientConnection&, bool, std::string_view) override {}

  void Finish(Result<FetchResponse> result) {
    if (finished) return;
    finished = true;
    timeout.Stop();
    // `done` may destroy this object.
    Done call = std::move(done);
    call(std::move(result));
  }

  event::EventLoop& loop;
  FetchRequest request;
  Done done;
  FetchResponse response;
  event::Timer timeout;
  event::Timer start;
  std::unique_ptr<net::Connector> connector;
  ClientConnectionPtr connection;
  bool finished = false;
};

Fetch::Fetch(event::EventLoop& loop, FetchRequest request, Done done)
    : impl_(std::make_unique<Impl>(loop, std::move(request), std::move(done))) {}
Fetch::~Fetch() {
  impl_->finished = true;
  event::EventLoop& loop = impl_->loop;
  loop.DeferDelete(std::move(impl_));
}

Result<FetchResponse> FetchBlocking(FetchRequest request) {
  event::EventLoop loop;
  Result<FetchResponse> out = Fail(Code::kInternal, "no answer");
  bool done = false;
  {
    Fetch fetch(loop, std::move(request), [&](Result<FetchResponse> r) {
      out = std::move(r);
      done = true;
    });
    while (!done) loop.RunOnce(std::chrono::seconds(1));
  }
  loop.RunOnce({});  // what was handed to DeferDelete
  return out;
}

}  // namespace qanat::http
