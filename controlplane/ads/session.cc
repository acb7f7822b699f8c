// SPDX-License-Identifier: Apache-2.0
#include "controlplane/ads/session.h"

#include <algorithm>

namespace qanat::controlplane {
namespace {

const ResourcesByName kNothing;

// Types of which an empty subscription means "all". By the xDS rules EDS and RDS have no wildcard.
bool HasWildcard(std::string_view type) {
  return type != kEndpointType && type != kRouteType && type != kSecretType;
}

}  // namespace

bool AdsSession::OnRequest(const DeltaRequest& request) {
  if (std::find(types_.begin(), types_.end(), request.type_url) == types_.end()) return false;
  const auto [it, first] = state_.try_emplace(request.type_url);
  TypeState& state = it->second;
  if (first) {
    state.known = request.initial_versions;
    state.wildcard = HasWildcard(request.type_url) && request.subscribe.empty();
  }
  for (const std::string& name : request.subscribe) {
    if (name == "*") {
      state.wildcard = HasWildcard(request.type_url);
    } else {
      state.names.insert(name);
    }
    // Asked for by name, it is sent even if the client has had it before: it says that it wants it.
    if (!first) state.known.erase(name);
    state.dirty = true;
  }
  for (const std::string& name : request.unsubscribe) {
    if (name == "*") {
      state.wildcard = false;
    } else if (state.names.erase(name) > 0 && !state.wildcard) {
      state.known.erase(name);
    }
    state.dirty = true;
  }
  if (!request.nonce.empty() && request.nonce == state.sent_nonce) {
    state.sent_nonce.clear();
    if (request.error) {
      // Nothing is sent again until it changes: it would only be refused again.
      ++state.nacks;
      state.last_error = *request.error;
    } else {
      ++state.acks;
      state.acked_nonce = request.nonce;
      state.last_error.clear();
    }
  }
  return true;
}

void AdsSession::SetSource(SessionSource source) {
  source_ = std::move(source);
  for (auto& [type, state] : state_) state.dirty = true;
}

void AdsSession::Difference(std::string_view type, const TypeState& state, Part part,
                            std::vector<const Resource*>& upserts,
                            std::vector<std::string>& removed) const {
  const auto found = source_.resources->find(type);
  const ResourcesByName& have = found == source_.resources->end() ? kNothing : found->second;
  std::set<std::string> taken;
  const auto offer = [&](const Resource& resource) {
    const auto known = state.known.find(resource.name);
    if (known != state.known.end() && known->second == resource.version) return;
    if (taken.insert(resource.name).second) upserts.push_back(&resource);
  };
  std::set<std::string> wanted;  // by name, with what the names bring along
  if (!state.wildcard || !state.names.empty()) {
    for (const std::string& name : state.names) {
      const auto direct = have.find(name);
      std::vector<std::string> brought;
      if (type == kAddressType) {
        const auto answer = source_.snapshot->answers.find(name);
        if (answer != source_.snapshot->answers.end()) brought = answer->second;
      }
      if (direct != have.end()) brought.push_back(name);
      if (brought.empty()) {
        // Does not exist: said once, so that the client stops waiting.
        const auto known = state.known.find(name);
        if (known == state.known.end() || !known->second.empty()) removed.push_back(name);
        wanted.insert(name);
        continue;
      }
      wanted.insert(name);
      for (const std::string& other : brought) {
        wanted.insert(other);
        if (const auto it = have.find(other); it != have.end()) offer(it->second);
      }
    }
  }
  if (state.wildcard) {
    for (const auto& [name, resource] : have) offer(resource);
  }
  for (const auto& [name, version] : state.known) {
    if (version.empty()) continue;  // told already
    const bool exists = have.contains(name);
    const bool in_scope = state.wildcard || wanted.contains(name);
    if (!exists && !state.names.contains(name)) removed.push_back(name);
    // A workload that a service no longer brings along is out of date at the client: taken back.
    if (exists && !in_scope) removed.push_back(name);
  }
  if (part == Part::kUpserts) removed.clear();
}

std::optional<AdsSession::Message> AdsSession::Send(const Step& step) {
  const auto it = state_.find(step.type);
  if (it == state_.end()) return std::nullopt;
  TypeState& state = it->second;
  if (!state.dirty || !state.sent_nonce.empty()) return std::nullopt;
  std::vector<const Resource*> upserts;
  std::vector<std::string> removed;
  Difference(step.type, state, step.part, upserts, removed);
  const bool last_part = step.part != Part::kUpserts;
  if (upserts.empty() && removed.empty()) {
    if (last_part) state.dirty = false;
    // The first answer is sent even when it is empty: the client waits for it to be in sync.
    if (state.answered || !last_part) return std::nullopt;
    if (!state.wildcard) return std::nullopt;
  }
  for (const Resource* resource : upserts) state.known[resource->name] = resource->version;
  for (const std::string& name : removed) {
    if (state.names.contains(name)) {
      state.known[name] = "";
    } else {
      state.known.erase(name);
    }
  }
  // A changed cluster waits for its endpoints and a changed listener for its routes, even if those
  // are as before: they go again.
  if (step.type == kClusterType) {
    if (const auto eds = state_.find(kEndpointType); eds != state_.end()) {
      for (const Resource* resource : upserts) eds->second.known.erase(resource->name);
      eds->second.dirty = true;
    }
  } else if (step.type == kListenerType && !upserts.empty()) {
    if (const auto rds = state_.find(kRouteType); rds != state_.end()) {
      rds->second.known.clear();
      rds->second.dirty = true;
    }
  }
  Message message;
  message.type_url = std::string(step.type);
  message.resources = upserts.size();
  message.removed = removed.size();
  state.sent_nonce = std::to_string(++next_nonce_);
  state.answered = true;
  ++state.pushes;
  message.bytes = EncodeDeltaResponse(std::to_string(generation()), step.type, state.sent_nonce,
                                      upserts, removed);
  state.last_size = message.bytes.size();
  return message;
}

std::optional<AdsSession::Message> AdsSession::Next() {
  if (!source_.resources) return std::nullopt;
  // Policies come before the workloads that name them and go after them; clusters before the
  // endpoints and routes that fill and use them, and go last.
  static constexpr Step kSteps[] = {
      {kAuthorizationType, Part::kUpserts},
      {kAddressType, Part::kAll},
      {kAuthorizationType, Part::kAll},
      {kClusterType, Part::kUpserts},
      {kEndpointType, Part::kUpserts},
      {kListenerType, Part::kAll},
      {kRouteType, Part::kAll},
      {kClusterType, Part::kAll},
      {kEndpointType, Part::kAll},
      {kSecretType, Part::kAll},
  };
  std::set<std::string_view> seen;
  for (const Step& step : kSteps) {
    const auto it = state_.find(step.type);
    if (it == state_.end()) continue;
    if (std::optional<Message> message = Send(step)) return message;
    const bool first_pass = seen.insert(step.type).second;
    if (first_pass && it->second.dirty && !it->second.sent_nonce.empty()) {
      // Its answer is awaited and there is more of it to say: what rests on it must wait as well.
      std::vector<const Resource*> upserts;
      std::vector<std::string> removed;
      Difference(step.type, it->second, Part::kUpserts, upserts, removed);
      if (!upserts.empty()) return std::nullopt;
    }
  }
  return std::nullopt;
}

bool AdsSession::synced() const {
  if (state_.empty()) return false;
  return std::all_of(state_.begin(), state_.end(), [](const auto& entry) {
    return !entry.second.dirty && entry.second.sent_nonce.empty() &&
           entry.second.last_error.empty();
  });
}

}  // namespace qanat::controlplane
