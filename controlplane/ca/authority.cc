// SPDX-License-Identifier: Apache-2.0
#include "controlplane/ca/authority.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "common/base/fd.h"

namespace qanat::controlplane {
namespace {

using std::chrono::hours;

constexpr hours kRootLife{24 * 3650};
constexpr hours kServingLife{24 * 365};
constexpr std::chrono::minutes kBackdate{2};  // clocks of nodes differ a little

Result<std::string> ReadFile(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return FailErrno("open " + path);
  std::string out;
  char buffer[8192];
  ssize_t n = 0;
  while ((n = ::read(fd.get(), buffer, sizeof buffer)) > 0)
    out.append(buffer, static_cast<size_t>(n));
  if (n < 0) return FailErrno("read " + path);
  return out;
}

// Written beside its place, then renamed: a crash leaves the old file or the new one.
Status WriteFile(const std::string& path, const std::string& content, mode_t mode) {
  const std::string temporary = path + ".new";
  ::unlink(temporary.c_str());
  const Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!fd) return FailErrno("create " + temporary);
  if (::fchmod(fd.get(), mode) != 0) return FailErrno("chmod " + temporary);
  size_t at = 0;
  while (at < content.size()) {
    const ssize_t n = ::write(fd.get(), content.data() + at, content.size() - at);
    if (n < 0) return FailErrno("write " + temporary);
    at += static_cast<size_t>(n);
  }
  if (::fsync(fd.get()) != 0) return FailErrno("fsync " + temporary);
  if (::rename(temporary.c_str(), path.c_str()) != 0) return FailErrno("rename to " + path);
  return {};
}

std::string WithNewline(std::string pem) {
  if (!pem.ends_with('\n')) pem += '\n';
  return pem;
}

// ParsePem's error with what it is about and what to do.
Result<std::vector<tls::Certificate>> ParseCertificates(const std::string& pem,
                                                        const std::string& where,
                                                        const char* piece) {
  Result<std::vector<tls::Certificate>> out = tls::Certificate::ParsePem(pem);
  if (out) return out;
  return Fail(Code::kFailedPrecondition,
              fmt::format("{}: {} holds no certificate that can be read ({}): restore it from a "
                          "backup; it is never overwritten",
                          where, piece, out.error().message));
}

bool Exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

Result<tls::Authority> MakeNew(const std::string& key_path, const std::string& cert_path,
                               const std::string& trust_domain, tls::Time now) {
  QANAT_ASSIGN_OR_RETURN(tls::PrivateKey key, tls::PrivateKey::GenerateP256());
  QANAT_ASSIGN_OR_RETURN(tls::Authority root, tls::MakeRoot(key, trust_domain, "Qanat root CA",
                                                            now - kBackdate, now + kRootLife));
  QANAT_RETURN_IF_ERROR(WriteFile(key_path, key.ToPem(), 0600));
  QANAT_RETURN_IF_ERROR(WriteFile(cert_path, root.certificate.ToPem(), 0644));
  return root;
}

Result<tls::Authority> Load(const std::string& key_path, const std::string& cert_path,
                            tls::Time now) {
  struct stat st{};
  if (::stat(key_path.c_str(), &st) != 0) return FailErrno("stat " + key_path);
  if ((st.st_mode & 077) != 0) {
    return Fail(
        Code::kFailedPrecondition,
        fmt::format("{} can be read by others (mode {:o}): whoever read it can be anyone in "
                    "the mesh. chmod 600 it, and remove both files to get a new root if it "
                    "was exposed",
                    key_path, st.st_mode & 0777));
  }
  QANAT_ASSIGN_OR_RETURN(const std::string key_pem, ReadFile(key_path));
  QANAT_ASSIGN_OR_RETURN(const std::string cert_pem, ReadFile(cert_path));
  QANAT_ASSIGN_OR_RETURN(tls::PrivateKey key, tls::PrivateKey::FromPem(key_pem));
  QANAT_ASSIGN_OR_RETURN(std::vector<tls::Certificate> certificates,
                         tls::Certificate::ParsePem(cert_pem));
  tls::Certificate certificate = certificates.front();
  if (!certificate.Matches(key)) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("{} and {} do not belong together: restore the pair, or remove both to "
                            "get a new root",
                            key_path, cert_path));
  }
  if (!certificate.is_ca()) {
    return Fail(Code::kFailedPrecondition, cert_path + " is not a CA certificate");
  }
  if (certificate.not_after() <= now) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("{} expired at {}: remove both files to get a new root (every workload "
                            "must then get a new certificate)",
                            cert_path, tls::FormatTime(certificate.not_after())));
  }
  return tls::Authority{std::move(certificate), std::move(key)};
}

}  // namespace

