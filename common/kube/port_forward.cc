// SPDX-License-Identifier: Apache-2.0
#include "common/kube/port_forward.h"

#include <charconv>
#include <random>

#include "common/kube/credentials.h"
#include "common/kube/dialer.h"
#include "common/kube/files.h"
#include "common/kube/resource.h"
#include "common/kube/status.h"
#include "common/kube/websocket.h"

namespace qanat::kube {
namespace {

constexpr char kProtocol[] = "v4.channel.k8s.io";
// Channels of the one port: data and error; each begins with the port in two bytes.
constexpr char kData = 0;
constexpr char kError = 1;
constexpr size_t kMaxHead = 64 * 1024;
constexpr size_t kMaxAnswer = 256 << 20;
constexpr size_t kChunk = 16 * 1024;

const Resource kPods{"", "v1", "pods", "Pod", true};

}  // namespace

struct PodExchange::Impl final : event::Deferred, private net::TransportEvents {
  Impl(event::EventLoop& l, const ClientConfig& c, PodPort target, std::string out,
       std::chrono::milliseconds timeout, Enough e, Done d)
      : loop(l),
        config(c),
        to(std::move(target)),
        request(std::move(out)),
        enough(std::move(e)),
        done(std::move(d)),
        path(kPods.Path(to.ns, to.pod, "portforward")),
        deadline(l, [this, timeout] {
          Finish(Fail(Code::kDeadlineExceeded,
                      Where() + ": no answer within " + std::to_string(timeout.count()) + " ms"));
        }) {
    deadline.Start(timeout);
    dialer =
        std::make_unique<Dialer>(loop, config, std::vector<std::string>{"http/1.1"}, timeout,
                                 [this](Result<Dialed> result) { Connected(std::move(result)); });
  }
  ~Impl() override {
    if (transport) transport->SetEvents(nullptr);
  }

  std::string Where() const {
    return "port " + std::to_string(to.port) + " of pod " + to.ns + "/" + to.pod;
  }

  void Connected(Result<Dialed> result) {
    if (finished) return;
    if (!result) return Finish(Fail(result.error()));
    TokenSource source(config);
    auto token = source.Get(loop.now());
    if (!token) return Finish(Fail(token.error()));
    auto url = ParseServerUrl(config.server);
    if (!url) return Finish(Fail(url.error()));
    transport = std::move(result->transport);
    transport->SetEvents(this);
    output =
        UpgradeRequest(url->prefix + path + "?ports=" + std::to_string(to.port), url->authority,
                       kProtocol, token->empty() ? "" : "Authorization: Bearer " + *token + "\r\n");
    transport->ReadEnable(true);
    Flush();
  }

  void OnWritable() override { Flush(); }
  void Flush() {
    transport->WriteEnable(false);
    while (!output.empty() && !finished) {
      const iovec part{output.data(), output.size()};
      const net::IoResult r = transport->Write({&part, 1});
      if (r.kind == net::IoResult::Kind::kWouldBlock) return transport->WriteEnable(true);
      if (!r.ok()) return Lost("the connection to the API server was lost");
      output.erase(0, r.bytes);
    }
  }

  void OnReadable() override {
    uint8_t buffer[16384];
    for (int i = 0; i < 16 && !finished; ++i) {
      const net::IoResult r = transport->Read(buffer);
      if (r.kind == net::IoResult::Kind::kWouldBlock) return;
      if (!r.ok()) {
        const std::string why = transport->error();
        return Lost(why.empty() ? "the API server ended the connection" : why);
      }
      Take({reinterpret_cast<const char*>(buffer), r.bytes});
    }
  }

  void Take(std::string_view bytes) {
    if (!upgraded) {
      head.append(bytes);
      if (head.size() > kMaxHead) return Lost("the answer to the upgrade is too long");
      return TakeHead();
    }
    frames.Add(bytes);
    TakeFrames();
  }

  // The answer to the upgrade: 101, or a Status as any other request has.
  void TakeHead() {
    const size_t end = head.find("\r\n\r\n");
    if (end == std::string::npos) return;
    int code = 0;
    const size_t space = head.find(' ');
    if (head.starts_with("HTTP/1.") && space != std::string::npos) {
      std::from_chars(head.data() + space + 1, head.data() + end, code);
    }
    if (code != 101) {
      status = code == 0 ? 502 : code;
      // Its body ends with the connection or is here already.
      const std::string body = head.substr(end + 4);
      if (!ParseStatus(body).message.empty()) return Refused(body);
      return;
    }
    upgraded = true;
    frames.Add(std::string_view(head).substr(end + 4));
    head.clear();
    for (size_t at = 0; at < request.size(); at += kChunk) {
      Send(WsOpcode::kBinary, std::string(1, kData) + request.substr(at, kChunk));
    }
    Flush();
    TakeFrames();
  }
  void Refused(const std::string& body) {
    Error error = WithCredentials(ErrorOf("GET", path, false, status, body), config);
    Finish(Fail(error.Annotate(Where())));
  }

