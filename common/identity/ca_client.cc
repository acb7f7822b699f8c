// SPDX-License-Identifier: Apache-2.0
#include "common/identity/ca_client.h"

#include <optional>

#include "common/base/log.h"
#include "common/base/program.h"
#include "common/proto/ca.pb.h"
#include "common/tls/crypto.h"
#include "common/tls/tls_context.h"
#include "common/tls/x509.h"

namespace qanat::identity {
namespace {

CertificateInfo Describe(const tls::Certificate& certificate) {
  return {certificate.ToPem(), certificate.serial(), certificate.not_before(),
          certificate.not_after()};
}

tl::unexpected<Error> Refuse(const model::Identity& identity, std::string_view why) {
  return Fail(Code::kUnauthenticated, "the CA's certificate for " + identity.ToString() +
                                          " is refused: " + std::string(why));
}

class GrpcCaClient final : public CaClient {
 public:
  GrpcCaClient(grpc::Channel& channel, CaOptions options) : channel_(channel), options_(options) {}

  std::unique_ptr<Fetch> FetchCertificate(const model::Identity& identity, Done done) override {
    return std::make_unique<Request>(channel_, options_, identity, std::move(done));
  }

 private:
  class Request final : public Fetch {
   public:
    Request(grpc::Channel& channel, const CaOptions& options, const model::Identity& identity,
            Done done)
        : options_(options),
          identity_(identity),
          done_(std::move(done)),
          failed_(channel.loop(), [this] { Finish(Fail(*error_)); }) {
      auto body = MakeRequest();
      if (!body) {
        error_ = body.error();
        failed_.Start({});  // never from inside the call
        return;
      }
      grpc::CallOptions call;
      call.method = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
      call.deadline = options_.deadline;
      call_ = channel.Unary(std::move(call), *body,
                            [this](grpc::CallStatus status, std::string response) {
                              Finish(Handle(std::move(status), response));
                            });
    }

    ~Request() override { Wipe(key_pem_); }

   private:
    Result<std::string> MakeRequest() {
      QANAT_ASSIGN_OR_RETURN(const tls::PrivateKey key, tls::PrivateKey::GenerateP256());
      key_pem_ = key.ToPem();
      tls::RequestNames names;
      names.uri = {identity_.ToString()};
      QANAT_ASSIGN_OR_RETURN(const std::string csr, tls::MakeCsr(key, names));
      istio::v1::auth::IstioCertificateRequest request;
      request.set_csr(csr);
      request.set_validity_duration(options_.validity.count());
      if (options_.impersonate) {
        (*request.mutable_metadata()->mutable_fields())["ImpersonatedIdentity"].set_string_value(
            identity_.ToString());
      }
      return request.SerializeAsString();
    }
    Result<CertificatePtr> Handle(grpc::CallStatus status, const std::string& bytes) {
      if (!status.ok()) {
        return Fail(status.ToError().Annotate("CreateCertificate for " + identity_.ToString()));
      }
      istio::v1::auth::IstioCertificateResponse response;
      if (!response.ParseFromString(bytes)) {
        return Fail(Code::kInternal, "the CA's answer is not an IstioCertificateResponse");
      }
      const std::vector<std::string> chain(response.cert_chain().begin(),
                                           response.cert_chain().end());
      return BuildCertificate(identity_, chain, key_pem_, options_,
                              std::chrono::system_clock::now());
    }
    void Finish(Result<CertificatePtr> result) {
      // `done` may destroy this object.
      Done done = std::move(done_);
      done(std::move(result));
    }

    const CaOptions options_;
    const model::Identity identity_;
    Done done_;
    std::string key_pem_;
    std::optional<Error> error_;
    event::Timer failed_;
    grpc::CallPtr call_;
  };

  grpc::Channel& channel_;
  const CaOptions options_;
};

}  // namespace

std::unique_ptr<CaClient> MakeGrpcCaClient(grpc::Channel& channel, CaOptions options) {
  return std::make_unique<GrpcCaClient>(channel, options);
}

Result<CertificatePtr> BuildCertificate(const model::Identity& identity,
                                        const std::vector<std::string>& cert_chain,
                                        const std::string& key_pem, const CaOptions& options,
                                        SystemTime now) {
  if (cert_chain.size() < 2) {
    return Refuse(identity, "the chain has " + std::to_string(cert_chain.size()) +
                                " parts; leaf and root are needed");
  }
  std::string chain_pem;
  for (size_t i = 0; i + 1 < cert_chain.size(); ++i) {
    chain_pem += cert_chain[i];
    if (!chain_pem.ends_with('\n')) chain_pem += '\n';
  }
  auto chain = tls::Certificate::ParsePem(chain_pem);
  if (!chain) return Refuse(identity, chain.error().message);
  auto roots = tls::Certificate::ParsePem(cert_chain.back());
  if (!roots) return Refuse(identity, "its root: " + roots.error().message);
  const tls::Certificate& leaf = chain->front();
  const tls::SubjectAltNames sans = leaf.sans();
  if (sans.count() != 1 || sans.uri.size() != 1 || sans.uri[0] != identity.ToString()) {
    return Refuse(identity, "its names are " + sans.ToString());
  }
  QANAT_ASSIGN_OR_RETURN(tls::PrivateKey key, tls::PrivateKey::FromPem(key_pem));
  if (!leaf.Matches(key)) return Refuse(identity, "it is for another key");
  if (auto ok = tls::VerifyChain(*chain, *roots, tls::Purpose::kAny, now); !ok) {
    return Refuse(identity, ok.error().message);
  }
  auto out = std::make_shared<WorkloadCertificate>();
  out->identity = identity;
  for (const auto& certificate : *chain) out->chain.push_back(Describe(certificate));
  for (const auto& certificate : *roots) out->roots.push_back(Describe(certificate));
  out->chain_pem = chain_pem;
  out->roots_pem = tls::ToPem(*roots);
  tls::ContextOptions context;
  context.chain = std::move(*chain);
  context.key = std::move(key);
  context.roots = std::move(*roots);
  context.allow_tls12 = options.tls12;
  context.post_quantum_only = options.post_quantum_only;
  context.resumption = options.resumption;
  auto both = tls::TlsContext::Make(std::move(context));
  if (!both) return Refuse(identity, both.error().message);
  out->client = out->server = std::move(*both);
  return CertificatePtr(std::move(out));
}

}  // namespace qanat::identity
