// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/saved_state.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "ztunnel/mesh_for_test.h"

namespace qanat::ztunnel {
namespace {

using Type = SavedState::Type;

class SavedStateTest : public ::testing::Test {
 protected:
  SavedStateTest() {
    char path[] = "/tmp/qanat-saved-XXXXXX";
    directory_ = mkdtemp(path);
  }
  ~SavedStateTest() override { std::filesystem::remove_all(directory_); }

  void Put(SavedState& saved, const TestMesh::Workload& w, const std::string& version = "1") {
    saved.Put(Type::kAddress, w.uid(), version, TestMesh::Wire(w));
  }
  void Put(SavedState& saved, const TestMesh::Policy& p, bool refused = false) {
    saved.Put(Type::kAuthorization, p.namespace_() + "/" + p.name(), "1", p.SerializeAsString(),
              refused);
  }
  // A mesh of two pods and a DENY policy.
  void Save() {
    SavedState saved(directory_);
    Put(saved, TestMesh::MakePod("a", "10.0.0.1"));
    Put(saved, TestMesh::MakePod("b", "10.0.0.2"), "7");
    saved.BatchEnd();
    Put(saved, TestMesh::MakePolicy("deny", istio::security::DENY));
    saved.BatchEnd();
    saved.Complete();
  }
  std::string ReadFile() {
    std::ifstream in(StateFile::PathIn(directory_), std::ios::binary);
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
  }
  void WriteFile(const std::string& bytes) {
    std::ofstream(StateFile::PathIn(directory_), std::ios::binary) << bytes;
    chmod(StateFile::PathIn(directory_).c_str(), 0600);
  }

  std::string directory_;
};

TEST_F(SavedStateTest, ComesBackWithVersions) {
  Save();
  SavedState saved(directory_);
  state::MeshState mesh;
  const auto loaded = saved.Load(mesh);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
  const xds::DeltaClient::Versions addresses = {{"Kubernetes//Pod/shop/a", "1"},
                                                {"Kubernetes//Pod/shop/b", "7"}};
  EXPECT_EQ(loaded->addresses, addresses);
  EXPECT_EQ(loaded->policies, (xds::DeltaClient::Versions{{"shop/deny", "1"}}));
  EXPECT_EQ(loaded->names.size(), 2u);
  EXPECT_LT(std::chrono::system_clock::now() - loaded->current_at, std::chrono::minutes(5));
  const auto snapshot = mesh.Publish();
  EXPECT_NE(snapshot->WorkloadByAddress("", Ip("10.0.0.2")), nullptr);
  EXPECT_NE(snapshot->PolicyByName("shop/deny"), nullptr);
}

TEST_F(SavedStateTest, NothingIsThereAtFirst) {
  SavedState saved(directory_ + "/deeper");
  state::MeshState mesh;
  EXPECT_EQ(saved.Load(mesh).error().code, Code::kNotFound);
  EXPECT_EQ(saved.errors(), 0u);
}

TEST_F(SavedStateTest, WhatWasNeverCompleteIsNotUsed) {
  {
    SavedState saved(directory_);
    Put(saved, TestMesh::MakePod("a", "10.0.0.1"));
    saved.BatchEnd();
  }
  SavedState saved(directory_);
  state::MeshState mesh;
  EXPECT_EQ(saved.Load(mesh).error().code, Code::kNotFound);
}

// Whatever is wrong with the file, the mesh that is in force afterwards never lacks the policy.
TEST_F(SavedStateTest, DamageNeverWidens) {
  Save();
  const std::string whole = ReadFile();
  const auto allows = [&](const std::string& file) {
    WriteFile(file);
    SavedState saved(directory_);
    state::MeshState mesh;
    const auto loaded = saved.Load(mesh);
    const auto snapshot = mesh.Publish();
    EXPECT_EQ(loaded.has_value(), snapshot->workload_count() == 2);
    if (!loaded) {
      EXPECT_EQ(snapshot->workload_count(), 0u);
      EXPECT_EQ(saved.errors(), 1u);
    }
    return loaded.has_value() && snapshot->PolicyByName("shop/deny") == nullptr;
  };
  EXPECT_FALSE(allows(whole));
  for (size_t size = 0; size < whole.size(); size += 7) EXPECT_FALSE(allows(whole.substr(0, size)));
  for (size_t byte = 0; byte < whole.size(); byte += 5) {
    std::string file = whole;
    file[byte] = static_cast<char>(file[byte] ^ 0x10);
    EXPECT_FALSE(allows(file)) << byte;
  }
}

// Written by a program that understood more: not half of it.
TEST_F(SavedStateTest, APolicyThatCannotBeReadShutsAll) {
  {
    SavedState saved(directory_);
    Put(saved, TestMesh::MakePod("a", "10.0.0.1"));
    saved.Put(Type::kAuthorization, "shop/new", "1", "\xff\xff\xff");
    saved.BatchEnd();
    saved.Complete();
  }
  SavedState saved(directory_);
  state::MeshState mesh;
  const auto loaded = saved.Load(mesh);
  ASSERT_FALSE(loaded.has_value());
  EXPECT_NE(loaded.error().message.find("shop/new"), std::string::npos) << loaded.error().message;
  EXPECT_EQ(mesh.Publish()->workload_count(), 0u);
}

// A policy with parts that are not understood is in force and refused towards the server: after a
// restart it is in force again, and asked for again.
TEST_F(SavedStateTest, RefusedPoliciesStayInForce) {
  auto odd = TestMesh::MakePolicy("odd", istio::security::DENY);
  odd.add_rules()->add_clauses()->add_matches()->add_source_ips()->set_address("xyz");
  {
    SavedState saved(directory_);
    Put(saved, odd, true);
    saved.BatchEnd();
    saved.Complete();
  }
  SavedState saved(directory_);
  state::MeshState mesh;
  const auto loaded = saved.Load(mesh);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
  EXPECT_TRUE(loaded->policies.empty());
  EXPECT_NE(mesh.Publish()->PolicyByName("shop/odd"), nullptr);
}

TEST_F(SavedStateTest, GoesOnFromWhatWasLoaded) {
  Save();
  {
    SavedState saved(directory_);
    state::MeshState mesh;
    ASSERT_TRUE(saved.Load(mesh));
    saved.Remove(Type::kAuthorization, "shop/deny");
    Put(saved, TestMesh::MakePod("c", "10.0.0.3"));
    saved.BatchEnd();
    saved.Complete();
    saved.Stop();
    Put(saved, TestMesh::MakePod("d", "10.0.0.4"));
    saved.BatchEnd();
  }
  SavedState saved(directory_);
  state::MeshState mesh;
  const auto loaded = saved.Load(mesh);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
  EXPECT_EQ(loaded->addresses.size(), 3u);
  EXPECT_TRUE(loaded->policies.empty());
}

}  // namespace
}  // namespace qanat::ztunnel
