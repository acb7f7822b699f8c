// SPDX-License-Identifier: Apache-2.0
#include "common/identity/ca_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/grpc/test_server.h"
#include "common/proto/ca.pb.h"
#include "common/tls/test_certs.h"

namespace qanat::identity {
namespace {

using grpc::test::TestServer;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

const model::Identity kFrontend{"cluster.local", "shop", "frontend"};

class CaClientTest : public ::testing::Test {
 protected:
  CaClientTest() : ca_(tls::testing::TestCa::Make()), server_(loop_) {
    server_.on_call = [this](TestServer::Call& c) {
      path_ = c.head.path;
      c.on_message = [this, &c](std::string m) {
        ASSERT_TRUE(request_.ParseFromString(m));
        istio::v1::auth::IstioCertificateResponse response;
        for (const std::string& part : Sign()) response.add_cert_chain(part);
        c.Send(response.SerializeAsString());
        c.Finish(0);
      };
    };
    grpc::ChannelOptions options;
    options.endpoint = server_.endpoint();
    channel_ = std::make_unique<grpc::Channel>(loop_, options);
  }
  // What the fake CA answers to request_.
  std::vector<std::string> Sign() {
    auto csr = tls::ParseCsr(request_.csr());
    EXPECT_TRUE(csr) << csr.error().message;
    csr_ = *csr;
    tls::LeafTemplate leaf;
    leaf.key = other_key_ ? tls::PrivateKey::GenerateP256()->public_key() : csr->key;
    leaf.names.uri = {answer_identity_.empty() ? csr->sans.uri.at(0) : answer_identity_};
    leaf.names.uri.insert(leaf.names.uri.end(), more_uris_.begin(), more_uris_.end());
    leaf.not_before = tls::testing::Now() - std::chrono::seconds(10);
    leaf.not_after = tls::testing::Now() + std::chrono::hours(1);
    auto certificate = tls::SignLeaf(ca_.authority, leaf);
    EXPECT_TRUE(certificate) << certificate.error().message;
    std::vector<std::string> chain = {certificate->ToPem()};
    if (!no_root_)
      chain.push_back((other_root_ ? *other_root_ : ca_).authority.certificate.ToPem());
    return chain;
  }
  Result<CertificatePtr> Get(CaOptions options = {}) {
    auto client = MakeGrpcCaClient(*channel_, options);
    Result<CertificatePtr> out = Fail(Code::kInternal, "nothing");
    bool done = false;
    std::unique_ptr<CaClient::Fetch> fetch;
    fetch = client->FetchCertificate(kFrontend, [&](Result<CertificatePtr> r) {
      out = std::move(r);
      done = true;
      fetch.reset();  // allowed inside
    });
    EXPECT_FALSE(done);
    const auto end = event::Clock::now() + std::chrono::seconds(60);
    while (!done && event::Clock::now() < end) loop_.RunOnce(milliseconds(10));
    EXPECT_TRUE(done);
    return out;
  }

  event::EventLoop loop_;
  tls::testing::TestCa ca_;
  TestServer server_;
  std::unique_ptr<grpc::Channel> channel_;
  std::string path_;
  istio::v1::auth::IstioCertificateRequest request_;
  tls::Csr csr_;
  std::string answer_identity_;
  std::vector<std::string> more_uris_;
  bool other_key_ = false;
  bool no_root_ = false;
  std::optional<tls::testing::TestCa> other_root_;
};

TEST_F(CaClientTest, AsksForAnIdentityAndBuildsContexts) {
  auto certificate = Get();
  ASSERT_TRUE(certificate) << certificate.error().message;
  EXPECT_EQ(path_, "/istio.v1.auth.IstioCertificateService/CreateCertificate");
  EXPECT_EQ(request_.validity_duration(), 86400);
  EXPECT_EQ(request_.metadata().fields().at("ImpersonatedIdentity").string_value(),
            "spiffe://cluster.local/ns/shop/sa/frontend");
  EXPECT_EQ(csr_.sans.count(), 1u);
  EXPECT_THAT(csr_.sans.uri, ::testing::ElementsAre("spiffe://cluster.local/ns/shop/sa/frontend"));
  EXPECT_EQ(csr_.subject, "");
  const WorkloadCertificate& c = **certificate;
  EXPECT_EQ(c.identity, kFrontend);
  ASSERT_EQ(c.chain.size(), 1u);
  EXPECT_EQ(c.roots.size(), 1u);
  ASSERT_NE(c.client, nullptr);
  ASSERT_NE(c.server, nullptr);
  EXPECT_EQ(c.server->identity(), "spiffe://cluster.local/ns/shop/sa/frontend");
  EXPECT_GT(c.renew_at(), tls::testing::Now() + std::chrono::minutes(25));
  EXPECT_LT(c.renew_at(), tls::testing::Now() + std::chrono::minutes(31));
}

TEST_F(CaClientTest, OwnIdentityIsNotImpersonated) {
  CaOptions options;
  options.impersonate = false;
  ASSERT_TRUE(Get(options));
  EXPECT_FALSE(request_.has_metadata());
}

TEST_F(CaClientTest, EachRequestHasANewKey) {
  ASSERT_TRUE(Get());
  const std::string first = csr_.key.Sha256OfSpki();
  ASSERT_TRUE(Get());
  EXPECT_NE(first, csr_.key.Sha256OfSpki());
}

TEST_F(CaClientTest, AnswersThatAreRefused) {
  answer_identity_ = "spiffe://cluster.local/ns/shop/sa/admin";
  EXPECT_THAT(Get().error().message, HasSubstr("sa/admin"));
  answer_identity_.clear();
  more_uris_ = {"spiffe://cluster.local/ns/shop/sa/second"};
  EXPECT_THAT(Get().error().message, HasSubstr("sa/second"));
  more_uris_.clear();
  other_key_ = true;
  EXPECT_THAT(Get().error().message, HasSubstr("another key"));
  other_key_ = false;
  no_root_ = true;
  EXPECT_THAT(Get().error().message, HasSubstr("leaf and root"));
  no_root_ = false;
  other_root_ = tls::testing::TestCa::Make();
  EXPECT_FALSE(Get());
  other_root_.reset();
  EXPECT_TRUE(Get());
}

TEST_F(CaClientTest, FailuresOfTheCall) {
  server_.on_call = [](TestServer::Call& c) { c.Finish(16, "request authenticate failure"); };
  auto denied = Get();
  EXPECT_EQ(denied.error().code, Code::kUnauthenticated);
  EXPECT_THAT(denied.error().message, HasSubstr("request authenticate failure"));
  server_.on_call = [](TestServer::Call& c) {
    c.Send("\xff not a proto");
    c.Finish(0);
  };
  EXPECT_FALSE(Get());
  server_.on_call = [](TestServer::Call&) {};
  CaOptions options;
  options.deadline = milliseconds(100);
  EXPECT_EQ(Get(options).error().code, Code::kDeadlineExceeded);
}

TEST(BuildCertificate, ExpiredIsRefused) {
  const auto ca = tls::testing::TestCa::Make();
  auto leaf = ca.Issue({{kFrontend.ToString()}, {}, {}}, tls::Usage::kBoth,
                       std::chrono::seconds(-600), std::chrono::seconds(-60));
  auto built =
      BuildCertificate(kFrontend, {leaf.certificate.ToPem(), ca.authority.certificate.ToPem()},
                       leaf.key.ToPem(), {}, tls::testing::Now());
  EXPECT_FALSE(built);
}

}  // namespace
}  // namespace qanat::identity
