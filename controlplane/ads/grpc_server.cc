// SPDX-License-Identifier: Apache-2.0
#include "controlplane/ads/grpc_server.h"

#include <fmt/format.h>
#include <grpc/support/log.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <set>
#include <thread>
#include <utility>

#include "common/base/log.h"
#include "common/base/program.h"

namespace qanat::controlplane {
namespace {

grpc::StatusCode CodeOf(Code code) {
  switch (code) {
    case Code::kInvalidArgument: return grpc::StatusCode::INVALID_ARGUMENT;
    case Code::kNotFound: return grpc::StatusCode::NOT_FOUND;
    case Code::kAlreadyExists: return grpc::StatusCode::ALREADY_EXISTS;
    case Code::kPermissionDenied: return grpc::StatusCode::PERMISSION_DENIED;
    case Code::kUnauthenticated: return grpc::StatusCode::UNAUTHENTICATED;
    case Code::kFailedPrecondition: return grpc::StatusCode::FAILED_PRECONDITION;
    case Code::kUnavailable: return grpc::StatusCode::UNAVAILABLE;
    case Code::kDeadlineExceeded: return grpc::StatusCode::DEADLINE_EXCEEDED;
    case Code::kResourceExhausted: return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case Code::kCancelled: return grpc::StatusCode::CANCELLED;
    case Code::kUnimplemented: return grpc::StatusCode::UNIMPLEMENTED;
    case Code::kIo:
    case Code::kInternal: return grpc::StatusCode::INTERNAL;
  }
  return grpc::StatusCode::INTERNAL;
}

grpc::Status ToGrpc(const Status& status) {
  if (status) return grpc::Status::OK;
  return {CodeOf(status.error().code), status.error().message};
}

std::string Flatten(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string out;
  if (!buffer.Dump(&slices).ok()) return out;
  out.reserve(buffer.Length());
  for (const grpc::Slice& slice : slices) {
    out.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return out;
}

}  // namespace

class GrpcServer::Impl : public grpc::CallbackGenericService {
 public:
  Impl(event::EventLoop& loop, RpcService& service) : loop_(loop), service_(service) {}

  Status Start(const GrpcServerOptions& options) {
    // Without file descriptors the library's listener dies for good (accept4 failing once ends
    // it): never be the one who runs out first.
    RaiseFileLimit();
    grpc::SslServerCredentialsOptions tls(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
    tls.pem_key_cert_pairs.push_back({options.key_pem, options.chain_pem});
    grpc::ServerBuilder builder;
    builder.AddListeningPort(options.listen, grpc::SslServerCredentials(tls), &port_);
    builder.RegisterCallbackGenericService(this);
    builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
    builder.SetMaxSendMessageSize(-1);
    // A second control plane on the same port must fail, not share it.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    // Stock ztunnel pings every 30 s, our agents each second: do not call that abuse.
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
    builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 64 * 1024);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return Fail(Code::kUnavailable,
                  fmt::format("cannot listen on {}: is another control plane running? (--listen "
                              "chooses another address)",
                              options.listen));
    }
    return {};
  }

  void Stop() {
    stopping_ = true;
    for (Call* call : std::set<Call*>(calls_)) {
      call->Finish(Fail(Code::kUnavailable, "the control plane is shutting down"));
    }
    // Calls that the library has handed over but whose first task has not run yet end in that task.
    // The loop must go on while the library waits for them.
    std::atomic<bool> done{false};
    std::thread waiter([&] {
      server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
      done = true;
    });
    while (!done) loop_.RunOnce(std::chrono::milliseconds(5));
    waiter.join();
    while (!calls_.empty()) loop_.RunOnce(std::chrono::milliseconds(5));
    server_.reset();
  }

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return new Call(*this, *context);
  }

  int port() const { return port_; }

 private:
  // One call. Made and told of events by the library's threads; everything but the On* methods
  // runs on the loop. The library says OnDone last; the task that this posts is the last one.
  class Call : public grpc::ServerGenericBidiReactor, public StreamWriter {
   public:
    Call(Impl& server, const grpc::GenericCallbackServerContext& context)
        : server_(server), method_(context.method()) {
      info_.peer = context.peer();
      for (const auto& [key, value] : context.client_metadata()) {
        if (key == "authorization") info_.authorization.assign(value.data(), value.size());
        if (key == "clusterid") info_.cluster_id.assign(value.data(), value.size());
      }
      server_.loop_.Post([this] { Open(); });
    }

