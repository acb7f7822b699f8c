// SPDX-License-Identifier: Apache-2.0
// What the direct path hears of pods, and what it does to them.
#include <utility>

#include "agent/enrol/entry.h"

namespace qanat::agent {

direct::Wish Enroller::WishOf(const Entry& entry) const {
  return entry.wishes.same_node.empty() ? options_.same_node
                                        : direct::ParseWish(entry.wishes.same_node);
}

std::string Enroller::SameNodeOf(const Entry& entry) const {
  if (!entry.direct) return {};
  const direct::Wish wish = WishOf(entry);
  if (wish != direct::Wish::kDirect || entry.path_proved) return std::string(ToString(wish));
  return "proxy: " + (entry.path_why.empty() ? "not proved yet" : entry.path_why);
}

// Also of a pod whose capture is not proved yet: what it has of connections is judged.
void Enroller::ShowDirect(Entry& entry) {
  if (!direct_.put || entry.serial == 0 || !entry.prepared || entry.gone || entry.leaving ||
      entry.cut_off || entry.state.mode != QANAT_MODE_ENFORCED)
    return;
  direct::Member member;
  member.facts = {entry.pod.name, entry.pod.ns, entry.pod.service_account, entry.pod.ips};
  for (const net::IpAddress& ip : entry.network.others) member.facts.addresses.push_back(ip);
  member.wish = WishOf(entry);
  member.path_proved = entry.path_proved;
  member.proxy_reads_draws = entry.reads_draws;
  entry.direct = true;
  direct_.put(entry.serial, entry.id, entry.cookie, std::move(member));
}

void Enroller::HideDirect(Entry& entry) {
  if (!std::exchange(entry.direct, false)) return;
  direct_.remove(entry.serial);
}

Enroller::Entry* Enroller::FindBySerial(uint32_t serial) const {
  for (const auto& [uid, entry] : entries_)
    if (entry->serial == serial && serial != 0) return entry.get();
  return nullptr;
}

Status Enroller::SetDirect(uint32_t serial, uint32_t flags, uint32_t floor) {
  Entry* entry = FindBySerial(serial);
  if (!entry) return Fail(Code::kNotFound, "the pod is gone");
  qanat_pod_state next = entry->state;
  next.flags = flags;
  next.floor = floor;
  QANAT_RETURN_IF_ERROR(hooks_.maps().pod_state.Update(entry->id, next));
  entry->state = next;
  return {};
}

Result<netns::NetNs> Enroller::NamespaceOf(uint32_t serial) const {
  const Entry* entry = FindBySerial(serial);
  if (!entry) return Fail(Code::kNotFound, "the pod is gone");
  return OpenNs(*entry);
}

}  // namespace qanat::agent
