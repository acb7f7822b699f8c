// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/trust/revocation_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "common/tls/test_certs.h"
#include "common/tls/test_crl.h"

namespace qanat::ztunnel {
namespace {

using tls::testing::Now;
using tls::testing::TestCa;
using namespace std::chrono_literals;

constexpr char kAlice[] = "spiffe://cluster.local/ns/shop/sa/alice";

class RevocationFileTest : public ::testing::Test {
 protected:
  RevocationFileTest() {
    char name[] = "/tmp/qcrl-XXXXXX";
    dir_ = mkdtemp(name);
    path_ = dir_ + "/ca-crl.pem";
    alice_ = ca_.Issue(kAlice).certificate;
    bob_ = ca_.Issue(kAlice).certificate;
  }
  ~RevocationFileTest() override { std::filesystem::remove_all(dir_); }

  static std::string ListOf(const TestCa& ca, std::vector<tls::Certificate> revoked,
                            std::chrono::seconds until = 3600s) {
    return tls::testing::Pem(tls::testing::Make(ca.authority, {std::move(revoked), until}).get());
  }
  void Write(const std::string& text) {
    std::ofstream(path_ + ".new", std::ios::binary) << text;
    std::filesystem::rename(path_ + ".new", path_);
  }
  std::unique_ptr<RevocationFile> Watch(event::Duration look = 1h) {
    auto file = std::make_unique<RevocationFile>(
        loop_, path_, [this](const tls::RevocationListPtr&) { ++changes_; },
        RevocationFile::Options{look, 10ms});
    file->Start();
    return file;
  }
  template <typename Until>
  bool Eventually(Until until) {
    const auto end = std::chrono::steady_clock::now() + 60s;
    while (!until() && std::chrono::steady_clock::now() < end) loop_.RunOnce(5ms);
    return until();
  }
  void Settle() {
    for (int i = 0; i < 20; ++i) loop_.RunOnce(5ms);
  }
  bool Revoked(const RevocationFile& file, const tls::Certificate& who) {
    const std::vector<tls::Certificate> path{who, ca_.authority.certificate};
    return file.lists() != nullptr && file.lists()->Revoked(path).has_value();
  }

  event::EventLoop loop_;
  TestCa ca_ = TestCa::Make();
  std::string dir_, path_;
  tls::Certificate alice_, bob_;
  int changes_ = 0;
};

TEST_F(RevocationFileTest, IsReadAtTheStartAndWhenItChanges) {
  Write(ListOf(ca_, {alice_}));
  auto file = Watch();
  EXPECT_EQ(changes_, 1);
  EXPECT_TRUE(Revoked(*file, alice_));
  EXPECT_FALSE(Revoked(*file, bob_));
  Write(ListOf(ca_, {alice_, bob_}));  // the look is an hour away: the kernel tells
  EXPECT_TRUE(Eventually([&] { return changes_ == 2; }));
  EXPECT_TRUE(Revoked(*file, bob_));
  Write(ListOf(ca_, {}));  // what was revoked by mistake
  EXPECT_TRUE(Eventually([&] { return changes_ == 3; }));
  EXPECT_FALSE(Revoked(*file, alice_));
}

TEST_F(RevocationFileTest, AFileThatComesLaterIsWaitedFor) {
  std::filesystem::remove_all(dir_);  // not even the folder
  auto file = Watch(20ms);
  EXPECT_EQ(file->lists(), nullptr);
  EXPECT_EQ(file->failures(), 1u);
  EXPECT_FALSE(file->in_step());
  std::filesystem::create_directory(dir_);
  Write(ListOf(ca_, {alice_}));
  EXPECT_TRUE(Eventually([&] { return file->in_step(); }));
  EXPECT_TRUE(Revoked(*file, alice_));
}

TEST_F(RevocationFileTest, AMountedConfigMapIsALinkThatMoves) {
  namespace fs = std::filesystem;
  for (const char* version : {"1", "2"}) fs::create_directory(dir_ + "/" + version);
  std::ofstream(dir_ + "/1/ca-crl.pem") << ListOf(ca_, {});
  std::ofstream(dir_ + "/2/ca-crl.pem") << ListOf(ca_, {alice_});
  fs::create_symlink("1", dir_ + "/..data");
  fs::create_symlink("..data/ca-crl.pem", path_);
  auto file = Watch();
  EXPECT_FALSE(Revoked(*file, alice_));
  fs::create_symlink("2", dir_ + "/..new");
  fs::rename(dir_ + "/..new", dir_ + "/..data");
  EXPECT_TRUE(Eventually([&] { return Revoked(*file, alice_); }));
}

TEST_F(RevocationFileTest, WhatIsNoGoodChangesNothing) {
  Write(ListOf(ca_, {alice_}));
  auto file = Watch(20ms);
  const std::string forged = [&] {
    auto key = tls::PrivateKey::GenerateP256();
    return tls::testing::Pem(tls::testing::Make(ca_.authority, {}, &*key).get());
  }();
  file->SetAuthorities({ca_.authority.certificate});
  uint64_t failures = 0;
  for (const std::string& bad : {std::string("garbage"), std::string(), forged}) {
    Write(bad);
    EXPECT_TRUE(Eventually([&] { return file->failures() > failures; }));
    failures = file->failures();
    EXPECT_FALSE(file->in_step());
    EXPECT_TRUE(Revoked(*file, alice_)) << "the last good one stays in force";
  }
  std::filesystem::remove(path_);
  EXPECT_TRUE(Eventually([&] { return file->failures() > failures; }));
  EXPECT_TRUE(Revoked(*file, alice_));
  EXPECT_EQ(changes_, 1);
  // The same text again is nothing new, but in step.
  Write(ListOf(ca_, {alice_, bob_}));
  EXPECT_TRUE(Eventually([&] { return file->in_step(); }));
  EXPECT_TRUE(Revoked(*file, bob_));
}

TEST_F(RevocationFileTest, AListOfACaThatIsNotKnownYetIsTakenWhenItIs) {
  Write(ListOf(ca_, {alice_}));
  auto file = Watch();
  file->SetAuthorities({ca_.authority.certificate});
  const TestCa same_name = TestCa::Make();  // a root made anew under the same name
  Write(ListOf(same_name, {bob_}));
  EXPECT_TRUE(Eventually([&] { return file->failures() == 1; }));
  EXPECT_EQ(changes_, 1);
  file->SetAuthorities({ca_.authority.certificate, same_name.authority.certificate});
  EXPECT_TRUE(Eventually([&] { return changes_ == 2; }));
  EXPECT_TRUE(file->in_step());
}

TEST_F(RevocationFileTest, AnExpiredListHoldsAndIsCounted) {
  Write(ListOf(ca_, {alice_}, -60s));
  auto file = Watch(20ms);
  Settle();
  EXPECT_EQ(file->stale(), 1u);
  EXPECT_TRUE(Revoked(*file, alice_));
  Write(ListOf(ca_, {alice_}));
  EXPECT_TRUE(Eventually([&] { return file->stale() == 0; }));
}

}  // namespace
}  // namespace qanat::ztunnel
