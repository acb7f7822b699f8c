// SPDX-License-Identifier: Apache-2.0
// HTTP/1 message framing on the way out, for both sides.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/http/message.h"

namespace qanat::http {

// How the body of the message that is being sent is delimited.
class BodyWriter {
 public:
  enum class Mode : uint8_t { kNone, kLength, kChunked, kUntilClose };

  // Appends body bytes in the chosen framing. False: more or fewer bytes than Content-Length said;
  // the connection must be aborted, since the peer would take the next message for the rest.
  bool Data(std::string_view data, bool end, std::string& out);
  bool Trailers(const HeaderList& trailers, std::string& out);
  Mode mode() const { return mode_; }

 private:
  friend BodyWriter EncodeResponse(const ResponseHead&, std::string_view, Version, bool, bool&,
                                   std::string&);
  friend BodyWriter EncodeRequest(const RequestHead&, bool, std::string&);
  Mode mode_ = Mode::kNone;
  uint64_t remaining_ = 0;
  bool discard_ = false;  // answers to HEAD and the like: what the user sends is dropped
};

// `keep_alive` goes in as wanted and out as it is (a body until close ends it).
BodyWriter EncodeResponse(const ResponseHead& head, std::string_view request_method,
                          Version request_version, bool end, bool& keep_alive, std::string& out);
BodyWriter EncodeRequest(const RequestHead& head, bool end, std::string& out);
void EncodeInformational(int status, const HeaderList& headers, std::string& out);

}  // namespace qanat::http
