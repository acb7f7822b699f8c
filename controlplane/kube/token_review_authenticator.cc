// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/token_review_authenticator.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "common/kube/token_review.h"
#include "common/tls/crypto.h"
#include "common/tls/jwt.h"

namespace qanat::controlplane {
namespace {

constexpr std::chrono::seconds kLeeway{30};

// The token's own word, not believed but good enough to save a question. Its expiry.
Result<tls::Time> Plausible(std::string_view token, tls::Time now) {
  const Result<tls::Jwt> jwt = tls::ParseJwtUnverified(token);
  if (!jwt) {
    return Fail(Code::kUnauthenticated,
                fmt::format("not a service account token: {}", jwt.error().message));
  }
  if (!jwt->HasAudience(kTokenAudience)) {
    return Fail(Code::kUnauthenticated,
                "the token's audience is not istio-ca: it was made for another purpose; mount a "
                "projected token with audience istio-ca");
  }
  if (const Status times = tls::CheckTimes(*jwt, now, kLeeway); !times) {
    return Fail(times.error().code,
                times.error().message +
                    "; the kubelet renews it in its file, which a proxy reads again with every "
                    "try: does the kubelet reach the API server, and is the node's clock right?");
  }
  return tls::FromPosix(*jwt->exp);
}

}  // namespace

Result<TokenClaims> ClaimsOfReview(std::string_view json) {
  QANAT_ASSIGN_OR_RETURN(const kube::TokenReview review, kube::ParseTokenReview(json));
  if (!review.authenticated) {
    return Fail(
        Code::kUnauthenticated,
        fmt::format("the API server does not accept the token{}{}; where its service account "
                    "was deleted and made anew, start the proxy anew so that it gets another token "
                    "(kubectl rollout restart)",
                    review.error.empty() ? "" : ": ", review.error));
  }
  // A server that knows nothing of audiences would say yes to tokens of any purpose.
  if (std::find(review.audiences.begin(), review.audiences.end(), kTokenAudience) ==
      review.audiences.end()) {
    return Fail(Code::kUnauthenticated, "the API server does not confirm the audience istio-ca");
  }
  TokenClaims out;
  out.ns = review.ServiceAccountNamespace();
  out.service_account = review.ServiceAccountName();
  out.pod_name = review.Extra("pod-name");
  out.pod_uid = review.Extra("pod-uid");
  out.node = review.Extra("node-name");
  if (out.ns.empty() || out.service_account.empty() || out.pod_uid.empty()) {
    return Fail(Code::kUnauthenticated,
                fmt::format("the token of {} is not bound to a pod: use a projected service "
                            "account token",
                            review.username));
  }
  return out;
}

// One who waits for a review; in a list for as long as it waits.
class TokenReviewAuthenticator::Waiter final : public Pending {
 public:
  Waiter(TokenReviewAuthenticator& owner, std::string hash, Done done)
      : owner_(&owner), hash_(std::move(hash)), done_(std::move(done)) {}
  ~Waiter() override {
    if (list_ == nullptr) return;
    list_->remove(this);
    if (owner_ != nullptr) owner_->Abandon(hash_);
  }
  void JoinList(std::list<Waiter*>& list, bool abandonable) {
    list_ = &list;
    if (!abandonable) owner_ = nullptr;
  }
  Done Leave() {
    list_ = nullptr;
    return std::move(done_);
  }

 private:
  TokenReviewAuthenticator* owner_;
  const std::string hash_;
  Done done_;
  std::list<Waiter*>* list_ = nullptr;
};

TokenReviewAuthenticator::TokenReviewAuthenticator(kube::Client& client,
                                                   std::function<void()> before_answer,
                                                   TokenReviewOptions options)
    : client_(client), before_answer_(std::move(before_answer)), options_(options) {}

TokenReviewAuthenticator::~TokenReviewAuthenticator() {
  for (auto& [hash, review] : running_) {
    for (Waiter* waiter : review.waiters) waiter->Leave();
  }
}

PendingPtr TokenReviewAuthenticator::Authenticate(std::string_view authorization, tls::Time now,
                                                  Done done) {
  const Result<std::string_view> token = BearerToken(authorization);
  if (!token) {
    done(Fail(token.error()));
    return nullptr;
  }
  const Result<tls::Time> expiry = Plausible(*token, now);
  if (!expiry) {
    done(Fail(expiry.error()));
    return nullptr;
  }
  std::string hash = tls::Sha256Hex(*token);
  if (const auto kept = kept_.find(hash); kept != kept_.end()) {
    if (event::Clock::now() < kept->second.until) {
      done(kept->second.claims);
      return nullptr;
    }
    kept_.erase(kept);
  }
  if (!running_.contains(hash) && running_.size() >= options_.most_running) {
    done(Fail(Code::kUnavailable, "too many tokens wait for the API server's word: try again"));
    return nullptr;
  }
  auto waiter = std::make_unique<Waiter>(*this, hash, std::move(done));
  Review& review = running_[hash];
  review.waiters.push_back(waiter.get());
  waiter->JoinList(review.waiters, true);
  if (review.call == nullptr) {
    review.expiry = *expiry;
    kube::CallRequest request = kube::CreateTokenReview(*token, {std::string(kTokenAudience)});
    request.timeout = options_.timeout;
    review.call = client_.Call(
        std::move(request),
        [this, hash](Result<kube::CallResponse> response) { Answer(hash, std::move(response)); });
  }
  return waiter;
}

void TokenReviewAuthenticator::Abandon(const std::string& hash) {
  const auto it = running_.find(hash);
  if (it != running_.end() && it->second.waiters.empty()) running_.erase(it);
}

// `hash` by value: the callback that it comes from may be destroyed on the way.
void TokenReviewAuthenticator::Answer(
    std::string hash,  // NOLINT(performance-unnecessary-value-param)
    Result<kube::CallResponse> response) {
  if (before_answer_) before_answer_();
  auto node = running_.extract(hash);
  if (node.empty()) return;
  Result<TokenClaims> claims = Fail(Code::kUnavailable, "");
  if (response) {
    claims = ClaimsOfReview(response->body);
  } else {
    claims =
        Fail(Code::kUnavailable, fmt::format("the token cannot be checked just now, try again: {}",
                                             response.error().message));
  }
  if (claims) Keep(hash, *claims, node.mapped().expiry, std::chrono::system_clock::now());
  // An answer may make others give up: they leave the list by themselves.
  std::list<Waiter*> waiters = std::move(node.mapped().waiters);
  for (Waiter* waiter : waiters) waiter->JoinList(waiters, false);
  while (!waiters.empty()) {
    Waiter* waiter = waiters.front();
    waiters.pop_front();
    const Done done = waiter->Leave();
    done(claims);
  }
}

void TokenReviewAuthenticator::Keep(const std::string& hash, const TokenClaims& claims,
                                    tls::Time expiry, tls::Time now) {
  const event::TimePoint steady = event::Clock::now();
  if (kept_.size() >= options_.most_kept) {
    std::erase_if(kept_, [&](const auto& pair) { return pair.second.until <= steady; });
    if (kept_.size() >= options_.most_kept) kept_.clear();
  }
  const auto left = std::chrono::duration_cast<event::Duration>(expiry - now);
  kept_[hash] = {claims, steady + std::min<event::Duration>(options_.keep, left)};
}

}  // namespace qanat::controlplane
