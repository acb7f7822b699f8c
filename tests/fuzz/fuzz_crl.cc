// SPDX-License-Identifier: Apache-2.0
// Files of revocation lists, PEM or DER. Whatever parses must also stand being asked about a
// certificate that it may name.
#include <cstdint>

#include "common/tls/revocation.h"

using namespace qanat::tls;  // NOLINT: a fuzzer of this one namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Authority root = [] {
    const PrivateKey key = *PrivateKey::GenerateP256();
    const Time now = std::chrono::system_clock::now();
    return *MakeRoot(key, "", "fuzz", now - std::chrono::hours(1), now + std::chrono::hours(24));
  }();
  const auto lists = RevocationList::Parse({data, size});
  if (!lists) return 0;
  const std::vector<Certificate> path{root.certificate};
  (void)(*lists)->entries();
  (void)(*lists)->Revoked(path);
  (void)(*lists)->CheckSignatures(path);
  (void)(*lists)->Stale(Time(std::chrono::seconds(1'700'000'000)));
  return 0;
}
