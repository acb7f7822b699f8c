// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/writer.h"

#include <gtest/gtest.h>

#include "tests/support/controlplane/kube_bed.h"

namespace qanat::controlplane {
namespace {

using std::chrono::milliseconds;

class WriterTest : public testing::Test, protected KubeBed {
 protected:
  // A wish that comes again with every round, as statuses do until the watch shows them.
  void WishFor(milliseconds time, const std::string& meaning = "m") {
    const auto end = event::Clock::now() + time;
    while (event::Clock::now() < end) {
      Wish(meaning);
      For(milliseconds(10));
    }
  }
  void Wish(const std::string& meaning) {
    Write write;
    write.request = kube::Apply(ConfigMaps(), "shop", "x",
                                R"({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}})",
                                kFieldManager);
    write.meaning = meaning;
    writer_.Want("test", {{"x", std::move(write)}});
  }
  size_t Sent() { return server.CountRequests("PATCH", "/configmaps/x"); }

  static WriterOptions Quick() {
    WriterOptions out;
    out.backoff_first = milliseconds(300);
    return out;
  }
  explicit WriterTest(const WriterOptions& options = Quick())
      : writer_(loop, client, [] { return true; }, registry, options) {}
  Writer writer_;
};

// No machine is busy for as long as this one waits to send the same again.
class PatientWriterTest : public WriterTest {
 protected:
  static WriterOptions Patient() {
    WriterOptions out;
    out.backoff_first = std::chrono::seconds(60);
    return out;
  }
  PatientWriterTest() : WriterTest(Patient()) {}
};

TEST_F(PatientWriterTest, AWishThatIsOnItsWayIsNotSentTwice) {
  server.AddFault({.method = "PATCH", .status = 0, .delay = milliseconds(100)});
  WishFor(milliseconds(200));
  ASSERT_TRUE(Until([&] { return Sent() >= 1; }));
  WishFor(milliseconds(200));
  EXPECT_EQ(Sent(), 1U);
  // Another meaning goes at once.
  Wish("other");
  ASSERT_TRUE(Until([&] { return Sent() == 2; }, milliseconds(20000)));
}

TEST_F(WriterTest, ARefusedWishIsSentLessAndLessOften) {
  server.AddFault({.method = "PATCH",
                   .count = -1,
                   .status = 403,
                   .reason = "Forbidden",
                   .message = "no",
                   .delay = milliseconds(30)});
  const auto begun = event::Clock::now();
  ASSERT_TRUE(Until([&] {
    Wish("m");
    return Sent() >= 4;
  }));
  EXPECT_GE(event::Clock::now() - begun, milliseconds(1800)) << "at 0, 300, 900, 2100 ms";
}

}  // namespace
}  // namespace qanat::controlplane
