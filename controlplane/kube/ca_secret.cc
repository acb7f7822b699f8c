// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/ca_secret.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/base/log.h"
#include "common/tls/crypto.h"
#include "controlplane/kube/kinds.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;

constexpr const char* kPlugin = "cacerts";  // stock: a CA that the user brings
constexpr std::chrono::milliseconds kLongestDelay{30000};

tls::Time WallClock() { return std::chrono::system_clock::now(); }

Result<std::string> Entry(const json& data, const char* key, const std::string& where) {
  const auto it = data.find(key);
  if (it == data.end() || !it->is_string()) return std::string();
  Result<std::string> text = tls::Base64Decode(it->get_ref<const std::string&>());
  if (!text) {
    return Fail(Code::kFailedPrecondition, fmt::format("{}: {} is not base64", where, key));
  }
  return std::move(*text);
}

bool SameFiles(const CaFiles& a, const CaFiles& b) {
  return a.certificate == b.certificate && a.key == b.key && a.chain == b.chain &&
         a.roots == b.roots;
}

}  // namespace

Result<CaFiles> CaFilesOfSecret(std::string_view text, const std::string& where) {
  const json secret = json::parse(text, nullptr, false);
  if (!secret.is_object() || !secret.contains("data") || !secret["data"].is_object()) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("{} has no data: give it ca-cert.pem and ca-key.pem", where));
  }
  const json& data = secret["data"];
  CaFiles out;
  out.where = where;
  QANAT_ASSIGN_OR_RETURN(out.certificate, Entry(data, "ca-cert.pem", where));
  QANAT_ASSIGN_OR_RETURN(out.key, Entry(data, "ca-key.pem", where));
  QANAT_ASSIGN_OR_RETURN(out.chain, Entry(data, "cert-chain.pem", where));
  QANAT_ASSIGN_OR_RETURN(out.roots, Entry(data, "root-cert.pem", where));
  return out;
}

CaSecretLoader::CaSecretLoader(event::EventLoop& loop, kube::Client& client, std::string ns,
                               std::string secret, CaOptions options, Done done,
                               std::function<void()> replaced, std::chrono::milliseconds look_again)
    : loop_(loop),
      client_(client),
      ns_(std::move(ns)),
      secret_(std::move(secret)),
      options_(std::move(options)),
      done_(std::move(done)),
      replaced_(std::move(replaced)),
      look_again_(look_again),
      retry_(loop_, [this] { AskPlugin(); }) {
  retry_.Start(std::chrono::milliseconds(0));
}

void CaSecretLoader::AskPlugin() {
  call_ = client_.Call(kube::Get(Secrets(), ns_, kPlugin), [this](Result<kube::CallResponse> r) {
    if (r) return Take(kPlugin, r->body);
    if (r.error().code == Code::kNotFound) return AskOwn();
    Failed(fmt::format("Secret {}/{}", ns_, kPlugin), r.error());
  });
}

void CaSecretLoader::AskOwn() {
  call_ = client_.Call(kube::Get(Secrets(), ns_, secret_), [this](Result<kube::CallResponse> r) {
    if (r) return Take(secret_, r->body);
    if (r.error().code == Code::kNotFound) {
      if (!loaded_) return MakeOwn();
      call_.reset();
      retry_.Start(look_again_);
      return Complain(fmt::format(
          "{} is gone: its authority stays in use, but a restart would make another root, which "
          "nobody trusts yet: restore it from a backup, or restart the control plane and then "
          "every proxy",
          loaded_->where));
    }
    Failed(fmt::format("Secret {}/{}", ns_, secret_), r.error());
  });
}

void CaSecretLoader::MakeOwn() {
  const std::string where = fmt::format("Secret {}/{}", ns_, secret_);
  const Result<CaFiles> files = MakeCaFiles(options_.trust_domain, WallClock());
  if (!files) return Failed(where, files.error());
  const json secret = {
      {"apiVersion", "v1"},
      {"kind", "Secret"},
      {"type", "istio.io/ca-root"},
      {"metadata", {{"name", secret_}, {"namespace", ns_}, {"labels", {{kPartOf, kPartOfQanat}}}}},
      {"data",
       {{"ca-cert.pem", tls::Base64Encode(files->certificate)},
        {"ca-key.pem", tls::Base64Encode(files->key)}}}};
  call_ = client_.Call(kube::Create(Secrets(), ns_, secret.dump()),
                       [this, where](Result<kube::CallResponse> r) {
                         if (r) {
                           LOG_INFO("ca", "{}: a new root was made", where);
                           return Take(secret_, r->body);
                         }
                         // Another replica was faster: its root is the mesh's.
                         if (r.error().code == Code::kAlreadyExists) return AskOwn();
                         Failed(where, r.error());
                       });
}

void CaSecretLoader::Take(const std::string& name, std::string_view json) {
  const std::string where = fmt::format("Secret {}/{}", ns_, name);
  const Result<CaFiles> files = CaFilesOfSecret(json, where);
  if (!files) return Failed(where, files.error());
  if (loaded_ && SameFiles(*loaded_, *files)) {
    call_.reset();
    problem_.clear();
    told_ = false;
    return retry_.Start(look_again_);
  }
  Result<CertificateAuthority> authority =
      CertificateAuthority::FromFiles(options_, *files, WallClock());
  if (!authority) return Failed(where, authority.error());
  call_.reset();
  retry_.Start(look_again_);
  if (loaded_) {
    Complain(
        fmt::format("{} has replaced the authority in use, that of {}; every replica has to be "
                    "restarted",
                    where, loaded_->where));
    if (!std::exchange(told_, true) && replaced_) replaced_();
    return;
  }
  problem_.clear();
  loaded_ = *files;
  done_(std::move(*authority));
}

void CaSecretLoader::Failed(const std::string& what, const Error& error) {
  call_.reset();
  if (loaded_) {
    retry_.Start(look_again_);
    // That nobody can be asked just now is said elsewhere, and means nothing here.
    if (error.code == Code::kFailedPrecondition) {
      Complain(fmt::format("{}: {}; the authority in use stays, a restart would fail", what,
                           error.message));
    }
    return;
  }
  Complain(fmt::format("the certificate authority's key ({}): {}; it is asked for again", what,
                       error.message));
  retry_.Start(delay_);
  delay_ = std::min(delay_ * 2, kLongestDelay);
}

void CaSecretLoader::Complain(std::string problem) {
  if (problem != problem_) LOG_ERROR("ca", "{}", problem);
  problem_ = std::move(problem);
}

}  // namespace qanat::controlplane
