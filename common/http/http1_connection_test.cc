// SPDX-License-Identifier: Apache-2.0
// HTTP/1 connections against bytes written by hand.
#include "common/http/connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/http/connection_fixture.h"

namespace qanat::http {
namespace {

using namespace test;  // NOLINT: this folder's peers
using std::chrono::milliseconds;
using testing::HasSubstr;

class Http1Raw : public ConnectionTest {
 protected:
  void Start(Options options = {}) {
    auto [a, b] = net::MakePipe(loop_, 65536);
    server_.connection = MakeHttp1Server(std::move(a), &server_, options);
    peer_ = std::move(b);
  }
  void Send(const std::string& bytes) {
    const iovec part{const_cast<char*>(bytes.data()), bytes.size()};
    ASSERT_TRUE(peer_->Write({&part, 1}).ok());
  }
  std::string Receive() {
    RunFor(milliseconds(20));
    std::string out;
    uint8_t buffer[4096];
    for (;;) {
      const net::IoResult r = peer_->Read(buffer);
      if (!r.ok()) break;
      out.append(reinterpret_cast<char*>(buffer), r.bytes);
    }
    return out;
  }
  net::TransportPtr peer_;
};

TEST_F(Http1Raw, PipelinedRequestsAreAnsweredInOrder) {
  Start();
  Send(
      "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
      "GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  RunFor(milliseconds(20));
  ASSERT_EQ(server_.exchanges.size(), 1u) << "the second waits for the first's answer";
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_EQ(server_.exchanges.size(), i + 1);
    ResponseHead head = Status(200);
    head.headers.Add("x", server_.exchanges[i]->head.path);
    server_.exchanges[i]->stream->SendResponse(head, true);
    RunFor(milliseconds(10));
  }
  EXPECT_EQ(Receive(),
            "HTTP/1.1 200 OK\r\nx: /1\r\ncontent-length: 0\r\n\r\n"
            "HTTP/1.1 200 OK\r\nx: /2\r\ncontent-length: 0\r\n\r\n"
            "HTTP/1.1 200 OK\r\nx: /3\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
}

TEST_F(Http1Raw, ExpectContinue) {
  Start();
  Send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(Receive(), "HTTP/1.1 100 Continue\r\n\r\n");
  Send("hi");
  RunFor(milliseconds(10));
  EXPECT_EQ(server_.exchanges[0]->in.data, "hi");
  EXPECT_FALSE(server_.exchanges[0]->head.headers.Has("expect"));
}

TEST_F(Http1Raw, ExpectContinueRefused) {
  server_.on_request = [](ServerEnd::Exchange& x) { x.stream->SendResponse(Status(403), true); };
  Start();
  Send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(Receive(), "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
  RunUntil([&] { return server_.exchanges[0]->in.closed; });
}

TEST_F(Http1Raw, Http10GetsABodyUntilClose) {
  server_.on_request = [](ServerEnd::Exchange& x) {
    x.stream->SendResponse(Status(200), false);
    x.stream->SendData("body", true);
  };
  Start();
  Send("GET / HTTP/1.0\r\n\r\n");
  EXPECT_EQ(Receive(), "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbody");
}

TEST_F(Http1Raw, ErrorAfterAGoodRequestDoesNotTouchItsAnswer) {
  Start();
  Send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost : a\r\n\r\n");
  RunFor(milliseconds(20));
  server_.exchanges[0]->stream->SendResponse(Status(204), true);
  const std::string out = Receive();
  EXPECT_THAT(out, HasSubstr("HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 400 Bad Request\r\n"));
  peer_.reset();
  RunUntil([&] { return server_.closed; });
  EXPECT_FALSE(server_.clean);
  EXPECT_EQ(server_.exchanges.size(), 1u);
}

TEST_F(Http1Raw, BadChunkEndsTheExchange) {
  Start();
  Send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nZZ\r\n");
  EXPECT_THAT(Receive(), HasSubstr("HTTP/1.1 400 "));
  EXPECT_TRUE(server_.exchanges[0]->in.closed);
  EXPECT_EQ(server_.exchanges[0]->in.reason, CloseReason::kProtocolError);
}

TEST_F(Http1Raw, HeaderTimeoutAnswers408) {
  Options options;
  options.header_timeout = milliseconds(60);
  Start(options);
  RunFor(milliseconds(100));
  EXPECT_EQ(Receive(), "") << "nothing was begun";
  Send("GET / HT");
  RunFor(milliseconds(100));
  EXPECT_THAT(Receive(), HasSubstr("HTTP/1.1 408 "));
}

TEST_F(Http1Raw, ClientLeavesDuringTheRequest) {
  Start();
  Send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc");
  RunFor(milliseconds(10));
  peer_.reset();
  RunUntil([&] { return server_.closed; });
  EXPECT_TRUE(server_.exchanges[0]->in.closed);
  EXPECT_FALSE(server_.exchanges[0]->in.ended);
  EXPECT_EQ(server_.exchanges[0]->in.reason, CloseReason::kConnectionLost);
}

TEST_F(ConnectionTest, Http1ClientRefusesBytesThatNoRequestAskedFor) {
  auto [a, b] = net::MakePipe(loop_, 65536);
  client_.connection = MakeHttp1Client(std::move(a), &client_, {});
  const std::string planted = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
  const iovec part{const_cast<char*>(planted.data()), planted.size()};
  b->Write({&part, 1});
  RunUntil([&] { return client_.closed; });
  EXPECT_FALSE(client_.clean);
  EXPECT_FALSE(client_.connection->CanOpen());
}

TEST_F(ConnectionTest, Http1ClientBodyUntilClose) {
  auto [a, b] = net::MakePipe(loop_, 65536);
  client_.connection = MakeHttp1Client(std::move(a), &client_, {});
  Recorder r;
  client_.connection->Open(Get(), true, &r);
  RunFor(milliseconds(10));
  const std::string answer = "HTTP/1.1 200 OK\r\n\r\nall of it";
  const iovec part{const_cast<char*>(answer.data()), answer.size()};
  b->Write({&part, 1});
  RunFor(milliseconds(10));
  EXPECT_FALSE(r.ended);
  b->ShutdownWrite();
  RunUntil([&] { return r.closed; });
  EXPECT_EQ(r.data, "all of it");
  EXPECT_TRUE(r.ended);
  EXPECT_EQ(r.reason, CloseReason::kDone);
}

TEST_F(ConnectionTest, Http1ServerThatLeavesInTheMiddle) {
  for (const std::string answer :
       {"", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"}) {
    ClientEnd client;
    auto [a, b] = net::MakePipe(loop_, 65536);
    client.connection = MakeHttp1Client(std::move(a), &client, {});
    Recorder r;
    client.connection->Open(Get(), true, &r);
    RunFor(milliseconds(10));
    uint8_t buffer[4096];
    ASSERT_TRUE(b->Read(buffer).ok());
    const iovec part{const_cast<char*>(answer.data()), answer.size()};
    b->Write({&part, 1});
    b.reset();
    RunUntil([&] { return r.closed && client.closed; });
    // Nothing of an answer: lost, and a retry on a fresh connection may be in order.
    EXPECT_EQ(r.reason, answer.empty() ? CloseReason::kConnectionLost : CloseReason::kPeerReset);
    EXPECT_FALSE(r.ended);
  }
}

}  // namespace
}  // namespace qanat::http
