// SPDX-License-Identifier: Apache-2.0
// What routing and authorization may know of a message: views into memory that the caller keeps
// alive for the call. Made from a codec's message on the data path and from query parameters by
// /debug/why, so that both ask the same functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/http/message.h"

namespace qanat::waypoint {

struct HeadView {
  std::string_view method;
  std::string_view scheme;
  std::string_view authority;
  std::string_view path;  // with query, without fragment
  const http::HeaderList* headers = nullptr;

  HeadView() = default;
  explicit HeadView(const http::RequestHead& head)
      : method(head.method),
        scheme(head.scheme),
        authority(head.authority),
        path(head.path),
        headers(&head.headers) {}
  explicit HeadView(const http::ResponseHead& head) : headers(&head.headers) {}

  std::string_view path_only() const { return path.substr(0, path.find('?')); }
  std::string_view query() const {
    size_t mark = path.find('?');
    return mark == std::string_view::npos ? std::string_view() : path.substr(mark + 1);
  }

  // All values of one header (name in lower case) joined with ",", as Envoy's matchers see it;
  // pseudo headers too. `scratch` holds the joined text where there is more than one.
  std::optional<std::string_view> Find(std::string_view name, std::string& scratch) const;
};

}  // namespace qanat::waypoint
