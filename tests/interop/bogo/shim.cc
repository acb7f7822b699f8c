// SPDX-License-Identifier: Apache-2.0
// One connection of our TLS layer, as the runner's flags want it: connects to the runner, says
// which shim it is, shakes hands as client or server and echoes. Ends with 0, with 1 and the error
// on stderr, or with 89 where a flag is not known.
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "common/tls/tls_transport.h"
#include "tests/interop/bogo/echo.h"
#include "tests/interop/bogo/flags.h"

namespace {

using namespace qanat;  // NOLINT: a program of one page

constexpr int kUnimplemented = 89;

std::string ReadFile(const std::string& name) {
  std::ostringstream out;
  if (!name.empty()) out << std::ifstream(name).rdbuf();
  return out.str();
}

Result<Fd> Connect(const bogo::Flags& flags) {
  Fd fd(::socket(flags.ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_addr = in6addr_loopback;
  six.sin6_port = htons(flags.port);
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  four.sin_port = htons(flags.port);
  const int connected = flags.ipv6
                            ? ::connect(fd.get(), reinterpret_cast<sockaddr*>(&six), sizeof six)
                            : ::connect(fd.get(), reinterpret_cast<sockaddr*>(&four), sizeof four);
  std::array<uint8_t, 8> id;
  for (size_t i = 0; i < id.size(); ++i) id[i] = static_cast<uint8_t>(flags.shim_id >> (8 * i));
  if (connected != 0 || ::write(fd.get(), id.data(), id.size()) != ssize_t{id.size()} ||
      ::fcntl(fd.get(), F_SETFL, O_NONBLOCK) != 0) {
    return Fail(Code::kUnavailable, "the runner cannot be reached");
  }
  return fd;
}

// A close with unread input would be a RST, which overtakes the alert that the runner waits for.
void Drain(Fd fd) {
  ::shutdown(fd.get(), SHUT_WR);
  ::fcntl(fd.get(), F_SETFL, 0);
  std::array<uint8_t, 16384> discard;
  while (::read(fd.get(), discard.data(), discard.size()) > 0) {
  }
}

// BoringSSL's reason is in brackets with us, and in colons where the runner looks for it.
std::string AsBoringSsl(std::string message) {
  for (char& c : message) {
    if (c == '[' || c == ']') c = ':';
  }
  return message;
}

class Shim {
 public:
  explicit Shim(bogo::Flags flags) : flags_(std::move(flags)) {}

  Status Run() {
    tls::ContextOptions options;
    options.alpn.clear();
    if (!flags_.alpn.empty()) options.alpn = {flags_.alpn};
    options.allow_tls12 = flags_.min_version < 772;
    QANAT_ASSIGN_OR_RETURN(auto context, tls::TlsContext::FromPem(
                                             ReadFile(flags_.cert_file), ReadFile(flags_.key_file),
                                             ReadFile(flags_.trust_cert), options));
    QANAT_ASSIGN_OR_RETURN(Fd fd, Connect(flags_));
    const Fd same(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
    tls::HandshakeOptions how;
    how.role = flags_.server ? tls::Role::kServer : tls::Role::kClient;
    how.peer.names = {"test", flags_.host_name.empty() ? "test" : flags_.host_name};
    how.peer.client_certificate = tls::PeerPolicy::ClientCertificate::kNone;
    how.server_name = flags_.host_name;
    how.timeout = std::chrono::seconds(60);  // the runner's own is shorter
    const tls::TlsHandshake handshake(net::MakeSocketTransport(loop_, std::move(fd)), context, how,
                                      [this](auto result) { Established(std::move(result)); });
    loop_.Run();
    echo_.reset();
    Drain(Fd(::fcntl(same.get(), F_DUPFD_CLOEXEC, 0)));
    return std::move(outcome_);
  }

 private:
  void Established(Result<tls::TlsConnection> result) {
    if (!result) return Over(Fail(std::move(result).error()));
    const tls::PeerInfo& peer = result->peer;
    const int version = peer.version == "TLSv1.3" ? 772 : 771;
    if (flags_.expect_version != 0 && flags_.expect_version != version) {
      return Over(Fail(Code::kInternal, "the version is " + peer.version));
    }
    if (!flags_.expect_alpn.empty() && flags_.expect_alpn != peer.alpn) {
      return Over(Fail(Code::kInternal, "the protocol is \"" + peer.alpn + "\""));
    }
    echo_ = std::make_unique<bogo::Echo>(std::move(result->transport), flags_,
                                         [this](Status status) { Over(std::move(status)); });
    echo_->Start();
  }
  void Over(Status status) {
    outcome_ = std::move(status);
    loop_.Stop();
  }

  const bogo::Flags flags_;
  event::EventLoop loop_;
  std::unique_ptr<bogo::Echo> echo_;
  Status outcome_;
};

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  const auto flags = bogo::ParseFlags(argc, argv);
  if (!flags) return kUnimplemented;
  if (flags->handshaker_asked) {
    fmt::print("No\n");
    return 0;
  }
  const Status status = Shim(*flags).Run();
  if (!status) fmt::print(stderr, "{}\n", AsBoringSsl(status.error().message));
  fmt::print(stderr, "--- DONE ---\n");  // what a sanitizer says after this is an error
  return status ? 0 : 1;
}
