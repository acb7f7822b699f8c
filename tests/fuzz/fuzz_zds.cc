// SPDX-License-Identifier: Apache-2.0
// What a proxy may send on the ZDS socket, and what runtimes and launchers send beside it: pod
// files, saved state and CNI requests share the target (first byte chooses).
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "agent/cni/cni.h"
#include "agent/enrol/state_store.h"
#include "agent/pods/pod.h"
#include "agent/zds/codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qanat::agent;
  if (size == 0) return 0;
  const std::span<const uint8_t> bytes(data + 1, size - 1);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  switch (data[0] % 5) {
    case 0:
      if (auto hello = zds::DecodeHello(bytes); hello && hello->version == 0) std::abort();
      break;
    case 1: (void)zds::DecodeAck(bytes); break;
    case 2:
      if (auto pod = ParsePod(text)) {
        if (!IsSafeUid(pod->uid)) std::abort();  // it becomes a file name
        (void)DecideMembership(*pod);
        (void)zds::EncodeAdd({pod->uid, pod->name, pod->ns, pod->service_account});
      }
      break;
    case 3:
      if (auto saved = ParseSavedPod(text)) {
        auto again = ParseSavedPod(FormatSavedPod(*saved));
        if (!again || again->id != saved->id || again->cookie != saved->cookie ||
            again->enforced != saved->enforced)
          std::abort();
      }
      break;
    case 4: (void)cni::ParseAdd(text); break;
    default: break;
  }
  return 0;
}
