// SPDX-License-Identifier: Apache-2.0
#include "common/http/http1_parser.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qanat::http {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Side = Http1Parser::Side;

// What the parser says about `bytes`, as text, when they arrive `fragment` at a time.
std::string Transcript(Side side, std::string_view bytes, size_t fragment, bool eof = false,
                       std::string_view method = "GET") {
  Http1Parser parser(side, 8192, 50);
  parser.SetRequestMethod(method);
  std::string out;
  std::string body;
  auto flush = [&] {
    if (!body.empty()) out += fmt::format("body({}) ", body);
    body.clear();
  };
  auto handle = [&](Http1Parser::Event event) {
    switch (event) {
      case Http1Parser::Event::kMore: return false;
      case Http1Parser::Event::kHead:
        if (side == Side::kRequests) {
          const RequestHead& r = parser.request();
          out += fmt::format("{} {}|{}|{} {}", r.method, r.scheme, r.authority, r.path,
                             VersionName(r.version));
          for (const Header& h : r.headers) out += fmt::format(" [{}={}]", h.name, h.value);
        } else {
          out += fmt::format("{}", parser.response().status);
          for (const Header& h : parser.response().headers) {
            out += fmt::format(" [{}={}]", h.name, h.value);
          }
        }
        out += parser.keep_alive() ? " keep " : " close ";
        return true;
      case Http1Parser::Event::kBody:
        for (auto part : parser.body()) body += part;
        return true;
      case Http1Parser::Event::kEnd:
        flush();
        for (const Header& h : parser.trailers())
          out += fmt::format("trailer {}={} ", h.name, h.value);
        out += "end;";
        return true;
      case Http1Parser::Event::kError:
        flush();
        out += fmt::format("ERROR {} {}", parser.error_status(), parser.error());
        return false;
    }
    return false;
  };
  for (size_t i = 0; i < bytes.size() && !out.ends_with("ERROR"); i += fragment) {
    std::string piece(bytes.substr(i, fragment));  // its own memory: views may not outlive it
    std::string_view input = piece;
    while (handle(parser.Next(input))) {
    }
    if (parser.error_status() != 0) return out;
  }
  if (eof) handle(parser.Finish());
  return out;
}

struct Case {
  const char* name;
  std::string bytes;
  std::string want;  // a prefix of the transcript
};

class Requests : public ::testing::TestWithParam<Case> {};

TEST_P(Requests, SameInAnyFragmentation) {
  const std::string whole = Transcript(Side::kRequests, GetParam().bytes, 1 << 20);
  EXPECT_THAT(whole, StartsWith(GetParam().want)) << GetParam().bytes;
  for (size_t n : {1, 2, 3, 7}) {
    // Whole reads may see an error earlier than it is reached byte by byte, never later: all but
    // the message must agree.
    EXPECT_EQ(Transcript(Side::kRequests, GetParam().bytes, n), whole) << "in pieces of " << n;
  }
}

const std::string kGet = "GET / HTTP/1.1\r\nHost: a\r\n";

