// SPDX-License-Identifier: Apache-2.0
// A fake Kubernetes API server for the unit tests of any folder: HTTP/2 and HTTP/1.1 over loopback
// TCP, with TLS or without, on a thread of its own. Every method may be called from the test's
// thread and has taken effect when it returns. Objects are JSON texts by their path:
//   server.Put("/api/v1/namespaces/shop/pods/web", R"({"kind": "Pod", ...})");
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "common/kube/config.h"
#include "common/tls/tls_context.h"

namespace qanat::kube::testing {

struct FakeApiServerOptions {
  bool tls = true;  // without it the client speaks HTTP/1.1
  bool http1_only = false;
  std::string name = "127.0.0.1";  // what the certificate is for
  unsigned max_streams = 100;
  uint16_t port = 0;  // 0: any
};

// A wrong answer for requests that fit; the first fault that fits is used.
struct Fault {
  std::string method;     // "" = any
  std::string path_part;  // of path?query; "" = any
  int count = 1;          // how often; -1 = until ClearFaults()
  int status = 500;       // 0: as always, but after `delay`
  std::string body;       // "" = a Status
  std::string reason = "InternalError";
  std::string message = "the fault that the test asked for";
  int retry_after = -1;  // seconds
  std::chrono::milliseconds delay{0};
  bool drop = false;    // close the connection instead of an answer
  bool stall = false;   // never answer
  bool refuse = false;  // HTTP/2: REFUSED_STREAM, the word for "I did not act on it"
};

struct SeenRequest {
  std::string method, path, query, body, content_type, token;
};

class FakeApiServer {
 public:
  using Options = FakeApiServerOptions;
  explicit FakeApiServer(Options options = {});
  ~FakeApiServer();

  // How to reach it: with its CA and the token "test-token" (any token is taken, unless:)
  ClientConfig Config() const;
  std::string address() const;                  // "127.0.0.1:PORT"
  void RequireToken(const std::string& token);  // others get 401; "" = any again
  std::string Kubeconfig() const;               // the same as YAML text

  // ---- objects; they may lack metadata.name and metadata.namespace, the path has them ----
  void Put(const std::string& path, const std::string& json);
  void Remove(const std::string& path);
  std::string Get(const std::string& path) const;  // "" when absent
  std::vector<std::string> List(const std::string& path) const;
  // TokenReview: `extra` as "authentication.kubernetes.io/pod-name".
  void AddToken(const std::string& token, const std::string& username,
                const std::vector<std::string>& audiences,
                const std::vector<std::pair<std::string, std::string>>& extra = {});
  // As if its CRD were missing; or "/apis/GROUP/VERSION/PLURAL": not served in that version.
  void SetAbsent(const std::string& plural, bool absent);
  void SetDocument(const std::string& path, const std::string& json);  // discovery's answer

  // ---- trouble ----
  void AddFault(Fault fault);
  void ClearFaults();
  void Expire();           // all resourceVersions and continue tokens so far get 410
  void DropConnections();  // abruptly
  void GoAway();           // in order: no new requests on the present connections
  void Freeze(std::chrono::milliseconds time);  // takes bytes and does nothing, not even PING
  void Listen(bool on);  // off: connections are refused, and present ones dropped

  // ---- watches ----
  size_t watches() const;
  void EndWatches();                       // in order
  void SendLine(const std::string& line);  // to every watch, as it is
  void SendBookmarks();
  void StallWatches(bool on);  // events are kept back until it is off
  // A watch from an expired version: an ERROR event in the stream (default) or HTTP 410.
  void ExpiredByStatus(bool on);

  // ---- what was seen ----
  std::vector<SeenRequest> requests() const;
  size_t CountRequests(const std::string& method, const std::string& part) const;
  size_t connections() const;  // accepted so far

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::kube::testing
