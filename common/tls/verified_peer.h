// SPDX-License-Identifier: Apache-2.0
// Who the other end of a connection has proved to be, as a value that outlives the handshake: the
// verified path from its certificate to a root. Shared by all connections of one loop to which the
// same chain was presented.
#pragma once

#include <memory>
#include <vector>

#include "common/tls/x509.h"

namespace qanat::tls {

struct VerifiedPeer {
  std::vector<Certificate> path;  // leaf, intermediates, root
  SubjectAltNames sans;           // of the leaf
  // All of the path is valid from and until then.
  Time not_before;
  Time not_after;
};
using VerifiedPeerPtr = std::shared_ptr<const VerifiedPeer>;

// Of a path that is not empty and was verified.
VerifiedPeerPtr MakeVerifiedPeer(std::vector<Certificate> path);

}  // namespace qanat::tls