INSTANTIATE_TEST_SUITE_P(
    Good, Requests,
    ::testing::Values(
        Case{"plain", "GET /x?y=1 HTTP/1.1\r\nHost: shop:80\r\nAccept:  */* \r\n\r\n",
             "GET |shop:80|/x?y=1 HTTP/1.1 [accept=*/*] keep end;"},
        Case{"http10", "GET / HTTP/1.0\r\n\r\n", "GET ||/ HTTP/1.0 close end;"},
        Case{"http10_keep", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
             "GET ||/ HTTP/1.0 keep end;"},
        Case{"http10_close_wins", "GET / HTTP/1.0\r\nConnection: close, keep-alive\r\n\r\n",
             "GET ||/ HTTP/1.0 close end;"},
        Case{"close", kGet + "Connection: close\r\n\r\n", "GET |a|/ HTTP/1.1 close end;"},
        Case{"length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
             "POST |a|/ HTTP/1.1 [content-length=3] keep body(abc) end;"},
        Case{"zero_length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
             "POST |a|/ HTTP/1.1 [content-length=0] keep end;"},
        Case{"chunked",
             "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
             "3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\n\r\n",
             "POST |a|/ HTTP/1.1 keep body(abcdefg) end;"},
        Case{"trailers",
             "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
             "1\r\nx\r\n0\r\nA: b\r\nContent-Length: 7\r\n\r\n",
             "POST |a|/ HTTP/1.1 keep body(x) trailer a=b end;"},
        Case{"pipelined", kGet + "\r\n" + "GET /2 HTTP/1.1\r\nHost: b\r\n\r\n",
             "GET |a|/ HTTP/1.1 keep end;GET |b|/2 HTTP/1.1 keep end;"},
        Case{"after_chunked",
             "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + kGet +
                 "\r\n",
             "POST |a|/ HTTP/1.1 keep end;GET |a|/ HTTP/1.1 keep end;"},
        Case{"absolute", "GET http://real:8080/p HTTP/1.1\r\nHost: fake\r\n\r\n",
             "GET http|real:8080|/p HTTP/1.1 keep end;"},
        Case{"options_star", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS |a|* HTTP/1.1"},
        Case{"leading_empty_line", "\r\n" + kGet + "\r\n", "GET |a|/ HTTP/1.1 keep end;"},
        Case{"upgrade_is_ignored",
             kGet + "Connection: upgrade, x-hop\r\nUpgrade: websocket\r\nX-Hop: 1\r\n\r\n",
             "GET |a|/ HTTP/1.1 keep end;"},
        Case{"connection_cannot_strip",
             kGet + "Connection: authorization\r\nAuthorization: x\r\n\r\n",
             "GET |a|/ HTTP/1.1 [authorization=x] keep end;"},
        Case{"te_trailers", kGet + "TE: trailers, gzip\r\n\r\n",
             "GET |a|/ HTTP/1.1 [te=trailers] keep end;"},
        Case{"ipv6_host", "GET / HTTP/1.1\r\nHost: [fd91:1::5]:8080\r\n\r\n",
             "GET |[fd91:1::5]:8080|/ HTTP/1.1"},
        Case{"obs_text", kGet + "X: \xc3\xa4\r\n\r\n", "GET |a|/ HTTP/1.1 [x=\xc3\xa4]"}),
    [](const auto& p) { return p.param.name; });

// Each of these has been, or could be, read in two ways by two HTTP parsers in a row.
INSTANTIATE_TEST_SUITE_P(
    Smuggling, Requests,
    ::testing::Values(
        Case{"space_before_colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", "ERROR 400"},
        Case{"tab_before_colon", kGet + "Content-Length\t: 3\r\n\r\nabc", "ERROR 400"},
        Case{"folded", kGet + "X: a\r\n b\r\n\r\n", "ERROR 400"},
        Case{"folded_te", kGet + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", "ERROR 400"},
        Case{"first_header_folded", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", "ERROR 400"},
        Case{"cl_and_te", kGet + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
             "ERROR 400"},
        Case{"te_and_cl", kGet + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
             "ERROR 400"},
        Case{"two_lengths", kGet + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
             "ERROR 400"},
        Case{"two_lengths_differ", kGet + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
             "ERROR 400"},
        Case{"length_list", kGet + "Content-Length: 3, 3\r\n\r\nabc", "ERROR 400"},
        Case{"length_plus", kGet + "Content-Length: +3\r\n\r\nabc", "ERROR 400"},
        Case{"length_minus", kGet + "Content-Length: -3\r\n\r\nabc", "ERROR 400"},
        Case{"length_hex", kGet + "Content-Length: 0x3\r\n\r\nabc", "ERROR 400"},
        Case{"length_empty", kGet + "Content-Length:\r\n\r\n", "ERROR 400"},
        Case{"length_overflow", kGet + "Content-Length: 18446744073709551617\r\n\r\n", "ERROR 400"},
        Case{"te_identity", kGet + "Transfer-Encoding: identity\r\n\r\n", "ERROR"},
        Case{"te_list", kGet + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "ERROR 501"},
        Case{"te_twice",
             kGet + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
             "ERROR 400"},
        Case{"te_xchunked", kGet + "Transfer-Encoding: xchunked\r\n\r\n", "ERROR"},
        Case{"te_vtab", kGet + "Transfer-Encoding: \vchunked\r\n\r\n", "ERROR 400"},
        Case{"te_http10",
             "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
             "ERROR 400"},
        Case{"bare_lf", "GET / HTTP/1.1\nHost: a\n\n", "ERROR 400"},
        Case{"bare_lf_header", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "ERROR 400"},
        Case{"bare_cr", kGet + "X: a\rContent-Length: 3\r\n\r\n", "ERROR 400"},
        Case{"nul", kGet + "X: a" + std::string(1, '\0') + "b\r\n\r\n", "ERROR 400"},
        Case{"no_colon", kGet + "Nonsense\r\n\r\n", "ERROR 400"},
        Case{"empty_name", kGet + ": x\r\n\r\n", "ERROR 400"},
        Case{"two_hosts", kGet + "Host: b\r\n\r\n", "ERROR 400"},
        Case{"no_host", "GET / HTTP/1.1\r\n\r\n", "ERROR 400"},
        Case{"host_userinfo", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", "ERROR 400"},
        Case{"host_path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "ERROR 400"},
        Case{"absolute_userinfo", "GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n", "ERROR 400"},
        Case{"two_spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "ERROR 400"},
        Case{"space_in_target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "ERROR 400"},
        Case{"tab_in_request_line", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "ERROR 400"},
        Case{"fragment", "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", "ERROR 400"},
        Case{"http09", "GET /\r\n\r\n", "ERROR 400"},
        Case{"http2_version", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", "ERROR 505"},
        Case{"http12", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", "ERROR 505"},
        Case{"lower_version", "GET / http/1.1\r\nHost: a\r\n\r\n", "ERROR 400"},
        Case{"connect", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "ERROR 501"},
        Case{"expectation", kGet + "Expect: x\r\n\r\n", "ERROR 417"},
        Case{"three_empty_lines", "\r\n\r\n\r\n" + kGet + "\r\n", "ERROR 400"},
        Case{"tls_hello", "\x16\x03\x01\x02\x05\x01", "ERROR 400"}),
    [](const auto& p) { return p.param.name; });

const std::string kChunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

class BadBodies : public ::testing::TestWithParam<Case> {};

TEST_P(BadBodies, EndInAnError) {
  for (size_t n : {1, 2, 3, 7, 1 << 20}) {
    EXPECT_THAT(Transcript(Side::kRequests, GetParam().bytes, n), HasSubstr("ERROR 400"))
        << "in pieces of " << n;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Chunks, BadBodies,
    ::testing::Values(Case{"size_not_hex", kChunked + "xyz\r\n", ""},
                      Case{"size_negative", kChunked + "-1\r\n", ""},
                      Case{"size_prefix", kChunked + "0x1\r\na\r\n0\r\n\r\n", ""},
                      Case{"size_overflow", kChunked + "fffffffffffffffff\r\n", ""},
                      Case{"size_space", kChunked + "1 \r\na\r\n0\r\n\r\n", ""},
                      Case{"size_empty", kChunked + "\r\n", ""},
                      Case{"bare_lf_size", kChunked + "1\na\r\n0\r\n\r\n", ""},
                      Case{"bare_lf_data", kChunked + "1\r\na\n0\r\n\r\n", ""},
                      Case{"data_too_long", kChunked + "1\r\nab\r\n0\r\n\r\n", ""},
                      Case{"cr_in_size", kChunked + "1\r\r\na\r\n", ""},
                      Case{"trailer_space_colon", kChunked + "0\r\nA : b\r\n\r\n", ""},
                      Case{"trailer_folded", kChunked + "0\r\nA: b\r\n c\r\n\r\n", ""},
                      Case{"trailer_bare_lf", kChunked + "0\r\nA: b\n\r\n", ""},
                      Case{"end_bare_lf", kChunked + "0\r\n\n", ""}),
    [](const auto& p) { return p.param.name; });

TEST(Http1Parser, HeadersOverTheLimit) {
  std::string many = kGet;
  for (int i = 0; i < 60; ++i) many += fmt::format("X-{}: 1\r\n", i);
  EXPECT_THAT(Transcript(Side::kRequests, many + "\r\n", 1000), HasSubstr("ERROR 431"));
  EXPECT_THAT(Transcript(Side::kRequests, kGet + "X: " + std::string(9000, 'a'), 100),
              HasSubstr("ERROR 431"));
  EXPECT_THAT(Transcript(Side::kRequests, "GET /" + std::string(9000, 'a'), 100),
              HasSubstr("ERROR 431"));
  EXPECT_THAT(Transcript(Side::kRequests, kChunked + "0\r\nX: " + std::string(9000, 'a'), 100),
              HasSubstr("ERROR 431"));
}

TEST(Http1Parser, Responses) {
  auto all = [](std::string_view bytes, bool eof, std::string_view method = "GET") {
    const std::string whole = Transcript(Side::kResponses, bytes, 1 << 20, eof, method);
    for (size_t n : {1, 2, 5}) {
      EXPECT_EQ(Transcript(Side::kResponses, bytes, n, eof, method), whole) << n;
    }
    return whole;
  };
  EXPECT_EQ(all("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false),
            "200 [content-length=2] keep body(hi) end;");
  EXPECT_EQ(all("HTTP/1.1 200 OK\r\n\r\nuntil close", true), "200 keep body(until close) end;");
  EXPECT_EQ(all("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", false, "HEAD"),
            "200 [content-length=9] keep end;");
  EXPECT_EQ(all("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", false),
            "304 [content-length=9] keep end;");
  EXPECT_EQ(all("HTTP/1.1 204 No Content\r\n\r\n", false), "204 keep end;");
  EXPECT_EQ(all("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false),
            "100 keep end;200 [content-length=0] keep end;");
  EXPECT_EQ(all("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", false),
            "200 keep body(hi) end;");
  EXPECT_THAT(all("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", true), HasSubstr("ERROR"));
  EXPECT_THAT(all("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", true),
              HasSubstr("ERROR"));
  EXPECT_THAT(
      all("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", false),
      HasSubstr("ERROR"));
  EXPECT_THAT(
      all("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", false),
      HasSubstr("ERROR 502"));
  EXPECT_THAT(all("HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello", false), HasSubstr("ERROR"));
  EXPECT_THAT(all("garbage\r\n\r\n", false), HasSubstr("ERROR"));
}

}  // namespace
}  // namespace qanat::http
