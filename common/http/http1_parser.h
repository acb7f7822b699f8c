// SPDX-License-Identifier: Apache-2.0
// HTTP/1 messages from bytes, as a pull parser: give it input, take events. llhttp parses; our
// checks (http1_head.h and the framing rules here) come first and are stricter. Owned by one
// connection; knows nothing of transports.
#pragma once

#include <llhttp.h>

#include <string>
#include <string_view>
#include <vector>

#include "common/http/http1_head.h"
#include "common/http/message.h"

namespace qanat::http {

class Http1Parser {
 public:
  enum class Side { kRequests, kResponses };
  enum class Event {
    kMore,   // all input was taken; give more
    kHead,   // request() or response(), and the facts below
    kBody,   // body(): views into the input of this call
    kEnd,    // trailers(); once per message; the next call begins the next message
    kError,  // error_status() and error(); the connection is finished
  };

  Http1Parser(Side side, size_t max_header_bytes, size_t max_headers);
  Http1Parser(const Http1Parser&) = delete;
  Http1Parser& operator=(const Http1Parser&) = delete;

  // Consumes from the front of `input`. Stops after each event so that the caller can pause.
  Event Next(std::string_view& input);
  // The peer ended its direction: kEnd (a response that ends with the connection), kMore (between
  // messages) or kError (in the middle of one).
  Event Finish();

  // Responses: the method of the request that the next head answers (HEAD has no body).
  void SetRequestMethod(std::string_view method) { request_method_ = method; }

  RequestHead& request() { return request_; }
  ResponseHead& response() { return response_; }
  bool keep_alive() const { return keep_alive_; }
  bool expect_continue() const { return expect_continue_; }
  const std::vector<std::string_view>& body() const { return body_; }
  HeaderList& trailers() { return trailers_; }
  // The message is complete and has no trailers: the next event is kEnd and needs no input.
  bool complete() const { return phase_ == Phase::kComplete && trailers_.empty(); }
  bool between_messages() const { return phase_ == Phase::kHead && collector_.empty(); }

  int error_status() const { return error_status_; }
  const std::string& error() const { return error_; }

 private:
  enum class Phase { kHead, kBody, kTrailers, kComplete, kFailed };

  Event Fail(int status, std::string_view why);
  Event ParseHead();
  Event ParseBody(std::string_view& input);
  Event ParseTrailers();
  Event CheckRequestLine();
  Event CheckFraming();
  Event CheckTarget();
  void StripHopByHop();
  HeaderList& headers() { return side_ == Side::kRequests ? request_.headers : response_.headers; }
  // Runs llhttp; `consumed` is how far it came. False when it refused (Fail was called).
  bool Execute(std::string_view bytes, size_t& consumed);

  static int OnUrl(llhttp_t* p, const char* at, size_t n);
  static int OnField(llhttp_t* p, const char* at, size_t n);
  static int OnValue(llhttp_t* p, const char* at, size_t n);
  static int OnValueComplete(llhttp_t* p);
  static int OnHeadersComplete(llhttp_t* p);
  static int OnChunkHeader(llhttp_t* p);
  static int OnBody(llhttp_t* p, const char* at, size_t n);
  static int OnMessageComplete(llhttp_t* p);
  static llhttp_settings_t MakeSettings();

  const Side side_;
  const size_t max_headers_;
  HeadCollector collector_;
  llhttp_settings_t settings_;
  llhttp_t parser_;

  Phase phase_ = Phase::kHead;
  std::string request_method_;
  RequestHead request_;
  ResponseHead response_;
  HeaderList trailers_;
  std::string url_;
  std::string field_;
  std::string value_;
  std::vector<std::string_view> body_;
  bool in_trailers_ = false;
  bool head_done_ = false;
  bool keep_alive_ = true;
  bool expect_continue_ = false;
  bool last_chunk_ = false;
  int error_status_ = 0;
  std::string error_;
};

}  // namespace qanat::http
