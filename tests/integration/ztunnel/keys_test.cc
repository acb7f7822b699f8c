// SPDX-License-Identifier: Apache-2.0
// Private keys of certificates are in nothing that the proxy says or writes: the log at its most
// talkative, every page of the admin ports, the saved state.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "common/base/log.h"
#include "common/tls/crypto.h"
#include "tests/integration/ztunnel/bed.h"
#include "tests/integration/ztunnel/boringssl_calls.h"
#include "tests/integration/ztunnel/key_search.h"

namespace qanat::ztunnel::test {
namespace {

using testing::HasSubstr;

constexpr char kFrontend[] = "spiffe://cluster.local/ns/shop/sa/frontend";

std::string Contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Where the search itself would fail, what it does not find says nothing.
TEST(KeySearchTest, FindsAKeyInEveryDress) {
  const auto key = tls::PrivateKey::GenerateP256().value();
  const KeySearch search({PrivateKeysMade().back()});
  const std::string pem = key.ToPem();
  std::string body = pem.substr(pem.find('\n') + 1);
  body.resize(body.find("-----"));
  std::erase(body, '\n');
  const std::string der = tls::Base64Decode(body).value();
  std::string hex, upper, apart;
  for (const char c : der) {
    const auto byte = static_cast<unsigned char>(c);
    hex += fmt::format("{:02x}", byte);
    upper += fmt::format("{:02X}", byte);
    apart += fmt::format("{:02x}:", byte);
    if (apart.size() % 45 == 0) apart += "\n    ";
  }
  std::string quoted = pem;
  for (size_t at = 0; (at = quoted.find('\n', at)) != quoted.npos;) quoted.replace(at, 1, "\\n");
  std::string headless = pem.substr(pem.find('\n') + 1);
  headless.resize(headless.find("-----"));
  for (const std::string& dressed :
       {pem, quoted, headless, body, der, hex, upper, apart, tls::Base64Encode(pem),
        tls::Base64Encode(der + "x"), tls::Base64Encode("x" + der), tls::Base64Encode("xy" + der),
        tls::Base64UrlEncode("x" + der), tls::Base64Encode(hex), tls::Base64Encode(body)}) {
    EXPECT_NE(search.Find("key=" + dressed + ", and more"), "") << dressed;
  }
  EXPECT_EQ(search.Find(key.public_key().ToPem()), "");
  EXPECT_EQ(search.Find(tls::Base64Encode(key.public_key().ToPem())), "");
  // Somebody else's is not looked for by its bytes, but by what PEM calls it.
  EXPECT_EQ(KeySearch({}).Find(body), "");
  EXPECT_EQ(KeySearch({}).Find(tls::Base64Encode(pem)), "PEM");
}

class KeysTest : public Bed {
 protected:
  void SetUp() override {
    char path[] = "/tmp/qanat-keys-XXXXXX";
    folder_ = mkdtemp(path);
    old_stderr_.Reset(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0));
    const Fd log(open(Log().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    ASSERT_GE(dup2(log.get(), STDERR_FILENO), 0);
  }
  void TearDown() override {
    EXPECT_TRUE(log::SetLevels("info"));
    nodes_.clear();
    dup2(old_stderr_.get(), STDERR_FILENO);
    if (!HasFailure()) std::filesystem::remove_all(folder_);
  }
  std::string Log() const { return folder_ + "/log"; }
  bool Said(const std::string& text) {
    return Eventually([&] { return Contents(Log()).find(text) != std::string::npos; });
  }
  static bool Talks(PodNet& from, PodNet& to) {
    Tcp tcp = ConnectFrom(from.netns(), to.At(8080));
    return tcp.connected() && tcp.Send("x") && tcp.Read(1) == "x";
  }

  std::string folder_;
  Fd old_stderr_;
};

TEST_F(KeysTest, AreInNothingThatIsSaidOrWritten) {
  const size_t before = PrivateKeysMade().size();
  control_plane_.certificate_lifetime = std::chrono::seconds(8);
  PodNet& frontend = AddPod(1);
  PodNet& backend = AddPod(2);
  Announce("frontend", frontend, "n1");
  Announce("backend", backend, "n2");
  for (const auto& [name, pod] : {std::pair("n1", &frontend), std::pair("n2", &backend)}) {
    Node& node = AddNode(name, [&](Config& config) { config.state_dir = folder_ + "/" + name; });
    std::filesystem::create_directory(folder_ + "/" + name);
    ASSERT_THAT(node.Get("/logging?level=trace", "POST"), HasSubstr("level is trace"));
    ASSERT_EQ(node.Enrol(pod == &frontend ? "frontend" : "backend", *pod), "");
    ASSERT_EQ(node.agent().SnapshotSent(), "");
  }
  Server one(frontend.netns(), frontend.At(8080), Server::Echo());
  Server other(backend.netns(), backend.At(8080), Server::Echo());
  // Certificates come, are renewed, and are refused (of somebody whom nobody knows); one end of a
  // tunnel speaks no TLS.
  EXPECT_TRUE(Eventually([&] { return Talks(frontend, backend); }));
  EXPECT_TRUE(Eventually([&] { return Talks(backend, frontend); }));
  EXPECT_TRUE(Eventually([&] { return control_plane_.Issued(kFrontend).size() >= 2; }));
  control_plane_.Rotate(FakeControlPlane::NewRoot(), {control_plane_.root().certificate});
  EXPECT_TRUE(Said("is refused"));
  control_plane_.Rotate(control_plane_.root(), {control_plane_.root().certificate});
  Tcp garbage = ConnectFrom(frontend.netns(), backend.At(15008));
  garbage.Send("no TLS\r\n\r\n");
  EXPECT_TRUE(Said("\tdebug\t"));

  // Those of the authorities of this test are among them, and are said by nobody either.
  std::vector<std::string> keys = PrivateKeysMade();
  keys.erase(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(before));
  EXPECT_GE(keys.size(), 3 + 1u);
  const KeySearch search(keys);
  for (const auto& node : nodes_) {
    for (const char* path :
         {"/", "/config_dump", "/debug/connections", "/debug/dns", "/debug/pprof/heap",
          "/debug/pprof/allocs", "/debug/pprof/profile?seconds=1",
          "/debug/why/outbound?src=shop/frontend&dst=10.93.0.2:8080",
          "/debug/why/inbound?dst=10.93.0.2&port=8080&src_ip=10.93.0.1", "/nothing"}) {
      EXPECT_EQ(search.Find(node->Get(path)), "") << path;
    }
    EXPECT_THAT(Undressed(node->Get("/config_dump")), HasSubstr("BEGIN CERTIFICATE"));
    for (const std::string& page : {node->Metrics(), node->Ready(), node->Live()}) {
      EXPECT_EQ(search.Find(page), "");
    }
  }
  EXPECT_TRUE(Eventually([&] {
    return !std::filesystem::is_empty(folder_ + "/n1") &&
           !std::filesystem::is_empty(folder_ + "/n2");
  }));
  for (const auto& node : nodes_) node->Drain();
  for (const auto& node : nodes_) EXPECT_TRUE(node->WaitStopped(30000));
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_)) {
    if (entry.is_regular_file()) {
      EXPECT_EQ(search.Find(Contents(entry.path())), "") << entry.path();
    }
  }
}

}  // namespace
}  // namespace qanat::ztunnel::test
