// SPDX-License-Identifier: Apache-2.0
// The inside of a client: its connections, and the exchanges that wait for one or run on one.
// Private to common/kube; one loop.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "common/grpc/backoff.h"
#include "common/http/connection.h"
#include "common/kube/client.h"
#include "common/kube/dialer.h"
#include "common/kube/files.h"

namespace qanat::kube {

class Exchange;

struct Client::Impl final : std::enable_shared_from_this<Client::Impl>, private http::ClientEvents {
  Impl(event::EventLoop& loop, ClientConfig config, ClientOptions options);

  void Add(Exchange* exchange, bool first = false);  // waits until a connection takes it
  void Forget(Exchange* exchange);                   // neither waits nor runs
  void Shutdown();
  bool connected() const;
  // A response has arrived: the server is really there.
  void NoteAnswer();
  std::set<std::function<void()>*> listeners_;  // see Client::OnBack
  // For "no answer within": what was being done about a connection.
  std::string ConnectState() const;

  event::EventLoop& loop_;
  const ClientConfig config_;
  const ClientOptions options_;
  Result<ServerUrl> url_;
  TokenSource token_;
  std::string last_error_;  // of the last attempt; "" while connected
  bool shut_down_ = false;
  std::list<http::ClientConnectionPtr> connections_;

 private:
  // http::ClientEvents
  void OnCapacity(http::ClientConnection&) override { Schedule(); }
  void OnConnectionClosed(http::ClientConnection& connection, bool clean,
                          std::string_view detail) override;

  void Schedule() {
    if (!shut_down_ && !pump_.armed()) pump_.Start({});
  }
  void Pump();
  http::ClientConnection* Usable();
  bool MayConnect() const;
  void BeginConnect();
  void Dialed(Result<kube::Dialed> result);
  void PutOff();
  void TellListeners();
  void FailWaiting(const Error& error);

  std::list<Exchange*> waiting_;
  std::set<Exchange*> running_;
  std::unique_ptr<Dialer> dialer_;
  bool answered_ = true;  // since the newest connection was made
  bool away_ = false;     // the last attempt to reach the server failed
  event::Timer back_;     // tells the listeners, from the loop
  grpc::Backoff backoff_;
  event::TimePoint next_attempt_{};
  event::Timer pump_;
};

// One HTTP exchange, repeated where that is safe. What it is for is in the two classes below it.
class Exchange : public Handle, private http::StreamEvents {
 public:
  Exchange(std::shared_ptr<Client::Impl> client, std::string method, std::string path, Query query);
  ~Exchange() override;
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  // From the client's pump, so that the user may be called. False: no capacity after all.
  bool Attach(http::ClientConnection& connection);
  // Ends it with an error, unless it may be repeated.
  virtual void Fail(Error error) = 0;  // calls the user, who may destroy this
  void ClientGone();

 protected:
  virtual void OnHead(const http::ResponseHead& head) = 0;
  // False: this may be gone.
  virtual bool OnBody(std::string_view data) = 0;
  virtual void OnComplete() = 0;
  virtual bool Repeatable()
      const = 0;  // nothing of an answer has reached the user, and it is a GET

  void SetBody(std::string body, std::string content_type) {
    body_ = std::move(body);
    content_type_ = std::move(content_type);
  }
  void Begin() { client_->Add(this); }
  void Again(std::chrono::milliseconds delay);
  void Stop();  // no more events; the stream is cancelled
  // Reads the token anew after a 401; true when it was another one and the call runs again.
  bool AgainWithNewToken();
  std::string Where() const { return method_ + " " + client_->config_.server + path_; }

  const std::shared_ptr<Client::Impl> client_;
  const std::string method_;
  const std::string path_;
  event::Timer deadline_;
  int status_ = 0;  // 0: no head yet

 private:
  void OnResponse(http::ResponseHead head, bool end) final;
  void OnData(std::string_view data, bool end) final;
  void OnTrailers(http::HeaderList) final { ended_ = true; }
  void OnClosed(http::CloseReason reason, std::string_view detail) final;
  virtual void OnDeadline() = 0;

  const Query query_;
  std::string body_;
  std::string content_type_;
  http::Stream* stream_ = nullptr;
  event::Timer again_;
  int repeats_ = 0;
  bool token_tried_ = false;
  bool ended_ = false;  // the answer is complete

 protected:
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

HandlePtr StartCall(std::shared_ptr<Client::Impl> client, CallRequest request, Client::Done done);
HandlePtr StartWatch(std::shared_ptr<Client::Impl> client, WatchRequest request,
                     Client::OnLine on_line, Client::OnEnd on_end);

}  // namespace qanat::kube
