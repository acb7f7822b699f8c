// SPDX-License-Identifier: Apache-2.0
// TokenReview: whose service account token is this? Pure encoding and decoding; the call itself
// goes through Client::Call. Thread: any.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/kube/resource.h"

namespace qanat::kube {

struct TokenReview {
  bool authenticated = false;
  std::string error;     // why not, in the server's words
  std::string username;  // "system:serviceaccount:NAMESPACE:NAME"
  std::string uid;
  std::vector<std::string> groups;
  std::vector<std::string> audiences;
  // authentication.kubernetes.io/{pod-name,pod-uid,node-name,node-uid,credential-id}
  std::map<std::string, std::vector<std::string>> extra;

  // Of a service account's username; "" otherwise.
  std::string ServiceAccountNamespace() const;
  std::string ServiceAccountName() const;
  std::string Extra(
      std::string_view name) const;  // first value of authentication.kubernetes.io/NAME
};

CallRequest CreateTokenReview(std::string_view token, const std::vector<std::string>& audiences);
Result<TokenReview> ParseTokenReview(std::string_view json);

}  // namespace qanat::kube