  void Send(WsOpcode opcode, std::string_view payload) {
    output += EncodeFrame(opcode, payload, static_cast<uint32_t>(random()));
  }

  void TakeFrames() {
    while (!finished) {
      auto message = frames.Next();
      if (!message) return Finish(Fail(message.error().Annotate(Where())));
      if (!*message) return;
      switch ((*message)->opcode) {
        case WsOpcode::kPing:
          Send(WsOpcode::kPong, (*message)->payload);
          Flush();
          break;
        case WsOpcode::kPong: break;
        case WsOpcode::kClose: return Lost("the API server closed the stream");
        case WsOpcode::kText:
        case WsOpcode::kBinary: TakeChannel((*message)->payload); break;
      }
    }
  }

  void TakeChannel(std::string_view payload) {
    if (payload.empty()) return;
    const char channel = payload[0];
    payload.remove_prefix(1);
    if (channel != kData && channel != kError) return;
    size_t& skip = channel == kData ? skip_data : skip_error;
    const size_t n = std::min(skip, payload.size());
    skip -= n;
    payload.remove_prefix(n);
    if (payload.empty()) return;
    if (channel == kError) {
      failure.append(payload.substr(0, 4096 - std::min<size_t>(4096, failure.size())));
      return Finish(Fail(Code::kUnavailable,
                         Where() + ": " + failure + "; does the program in it listen there?"));
    }
    answer.append(payload);
    if (answer.size() > kMaxAnswer) return Lost("the answer is too large");
    if (enough(answer, false)) Finish(std::move(answer));
  }

  void Lost(const std::string& why) {
    if (!upgraded && status != 0) {
      const size_t end = head.find("\r\n\r\n");
      return Refused(head.substr(end + 4));
    }
    if (upgraded && !answer.empty() && enough(answer, true)) return Finish(std::move(answer));
    Finish(Fail(Code::kUnavailable, Where() + ": " + why));
  }

  void Finish(Result<std::string> result) {
    if (finished) return;
    finished = true;
    deadline.Stop();
    if (transport) {
      transport->ReadEnable(false);
      transport->WriteEnable(false);
    }
    Done call = std::move(done);
    call(std::move(result));  // may destroy the user's handle; this dies at the end of the round
  }

  event::EventLoop& loop;
  const ClientConfig& config;
  const PodPort to;
  const std::string request;
  Enough enough;
  Done done;
  const std::string path;
  event::Timer deadline;
  std::unique_ptr<Dialer> dialer;
  net::TransportPtr transport;
  std::minstd_rand random{std::random_device{}()};
  std::string output;
  std::string head;
  int status = 0;  // of a refusal
  bool upgraded = false;
  WsDecoder frames;
  size_t skip_data = 2;
  size_t skip_error = 2;
  std::string answer;
  std::string failure;
  bool finished = false;
};

PodExchange::PodExchange(event::EventLoop& loop, const ClientConfig& config, PodPort to,
                         std::string request, std::chrono::milliseconds timeout, Enough enough,
                         Done done)
    : impl_(std::make_unique<Impl>(loop, config, std::move(to), std::move(request), timeout,
                                   std::move(enough), std::move(done))) {}
PodExchange::~PodExchange() {
  impl_->finished = true;
  event::EventLoop& loop = impl_->loop;
  loop.DeferDelete(std::move(impl_));
}

Result<std::string> ExchangeWithPod(const ClientConfig& config, const PodPort& to,
                                    std::string request, std::chrono::milliseconds timeout,
                                    PodExchange::Enough enough) {
  event::EventLoop loop;
  Result<std::string> out = Fail(Code::kInternal, "no answer");
  bool done = false;
  {
    PodExchange exchange(loop, config, to, std::move(request), timeout, std::move(enough),
                         [&](Result<std::string> result) {
                           out = std::move(result);
                           done = true;
                         });
    while (!done) loop.RunOnce(std::chrono::seconds(1));
  }
  loop.RunOnce({});  // what was handed to DeferDelete
  return out;
}

}  // namespace qanat::kube
