// SPDX-License-Identifier: Apache-2.0
// What an API server or a kubeconfig may hold: the first byte says which parser gets the rest.
// Checks besides memory safety: a stream's lines do not depend on how it was cut, and what the
// slicer takes for an object's metadata is the same that a JSON parser finds.
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/kube/config.h"
#include "common/kube/files.h"
#include "common/kube/json_slice.h"
#include "common/kube/line_splitter.h"
#include "common/kube/resource.h"
#include "common/kube/status.h"
#include "common/kube/token_review.h"
#include "common/kube/websocket.h"

namespace {

using namespace qanat::kube;

std::vector<std::string> Lines(std::string_view stream, size_t cut) {
  LineSplitter splitter(1000);
  std::vector<std::string> out;
  for (size_t at = 0; at < stream.size(); at += cut) {
    const auto result = splitter.Add(stream.substr(at, cut), [&](std::string_view line) {
      out.emplace_back(line);
      return true;
    });
    if (result != LineSplitter::Result::kOk) break;
  }
  return out;
}

void Stream(std::string_view text) {
  const std::vector<std::string> whole = Lines(text, text.size() + 1);
  if (Lines(text, 1) != whole || Lines(text, 7) != whole) abort();
}

void Slices(std::string_view text) {
  ObjectMeta meta;
  const bool read = ReadMeta(text, meta);
  ForEachItem(FindMember(text, "items"), [](std::string_view item) {
    ObjectMeta inner;
    (void)ReadMeta(item, inner);
    return true;
  });
  const auto parsed = nlohmann::json::parse(text, nullptr, false);
  if (!parsed.is_object() || !parsed.contains("metadata")) return;
  // Keys written with escapes are beyond the slicer; the API server writes none.
  if (text.find('\\') != std::string_view::npos) return;
  const auto& metadata = parsed["metadata"];
  if (!metadata.is_object()) return;
  for (const char* key : {"name", "namespace", "uid", "resourceVersion", "continue"}) {
    if (metadata.contains(key) && !metadata[key].is_string()) return;
  }
  if (!read) abort();
  const std::string name = metadata.value("name", "");
  // With a key given twice both keep the last one.
  if (meta.name != name) abort();
}

void Words(std::string_view text) {
  (void)ParseStatus(text);
  (void)ErrorOf("GET", text.substr(0, 40), false, 403, text);
  (void)ErrorOf("PATCH", text, true, 404, text);
  (void)ParseTokenReview(text);
  (void)ParseServerUrl(std::string(text));
  (void)Describe("DELETE", text);
}

void Frames(std::string_view text) {
  const auto all = [&](size_t cut) {
    WsDecoder decoder(1000);
    std::vector<std::string> out;
    for (size_t at = 0; at < text.size(); at += cut) {
      decoder.Add(text.substr(at, cut));
      for (;;) {
        auto message = decoder.Next();
        if (!message) return out;
        if (!*message) break;
        out.push_back((*message)->payload);
      }
    }
    return out;
  };
  if (all(1) != all(text.size() + 1)) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 5) {
    case 0: Stream(text); break;
    case 1: Slices(text); break;
    case 2: Words(text); break;
    case 3: (void)ParseKubeconfig(text, "/nonexistent", {}); break;
    case 4: Frames(text); break;
    default: break;
  }
  return 0;
}