Result<CertificateAuthority> CertificateAuthority::OpenOrCreate(CaOptions options, tls::Time now) {
  const std::string key_path = options.directory + "/root-key.pem";
  const std::string cert_path = options.directory + "/root-cert.pem";
  if (::mkdir(options.directory.c_str(), 0755) != 0 && errno != EEXIST) {
    return FailErrno("create --ca-dir " + options.directory);
  }
  // Two control planes that start at once must not make two roots.
  const Fd lock(::open(options.directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!lock || ::flock(lock.get(), LOCK_EX) != 0) return FailErrno("lock " + options.directory);
  const bool have_key = Exists(key_path);
  if (have_key != Exists(cert_path)) {
    return Fail(
        Code::kFailedPrecondition,
        fmt::format("{} has only one of root-key.pem and root-cert.pem: restore the other, or "
                    "remove it to get a new root",
                    options.directory));
  }
  Result<tls::Authority> root = have_key ? Load(key_path, cert_path, now)
                                         : MakeNew(key_path, cert_path, options.trust_domain, now);
  if (!root) return Fail(root.error().Annotate("certificate authority"));
  const tls::Certificate certificate = root->certificate;
  CertificateAuthority out(std::move(options), std::move(*root), certificate);
  out.root_pem_ = WithNewline(certificate.ToPem());
  return out;
}

Result<CaFiles> MakeCaFiles(const std::string& trust_domain, tls::Time now) {
  QANAT_ASSIGN_OR_RETURN(const tls::PrivateKey key, tls::PrivateKey::GenerateP256());
  QANAT_ASSIGN_OR_RETURN(
      const tls::Authority root,
      tls::MakeRoot(key, trust_domain, "Qanat root CA", now - kBackdate, now + kRootLife));
  CaFiles out;
  out.certificate = WithNewline(root.certificate.ToPem());
  out.key = key.ToPem();
  return out;
}

Result<CertificateAuthority> CertificateAuthority::FromFiles(CaOptions options,
                                                             const CaFiles& files, tls::Time now) {
  const auto refuse = [&](std::string message) {
    return Fail(Code::kFailedPrecondition, fmt::format("{}: {}", files.where, message));
  };
  QANAT_ASSIGN_OR_RETURN(const std::vector<tls::Certificate> own,
                         ParseCertificates(files.certificate, files.where, "ca-cert.pem"));
  Result<tls::PrivateKey> key = tls::PrivateKey::FromPem(files.key);
  if (!key) {
    return refuse(
        fmt::format("ca-key.pem holds no key that can be read ({}): restore it from a backup; it "
                    "is never overwritten",
                    key.error().message));
  }
  const tls::Certificate& signer = own.front();
  if (!signer.Matches(*key)) {
    return refuse("ca-cert.pem and ca-key.pem do not belong together: restore the pair");
  }
  if (!signer.is_ca()) return refuse("ca-cert.pem is not a CA certificate");
  if (signer.not_after() <= now) {
    return refuse(
        fmt::format("ca-cert.pem expired at {}: put a new one in its place (every "
                    "workload must then get a new certificate)",
                    tls::FormatTime(signer.not_after())));
  }
  std::vector<tls::Certificate> between;
  if (!files.chain.empty()) {
    QANAT_ASSIGN_OR_RETURN(between, ParseCertificates(files.chain, files.where, "cert-chain.pem"));
  }
  std::vector<tls::Certificate> roots = {signer};
  if (!files.roots.empty()) {
    QANAT_ASSIGN_OR_RETURN(roots, ParseCertificates(files.roots, files.where, "root-cert.pem"));
  } else if (!signer.SelfSigned()) {
    return refuse("ca-cert.pem is not a root, so root-cert.pem is needed beside it");
  }
  std::vector<tls::Certificate> chain = {signer};
  std::vector<std::string> intermediates;
  if (!signer.SelfSigned()) intermediates.push_back(WithNewline(signer.ToPem()));
  for (tls::Certificate& certificate : between) {
    if (certificate.SelfSigned() || certificate.ToDer() == signer.ToDer()) continue;
    intermediates.push_back(WithNewline(certificate.ToPem()));
    chain.push_back(std::move(certificate));
  }
  if (const Status leads = tls::VerifyChain(chain, roots, tls::Purpose::kAny, now); !leads) {
    return refuse(
        fmt::format("ca-cert.pem (with cert-chain.pem) does not lead to root-cert.pem: {}",
                    leads.error().message));
  }
  CertificateAuthority out(std::move(options), {signer, std::move(*key)}, roots.front());
  out.intermediates_ = std::move(intermediates);
  for (const tls::Certificate& root : roots) out.root_pem_ += WithNewline(root.ToPem());
  return out;
}

Result<std::vector<std::string>> CertificateAuthority::SignWorkload(const tls::PublicKey& key,
                                                                    const std::string& spiffe_uri,
                                                                    std::chrono::seconds requested,
                                                                    tls::Time now) const {
  if (requested.count() <= 0) requested = options_.default_ttl;
  const std::chrono::seconds life = std::min(requested, options_.max_ttl);
  tls::LeafTemplate leaf;
  leaf.key = key;
  leaf.names.uri = {spiffe_uri};
  leaf.not_before = std::max(now - kBackdate, signer_.certificate.not_before());
  leaf.not_after = std::min(now + life, signer_.certificate.not_after());
  QANAT_ASSIGN_OR_RETURN(const tls::Certificate certificate, tls::SignLeaf(signer_, leaf));
  std::vector<std::string> out = {WithNewline(certificate.ToPem())};
  out.insert(out.end(), intermediates_.begin(), intermediates_.end());
  out.push_back(root_pem_);
  return out;
}

Result<CertificateAuthority::Serving> CertificateAuthority::IssueServing(
    const std::vector<std::string>& dns, const std::vector<std::string>& ips, tls::Time now) const {
  QANAT_ASSIGN_OR_RETURN(const tls::PrivateKey key, tls::PrivateKey::GenerateP256());
  tls::LeafTemplate leaf;
  leaf.key = key.public_key();
  leaf.names.dns = dns;
  leaf.names.ip = ips;
  leaf.usage = tls::Usage::kServer;
  leaf.not_before = std::max(now - kBackdate, signer_.certificate.not_before());
  leaf.not_after = std::min<tls::Time>(now + kServingLife, signer_.certificate.not_after());
  QANAT_ASSIGN_OR_RETURN(const tls::Certificate certificate, tls::SignLeaf(signer_, leaf));
  std::string chain = WithNewline(certificate.ToPem());
  for (const std::string& pem : intermediates_) chain += pem;
  return Serving{key.ToPem(), chain + root_pem_};
}

}  // namespace qanat::controlplane
