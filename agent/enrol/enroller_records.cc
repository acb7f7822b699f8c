// SPDX-License-Identifier: Apache-2.0
// What records of connections need to know of pods.
#include "agent/enrol/entry.h"

namespace qanat::agent {

const Pod* Enroller::PodOf(uint32_t serial) const {
  for (const auto& [uid, entry] : entries_)
    if (serial != 0 && entry->serial == serial) return &entry->pod;
  return nullptr;
}

Result<std::vector<TcpSocket>> Enroller::SocketsOf(uint32_t serial) const {
  const Pod* pod = PodOf(serial);
  if (pod == nullptr) return Fail(Code::kNotFound, "the pod is gone");
  QANAT_ASSIGN_OR_RETURN(netns::NetNs ns, OpenNs(*entries_.at(pod->uid)));
  Result<std::vector<TcpSocket>> sockets = Fail(Code::kInternal, "not looked at");
  QANAT_RETURN_IF_ERROR(ns.Run([&]() -> Status {
    sockets = ListTcpSockets(WithBytes::kYes);
    return {};
  }));
  return sockets;
}

}  // namespace qanat::agent
