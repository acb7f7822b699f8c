// SPDX-License-Identifier: Apache-2.0
// What a reflector does about a 404 for its resource. Objects that the API server keeps but does
// not serve in our version are not gone, and to take them for gone could lift every policy of a
// mesh: so the server is asked which versions it has before anything is reported.
#include <algorithm>

#include "common/kube/reflector_impl.h"
#include "common/kube/status.h"

namespace qanat::kube {
namespace {

// The versions in an APIGroup.
std::vector<std::string> VersionsIn(std::string_view group) {
  std::vector<std::string> out;
  ForEachItem(FindMember(group, "versions"), [&](std::string_view item) {
    if (std::string version = StringMember(item, "version"); !version.empty()) {
      out.push_back(std::move(version));
    }
    return true;
  });
  return out;
}

// Whether an APIResourceList has this resource.
bool HasResource(std::string_view list, const std::string& plural) {
  bool found = false;
  ForEachItem(FindMember(list, "resources"), [&](std::string_view item) {
    found = StringMember(item, "name") == plural;
    return !found;
  });
  return found;
}

}  // namespace

void Reflector::Impl::AskVersions(const Error& error) {
  missing_ = error;
  // Kubernetes' own kinds cannot be missing: something in between gave this answer.
  if (resource_.group.empty()) return VersionsFailed(error);
  CallRequest request;
  request.path = "/apis/" + resource_.group;
  request.raw = true;
  running_ = client_.Call(std::move(request), [this](Result<CallResponse> result) {
    const auto self = shared_from_this();
    OnGroup(std::move(result));
  });
}

void Reflector::Impl::OnGroup(Result<CallResponse> result) {
  running_.reset();
  if (!result) return VersionsFailed(result.error());
  if (result->status == 404) return Absent(missing_);
  if (result->status == 403 && known_.empty()) return Absent(missing_);  // it cannot be known
  if (result->status != 200) {
    return VersionsFailed(
        ErrorOf("GET", "/apis/" + resource_.group, false, result->status, result->body));
  }
  versions_ = VersionsIn(result->body);
  // Those that will do are looked at first, the wanted one before all.
  const auto rank = [this](const std::string& version) -> size_t {
    if (version == wanted_version_) return 0;
    const auto& others = options_.other_versions;
    return 1 +
           static_cast<size_t>(std::find(others.begin(), others.end(), version) - others.begin());
  };
  std::sort(versions_.begin(), versions_.end(),
            [&](const std::string& a, const std::string& b) { return rank(a) < rank(b); });
  AskNextVersion();
}

void Reflector::Impl::AskNextVersion() {
  if (versions_.empty()) return Absent(missing_);
  const std::string version = versions_.front();
  versions_.erase(versions_.begin());
  CallRequest request;
  request.path = "/apis/" + resource_.group + "/" + version;
  request.raw = true;
  running_ = client_.Call(std::move(request), [this, version](Result<CallResponse> result) {
    const auto self = shared_from_this();
    OnVersion(std::string(version), std::move(result));
  });
}

void Reflector::Impl::OnVersion(const std::string& version, Result<CallResponse> result) {
  running_.reset();
  if (!result) return VersionsFailed(result.error());
  if (result->status == 404) return AskNextVersion();
  if (result->status != 200) {
    return VersionsFailed(ErrorOf("GET", "/apis/" + resource_.group + "/" + version, false,
                                  result->status, result->body));
  }
  if (!HasResource(result->body, resource_.plural)) return AskNextVersion();
  // It is there, and yet its path was not: a server that is starting, or a CRD that was changed.
  if (version == resource_.version) return VersionsFailed(missing_);
  const auto& others = options_.other_versions;
  if (version == wanted_version_ ||
      std::find(others.begin(), others.end(), version) != others.end()) {
    Follow(version);
    return Wait(true, backoff_.Next());
  }
  VersionsFailed(Error{Code::kFailedPrecondition,
                       resource_.Name() + " is served by this cluster as " + version + ", not as " +
                           wanted_version_ + ": install a CRD that serves " + wanted_version_ +
                           "; until then its objects are not read, and those read before stay",
                       0});
}

void Reflector::Impl::Follow(const std::string& version) {
  if (resource_.version == version) return;
  resource_.version = version;
  prefix_ = KindPrefix(resource_);
}

void Reflector::Impl::VersionsFailed(Error error) {
  Wait(true, Pause(404));
  Report(error);
}

}  // namespace qanat::kube
