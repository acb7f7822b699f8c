// SPDX-License-Identifier: Apache-2.0
// Small helpers of the model's value types.
#include <algorithm>

#include "common/model/authorization.h"
#include "common/model/workload.h"

namespace qanat::model {

std::string GatewayAddress::ToString() const {
  std::string where;
  if (const auto* host = std::get_if<NamespacedHostname>(&destination)) {
    where = host->Key();
  } else {
    const auto& address = std::get<NetworkAddress>(destination);
    where = address.network + "/" + address.ip.ToString();
  }
  return where + ":" + std::to_string(hbone_port);
}

std::string_view ToString(WorkloadType type) {
  switch (type) {
    case WorkloadType::kDeployment: return "deployment";
    case WorkloadType::kCronJob: return "cronjob";
    case WorkloadType::kPod: return "pod";
    case WorkloadType::kJob: return "job";
  }
  return "";
}

std::string_view Workload::name() const {
  const std::string_view text = uid;
  return name_in_uid_ ? text.substr(text.rfind('/') + 1) : other_name_.view();
}

void Workload::SetName(std::string_view name) {
  const std::string_view text = uid;
  name_in_uid_ = text.substr(text.rfind('/') + 1) == name;
  other_name_ = name_in_uid_ ? KeptText() : KeptText(name);
}

const PortList* Workload::PortsOf(std::string_view service_key) const {
  const auto it =
      std::lower_bound(services.begin(), services.end(), service_key,
                       [](const auto& entry, std::string_view key) { return entry.first < key; });
  return it != services.end() && it->first == service_key ? &it->second : nullptr;
}

bool Workload::HasAddress(const net::IpAddress& ip) const {
  return std::find(addresses.begin(), addresses.end(), ip) != addresses.end();
}

bool Service::HasAddress(std::string_view network, const net::IpAddress& ip) const {
  return std::any_of(addresses.begin(), addresses.end(), [&](const ServiceAddress& address) {
    return address.host && address.cidr.ip() == ip && address.network == network;
  });
}

const Port* Service::FindPort(uint16_t service_port) const {
  for (const Port& port : ports) {
    if (port.service_port == service_port) return &port;
  }
  return nullptr;
}

bool Match::empty() const {
  return !not_understood && namespaces.empty() && not_namespaces.empty() && principals.empty() &&
         not_principals.empty() && service_accounts.empty() && not_service_accounts.empty() &&
         source_ips.empty() && not_source_ips.empty() && destination_ips.empty() &&
         not_destination_ips.empty() && destination_ports.empty() && not_destination_ports.empty();
}

std::string_view ToString(PolicyScope scope) {
  switch (scope) {
    case PolicyScope::kGlobal: return "GLOBAL";
    case PolicyScope::kNamespace: return "NAMESPACE";
    case PolicyScope::kSelector: return "WORKLOAD_SELECTOR";
  }
  return "";
}

std::string_view ToString(PolicyAction action) {
  switch (action) {
    case PolicyAction::kAllow: return "ALLOW";
    case PolicyAction::kDeny: return "DENY";
  }
  return "";
}

}  // namespace qanat::model