    void Write(std::string bytes) override {
      if (finished_) return;
      const grpc::Slice slice(bytes);
      out_ = grpc::ByteBuffer(&slice, 1);
      StartWrite(&out_);
    }

    void Finish(Status status) override {
      if (std::exchange(finished_, true)) return;
      grpc::ServerGenericBidiReactor::Finish(ToGrpc(status));
    }

   private:
    void OnReadDone(bool ok) override {
      server_.loop_.Post([this, ok] { ReadDone(ok); });
    }
    void OnWriteDone(bool ok) override {
      server_.loop_.Post([this, ok] { WriteDone(ok); });
    }
    void OnCancel() override {
      server_.loop_.Post([this] { Finish(Fail(Code::kCancelled, "the client went away")); });
    }
    void OnDone() override {
      server_.loop_.Post([this] {
        if (handler_) handler_->OnClosed();
        handler_.reset();
        server_.calls_.erase(this);
        delete this;
      });
    }

    void Open() {
      server_.calls_.insert(this);
      if (server_.stopping_) {
        return Finish(Fail(Code::kUnavailable, "the control plane is shutting down"));
      }
      if (method_ == kDeltaAdsMethod) {
        handler_ = server_.service_.OnAdsStream(info_, *this);
        if (!handler_) {
          return Finish(Fail(Code::kInternal, "no reason given"));
        }
      } else if (method_ != kCertificateMethod) {
        return Finish(Fail(Code::kUnimplemented,
                           fmt::format("{} is not served: this control plane speaks delta ADS and "
                                       "CreateCertificate",
                                       method_.substr(0, 200))));
      }
      if (!finished_) StartRead(&in_);
    }

    void ReadDone(bool ok) {
      if (finished_) return;
      if (!ok) {
        // The client ended its direction. A stream ends with it; a unary call had no request.
        return Finish(handler_ ? Status() : Fail(Code::kInvalidArgument, "no request"));
      }
      const std::string bytes = Flatten(in_);
      in_.Clear();
      if (handler_) {
        handler_->OnMessage(bytes);
        if (!finished_) StartRead(&in_);
        return;
      }
      pending_ = server_.service_.OnCreateCertificate(
          info_, bytes, [this](Result<std::string> answer) { Reply(std::move(answer)); });
    }

    void Reply(Result<std::string> answer) {
      if (finished_) return;
      if (!answer) return Finish(Fail(answer.error()));
      finished_ = true;
      const grpc::Slice slice(*answer);
      out_ = grpc::ByteBuffer(&slice, 1);
      StartWriteAndFinish(&out_, grpc::WriteOptions(), grpc::Status::OK);
    }

    void WriteDone(bool ok) {
      if (finished_) return;
      if (!ok) return Finish(Fail(Code::kUnavailable, "the client cannot be written to"));
      if (handler_) handler_->OnWritten();
    }

    Impl& server_;
    const std::string method_;
    CallInfo info_;
    std::unique_ptr<StreamHandler> handler_;
    PendingPtr pending_;  // of a unary call
    grpc::ByteBuffer in_;
    grpc::ByteBuffer out_;
    bool finished_ = false;
  };

  event::EventLoop& loop_;
  RpcService& service_;
  std::unique_ptr<grpc::Server> server_;
  std::set<Call*> calls_;
  bool stopping_ = false;
  int port_ = 0;
};

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<GrpcServer>> GrpcServer::Start(event::EventLoop& loop, RpcService& service,
                                                      const GrpcServerOptions& options) {
  auto impl = std::make_unique<Impl>(loop, service);
  QANAT_RETURN_IF_ERROR(impl->Start(options));
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(impl)));
}

GrpcServer::~GrpcServer() { impl_->Stop(); }

int GrpcServer::port() const { return impl_->port(); }

void GrpcServer::InitLogging() {
  gpr_set_log_function([](gpr_log_func_args* args) {
    // The library logs at ERROR what is a client's business (a handshake that did not finish).
    LOG_DEBUG("grpc", "{}", args->message);
  });
}

}  // namespace qanat::controlplane
