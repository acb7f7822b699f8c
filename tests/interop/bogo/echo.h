// SPDX-License-Identifier: Apache-2.0
// What BoringSSL's shim does with a connection: sends back what comes, each byte inverted, and ends
// when the other end does.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/net/transport.h"
#include "tests/interop/bogo/flags.h"

namespace qanat::bogo {

class Echo final : public net::TransportEvents {
 public:
  using Done = std::function<void(Status)>;
  // `done` is called once, perhaps from inside of Start(), and may not destroy this.
  Echo(net::TransportPtr transport, const Flags& flags, Done done);
  void Start();
  void OnReadable() override;
  void OnWritable() override;

 private:
  void Queue(std::string_view bytes) { out_.append(bytes); }
  // Writes what waits; then reads on, or ends.
  void Go();
  void HandOver();
  void Over(Status status);

  net::TransportPtr transport_;
  const Flags flags_;
  const Done done_;
  std::vector<uint8_t> buffer_;
  std::string out_;
  bool ending_ = false;  // nothing more is to be written
  bool ended_ = false;   // nothing more comes
  bool said_ = false;    // close_notify is out
  bool over_ = false;
};

}  // namespace qanat::bogo
