// SPDX-License-Identifier: Apache-2.0
// HTTP messages as values, the same for HTTP/1.1 and HTTP/2: the codecs move what is special to a
// version (Host, pseudo headers, hop-by-hop headers, framing) in and out of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qanat::http {

enum class Version : uint8_t { kHttp10, kHttp11, kHttp2 };
std::string_view VersionName(Version version);  // "HTTP/1.1"

bool EqualsIgnoreCase(std::string_view a, std::string_view b);
std::string ToLower(std::string_view text);

struct Header {
  std::string name;  // lower case
  std::string value;
};

// Ordered; a name may occur several times. Lookups ignore case; names are stored in lower case.
class HeaderList {
 public:
  void Add(std::string_view name, std::string_view value);
  void Set(std::string_view name, std::string_view value);  // replaces all; keeps the first's place
  size_t Remove(std::string_view name);
  size_t RemovePrefix(std::string_view prefix);
  bool Has(std::string_view name) const;
  // The first value.
  std::optional<std::string_view> Get(std::string_view name) const;
  // All values of the name joined by ',' as RFC 9110 5.3 allows; nothing when there is none.
  std::optional<std::string> GetJoined(std::string_view name) const;
  size_t Count(std::string_view name) const;

  bool empty() const { return headers_.empty(); }
  size_t size() const { return headers_.size(); }
  // Names, values and 32 bytes each: the measure of SETTINGS_MAX_HEADER_LIST_SIZE.
  size_t ByteSize() const;
  std::vector<Header>::const_iterator begin() const { return headers_.begin(); }
  std::vector<Header>::const_iterator end() const { return headers_.end(); }

 private:
  std::vector<Header> headers_;
};

struct RequestHead {
  std::string method;
  std::string scheme;     // "http" or "https"; "" from an HTTP/1 origin-form request
  std::string authority;  // host or host:port; never also in `headers`
  std::string path;       // origin form with query, or "*"; "" for CONNECT (HTTP/2 only)
  HeaderList headers;     // without hop-by-hop headers
  Version version = Version::kHttp11;

  std::string_view PathOnly() const;  // before '?'
  std::string_view Query() const;     // after '?', or ""
};

struct ResponseHead {
  int status = 0;
  HeaderList headers;
  Version version = Version::kHttp11;
};

// True where RFC 9110 gives the response no content: 1xx, 204, 304, and any answer to HEAD.
bool HasNoBody(std::string_view request_method, int status);
std::string_view ReasonPhrase(int status);

// "%41+b" -> "A b"; a broken escape stays as it is. `plus` turns '+' into a space.
std::string PercentDecode(std::string_view text, bool plus);
// The value of the first `name=` in an URL query, decoded.
std::optional<std::string> QueryParameter(std::string_view query, std::string_view name);
// All of them, decoded, in order.
std::vector<std::pair<std::string, std::string>> ParseQuery(std::string_view query);

}  // namespace qanat::http
