// SPDX-License-Identifier: Apache-2.0
// What a node agent writes down about a pod's DNS, a resolv.conf, and a pod's uid as a file name.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "ztunnel/dns/pod_dns.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qanat::ztunnel::dns;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (auto file = ParsePodFile(text)) {
    if (file->servers)
      file->more.insert(file->more.end(), file->servers->begin(), file->servers->end());
    for (const NameServer& server : file->more) {
      if (!server.address.is_set() || server.address.port() == 0 || !server.in_pod) std::abort();
    }
  }
  for (const NameServer& server : ParseResolvConf(text)) {
    if (server.in_pod == server.address.ip().is_loopback()) std::abort();
  }
  const std::string path = PodFilePath("/run/z/sock", std::string(text));
  if (!path.empty() && path.find('/', 11) != std::string::npos) std::abort();  // after /run/z/dns/
  return 0;
}
