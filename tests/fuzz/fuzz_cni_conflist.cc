// SPDX-License-Identifier: Apache-2.0
// Other people's CNI configurations: our entry goes in as the last plugin and comes out again to
// the byte, whatever the rest looks like.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "agent/cni/conflist.h"
#include "agent/detect/other_meshes.h"
#include "agent/pods/pod_cgroup.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qanat::agent;
  const std::string text(reinterpret_cast<const char*>(data), size);
  static const std::string entry = cni::FormatEntry({});
  (void)JudgeCniChain({{"x", text}});
  (void)PodUidOfProcCgroup(text);
  (void)RemoteOfInode(text, 1);
  (void)cni::KindOf(text);
  (void)cni::LeadsToUs(text, "00-qanat-cni.conflist");
  std::string list = text;
  if (auto wrapped = cni::WrapSingle(text)) {
    if (!nlohmann::json::parse(*wrapped, nullptr, false).is_object()) std::abort();
    list = *wrapped;
  }
  auto with = cni::InsertEntry(list, entry);
  if (!with) return 0;
  if (!cni::HasEntry(*with) || cni::EntryOf(*with).empty()) std::abort();
  auto again = cni::InsertEntry(*with, entry);
  if (!again || *again != *with) std::abort();
  auto without = cni::RemoveEntry(*with);
  if (!without || cni::HasEntry(*without)) std::abort();
  if (!cni::HasEntry(list) && *without != list) std::abort();
  if (!nlohmann::json::parse(*without, nullptr, false).is_object()) std::abort();
  return 0;
}
