// SPDX-License-Identifier: Apache-2.0
#include "controlplane/envoy/test_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "controlplane/source/decode.h"
#include "controlplane/source/store.h"

namespace qanat::controlplane {

std::string ReadTree(const std::string& path) {
  std::ifstream in(std::string(QANAT_SOURCE_DIR "/") + path, std::ios::binary);
  EXPECT_TRUE(in.is_open()) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

std::shared_ptr<const World> WorldOf(const std::vector<std::string>& files,
                                     const std::string& overlay) {
  ObjectStore store;
  for (const std::string& file : files) {
    store.Update(ObjectStore::Layer::kUser, file, DecodeFile(file, ReadTree(file)));
  }
  if (!overlay.empty()) {
    store.Update(ObjectStore::Layer::kOverlay, overlay, DecodeFile(overlay, ReadTree(overlay)));
  }
  SourceSnapshot snapshot = store.Assemble();
  for (const Issue& issue : snapshot.issues) {
    EXPECT_EQ(issue.severity, Issue::Severity::kWarning)
        << issue.file << ":" << issue.line << " " << issue.object << ": " << issue.message;
  }
  return World::Build(std::move(snapshot.objects), MeshConfig{});
}

std::shared_ptr<const World> WorldOfText(const std::vector<std::string>& texts) {
  ObjectStore store;
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string name = "text" + std::to_string(i) + ".yaml";
    store.Update(ObjectStore::Layer::kUser, name, DecodeFile(name, texts[i]));
  }
  return World::Build(store.Assemble().objects, MeshConfig{});
}

std::shared_ptr<const World> ShopWorld() {
  const std::string folder = "deploy/samples/shop";
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(QANAT_SOURCE_DIR "/" + folder)) {
    if (entry.path().extension() != ".yaml") continue;
    files.push_back(folder + "/" + entry.path().filename().string());
  }
  std::sort(files.begin(), files.end());
  return WorldOf(files, "controlplane/envoy/testdata/shop.overlay.yaml");
}

std::shared_ptr<const World> SmallWorld(const std::string& name) {
  return WorldOf(
      {"controlplane/envoy/testdata/base.yaml", "controlplane/envoy/testdata/" + name + ".yaml"});
}

}  // namespace qanat::controlplane
