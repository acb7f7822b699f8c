// SPDX-License-Identifier: Apache-2.0
// Follows all objects of one resource: LIST in pages, then WATCH from there, again and again. Its
// user sees a sequence of upserts and removals that never loses or reorders a change, whatever
// happens in between: a lost connection goes on from the last resourceVersion, 410 Gone leads to a
// new LIST whose difference to what was known is reported. It keeps uid and resourceVersion per
// object, not the objects. Lives on the client's loop; callbacks may destroy it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/kube/client.h"
#include "common/kube/resource.h"

namespace qanat::kube {

struct ReflectorOptions {
  std::string ns;  // "" = all
  std::string label_selector;
  std::string field_selector;
  size_t page = 500;
  size_t page_bytes = 64 << 20;  // an answer that is larger is asked for in smaller pages
  std::chrono::milliseconds backoff_first{200};
  std::chrono::milliseconds backoff_max{30000};
  std::chrono::milliseconds absent_retry{30000};
  // The server is asked to end a watch after a random time between this and twice this; 30 s later
  // we end it ourselves.
  std::chrono::seconds watch_timeout{300};
  // A LIST instead of the next WATCH after this time, or up to half of it later. A server that was
  // restored from a backup counts from an earlier resourceVersion and says nothing of it.
  std::chrono::milliseconds relist{3600000};
  // Versions that will do where the cluster's CRD is too old (or too new) to serve the resource's.
  std::vector<std::string> other_versions;
};

// Keys are "namespace/name", or "name" for what has no namespace.
struct ReflectorEvents {
  // Everything that existed at the time of a LIST has been delivered; after each LIST. Also comes
  // after on_absent: a resource that does not exist has no objects.
  std::function<void()> on_sync;
  // The whole object, new or changed; `json` always carries apiVersion and kind, and is valid
  // during the call.
  std::function<void(const std::string& key, std::string_view json)> on_upsert;
  std::function<void(const std::string& key)> on_gone;
  // Something went wrong; it is tried again. Repeats of one message are suppressed until it works.
  std::function<void(const Error&)> on_error;
  // The server does not know the resource (its CRD is missing): what was known has been reported
  // gone, and it is looked for again every `absent_retry`. The error carries the remedy. Not for a
  // resource that is there in other versions: that is an error, and what was known stays.
  std::function<void(const Error&)> on_absent;
};

class Reflector {
 public:
  enum class State : uint8_t { kListing, kWatching, kWaiting, kAbsent };
  struct Status {
    State state = State::kListing;
    bool synced = false;  // a LIST was completed or the resource is absent
    size_t objects = 0;
    std::string resource_version;
    std::string last_error;  // "" while all is well
    uint64_t lists = 0, watches = 0, events = 0;
  };

  // Starts from the loop's next round. `client` outlives it.
  Reflector(Client& client, Resource resource, ReflectorOptions options, ReflectorEvents events);
  ~Reflector();
  Reflector(const Reflector&) = delete;
  Reflector& operator=(const Reflector&) = delete;

  Status status() const;
  const Resource& resource() const;  // in the version that is followed

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace qanat::kube
