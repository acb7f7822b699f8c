// SPDX-License-Identifier: Apache-2.0
#include "controlplane/model/meta.h"

#include <algorithm>
#include <tuple>

#include "controlplane/model/core.h"
#include "controlplane/model/networking.h"

namespace qanat::controlplane {
namespace {

const std::string* Find(const Labels& labels, std::string_view key) {
  const auto it = labels.find(std::string(key));
  return it == labels.end() ? nullptr : &it->second;
}

}  // namespace

const std::string* ObjectMeta::Label(std::string_view wanted) const { return Find(labels, wanted); }

const std::string* ObjectMeta::Annotation(std::string_view wanted) const {
  return Find(annotations, wanted);
}

bool OlderThan(const ObjectMeta& a, const ObjectMeta& b) {
  // An object without a creation time was not made by an API server: the order of reading (files
  // by name, then documents in order) decides among those, and names at the very end.
  return std::tie(a.creation_time, a.read_order, a.ns, a.name) <
         std::tie(b.creation_time, b.read_order, b.ns, b.name);
}

bool LabelsContain(const Labels& labels, const Labels& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const auto& pair) {
    const std::string* value = Find(labels, pair.first);
    return value != nullptr && *value == pair.second;
  });
}

bool LabelSelector::Matches(const Labels& labels) const {
  if (!LabelsContain(labels, match_labels)) return false;
  for (const Expression& e : match_expressions) {
    const std::string* value = Find(labels, e.key);
    const bool listed =
        value != nullptr && std::find(e.values.begin(), e.values.end(), *value) != e.values.end();
    bool ok = false;
    switch (e.op) {
      case Operator::kIn: ok = listed; break;
      case Operator::kNotIn: ok = !listed; break;
      case Operator::kExists: ok = value != nullptr; break;
      case Operator::kDoesNotExist: ok = value == nullptr; break;
    }
    if (!ok) return false;
  }
  return true;
}

const ServicePort* Service::FindPort(uint16_t number) const {
  for (const ServicePort& candidate : ports) {
    if (candidate.port == number && candidate.protocol == Protocol::kTcp) return &candidate;
  }
  return nullptr;
}

bool VirtualService::applies_to_mesh() const {
  return gateways.empty() || std::find(gateways.begin(), gateways.end(), "mesh") != gateways.end();
}

}  // namespace qanat::controlplane
