// SPDX-License-Identifier: Apache-2.0
#include "common/kube/credentials.h"

#include "common/kube/files.h"
#include "common/tls/jwt.h"
#include "common/tls/x509.h"

namespace qanat::kube {
namespace {

// What the token says of itself. It is looked at, not believed.
std::string TokenState(const std::string& token, tls::Time now) {
  const Result<tls::Jwt> jwt = tls::ParseJwtUnverified(token);
  if (!jwt || !jwt->exp) return " is not valid any more, or of another cluster";
  const tls::Time end = tls::FromPosix(*jwt->exp);
  if (end <= now) return " expired at " + tls::FormatTime(end);
  return " would last until " + tls::FormatTime(end) +
         ", so it was revoked (its service account or pod was deleted), the API server's keys were "
         "changed, or it is of another cluster";
}

}  // namespace

std::string ExplainRejection(const ClientConfig& config, tls::Time now) {
  if (!config.token_file.empty()) {
    const Result<std::string> token = ReadFile(config.token_file);
    if (!token) return token.error().message;
    return "the token in " + config.token_file + TokenState(Trim(*token), now) +
           "; the file is read again with every try: it is the kubelet's to renew it; where its "
           "service account was deleted and made anew, delete the pod, so that it gets a new one";
  }
  if (!config.token.empty()) {
    return "the token of " + config.origin + TokenState(config.token, now) +
           "; put a new one into it (log in again, or kubectl create token)";
  }
  if (!config.client_certificate_pem.empty()) {
    const auto chain = tls::Certificate::ParsePem(config.client_certificate_pem);
    if (!chain || chain->empty()) return "the client certificate of " + config.origin;
    const tls::Time end = chain->front().not_after();
    return "the client certificate of " + config.origin +
           (end <= now ? " expired at " + tls::FormatTime(end)
                       : " is good until " + tls::FormatTime(end) +
                             ", but not of the CA whose clients this API server accepts") +
           "; put a new one into it (kubeadm certs renew admin.conf, or log in again)";
  }
  return config.origin + " names no credentials: its user needs a token or a client certificate";
}

Error WithCredentials(Error error, const ClientConfig& config) {
  if (error.code == Code::kUnauthenticated)
    error.message += ": " + ExplainRejection(config, std::chrono::system_clock::now());
  return error;
}

}  // namespace qanat::kube
