// SPDX-License-Identifier: Apache-2.0
// The seam between the control plane and the gRPC library. Every call of these interfaces happens
// on the control plane's loop.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/base/result.h"
#include "controlplane/ca/pending.h"

namespace qanat::controlplane {

struct CallInfo {
  std::string authorization;  // the header, "" when absent
  std::string cluster_id;     // header clusterid
  std::string peer;           // address, for messages
};

// The server's half of a stream. Lives until StreamHandler::OnClosed returns.
class StreamWriter {
 public:
  // One message at a time: the next only after OnWritten().
  virtual void Write(std::string bytes) = 0;
  // Ends the stream with this status. Later calls do nothing.
  virtual void Finish(Status status) = 0;

 protected:
  ~StreamWriter() = default;
};

class StreamHandler {
 public:
  virtual ~StreamHandler() = default;
  virtual void OnMessage(std::string_view bytes) = 0;
  virtual void OnWritten() = 0;
  virtual void OnClosed() = 0;  // the last call; the handler is destroyed next
};

class RpcService {
 public:
  // nullptr: the writer has been finished already.
  virtual std::unique_ptr<StreamHandler> OnAdsStream(const CallInfo& call,
                                                     StreamWriter& writer) = 0;
  // `done` is called once with the answer, perhaps before this returns (then nullptr is returned).
  using Answer = std::function<void(Result<std::string>)>;
  [[nodiscard]] virtual PendingPtr OnCreateCertificate(const CallInfo& call,
                                                       std::string_view request, Answer done) = 0;

 protected:
  ~RpcService() = default;
};

inline constexpr std::string_view kDeltaAdsMethod =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
inline constexpr std::string_view kCertificateMethod =
    "/istio.v1.auth.IstioCertificateService/CreateCertificate";

}  // namespace qanat::controlplane
