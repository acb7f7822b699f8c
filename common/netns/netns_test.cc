// SPDX-License-Identifier: Apache-2.0
// Needs root: makes a network namespace of its own with unshare().
#include "common/netns/netns.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <thread>

namespace qanat::netns {
namespace {

// A fresh namespace that lives as long as the returned value.
Result<NetNs> MakeNamespace() {
  Result<NetNs> made = Fail(Code::kInternal, "not run");
  std::thread([&] {
    if (unshare(CLONE_NEWNET) != 0) {
      made = FailErrno("unshare (this test needs root)");
      return;
    }
    made = NetNs::Current();
  }).join();
  return made;
}

TEST(NetNsTest, RunsInsideAndComesBack) {
  auto ns = MakeNamespace();
  ASSERT_TRUE(ns) << ns.error().message;
  auto before = NetNs::Current();
  ASSERT_TRUE(before);
  EXPECT_NE(before->id(), ns->id());
  Id inside;
  ASSERT_TRUE(ns->Run([&]() -> Status {
    inside = NetNs::Current()->id();
    return {};
  }));
  EXPECT_EQ(inside, ns->id());
  EXPECT_EQ(NetNs::Current()->id(), before->id());
}

TEST(NetNsTest, NestedRunsComeBackOneByOne) {
  auto outer = MakeNamespace();
  auto inner = MakeNamespace();
  ASSERT_TRUE(outer && inner);
  const Id before = NetNs::Current()->id();
  Id inside, after;
  ASSERT_TRUE(outer->Run([&]() -> Status {
    const Status status = inner->Run([&]() -> Status {
      inside = NetNs::Current()->id();
      return {};
    });
    after = NetNs::Current()->id();
    return status;
  }));
  EXPECT_EQ(inside, inner->id());
  EXPECT_EQ(after, outer->id());
  EXPECT_EQ(NetNs::Current()->id(), before);
}

TEST(NetNsTest, ErrorsOfTheActionComeBack) {
  auto ns = MakeNamespace();
  ASSERT_TRUE(ns);
  Status status = ns->Run([]() -> Status { return Fail(Code::kNotFound, "nothing here"); });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, Code::kNotFound);
}

TEST(NetNsTest, CookiesTellNamespacesApart) {
  auto a = MakeNamespace();
  auto b = MakeNamespace();
  ASSERT_TRUE(a && b);
  EXPECT_NE(*a->Cookie(), 0u);
  EXPECT_NE(*a->Cookie(), *b->Cookie());
  EXPECT_EQ(*a->Cookie(), *a->Duplicate()->Cookie());
}

TEST(NetNsTest, OtherFilesAreRefused) {
  EXPECT_FALSE(NetNs::Open("/dev/null"));
  EXPECT_FALSE(NetNs::Open("/proc/self/ns/mnt"));
  EXPECT_EQ(NetNs::Open("/does/not/exist").error().code, Code::kNotFound);
}

}  // namespace
}  // namespace qanat::netns
