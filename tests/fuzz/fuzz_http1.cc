// SPDX-License-Identifier: Apache-2.0
// HTTP/1 from a hostile peer. The first byte says how the rest is cut and which side reads; the
// same bytes in one piece and in many must mean the same, or two proxies could disagree.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/http/http1_parser.h"

namespace {

using qanat::http::Header;
using qanat::http::Http1Parser;

std::string Meaning(Http1Parser::Side side, std::string_view bytes, size_t step, bool head_method) {
  Http1Parser parser(side, 4096, 40);
  parser.SetRequestMethod(head_method ? "HEAD" : "GET");
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += step) {
    std::string piece(bytes.substr(i, step));
    std::string_view input = piece;
    for (;;) {
      const auto event = parser.Next(input);
      if (event == Http1Parser::Event::kMore) break;
      if (event == Http1Parser::Event::kError) return out + "!";
      if (event == Http1Parser::Event::kHead) {
        auto& headers = side == Http1Parser::Side::kRequests ? parser.request().headers
                                                             : parser.response().headers;
        out += "H" + parser.request().method + parser.request().path + parser.request().authority;
        for (const Header& h : headers) {
          if (!qanat::http::IsToken(h.name) || !qanat::http::IsHeaderValue(h.value)) abort();
          out += h.name + ":" + h.value + ";";
        }
      }
      for (auto part : parser.body()) out += part;
      if (event == Http1Parser::Event::kEnd) out += "E";
    }
  }
  (void)parser.Finish();
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const auto side =
      (data[0] & 1) != 0 ? Http1Parser::Side::kResponses : Http1Parser::Side::kRequests;
  const size_t step = 1 + (data[0] >> 2);
  const bool head = (data[0] & 2) != 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string whole = Meaning(side, bytes, bytes.size(), head);
  const std::string pieces = Meaning(side, bytes, step, head);
  if (whole != pieces) {
    // A body before an error may be seen further in pieces; never another head or end.
    const size_t n = std::min(whole.size(), pieces.size()) - 1;
    const bool failed = whole.ends_with('!') && pieces.ends_with('!');
    if (!failed || whole.substr(0, n) != pieces.substr(0, n)) abort();
  }
  return 0;
}
