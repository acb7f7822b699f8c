// SPDX-License-Identifier: Apache-2.0
// DeltaDiscoveryResponse from a hostile server, cut at the first byte's distance; whole and in
// pieces must give the same resources.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/xds/delta_codec.h"

namespace {

struct Sink final : qanat::xds::DeltaResponseParser::Sink {
  std::string seen;
  void OnResource(const qanat::xds::ResourceView& r) override {
    seen.append("+").append(r.name).append("@").append(r.version).append(r.type_url);
    seen.append(r.value);
  }
  void OnRemoved(std::string_view name) override { seen.append("-").append(name); }
};

std::string Meaning(std::string_view bytes, size_t step) {
  Sink sink;
  qanat::xds::DeltaResponseParser parser(sink);
  parser.Begin();
  bool ok = true;
  for (size_t i = 0; ok && i < bytes.size(); i += step) ok = parser.Feed(bytes.substr(i, step));
  ok = ok && parser.Finish();
  return sink.seen + (ok ? "." + parser.type_url() + parser.nonce() : "!");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (Meaning(bytes, bytes.size()) != Meaning(bytes, 1u + data[0])) abort();
  return 0;
}
