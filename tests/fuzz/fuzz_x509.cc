// SPDX-License-Identifier: Apache-2.0
// Certificates, signing requests, tokens and key sets as an outsider may send them. The first byte
// picks the parser. Whatever parses must also stand being looked at.
#include <cstdint>
#include <string>
#include <string_view>

#include "common/tls/jwt.h"
#include "common/tls/spiffe.h"
#include "common/tls/x509.h"

using namespace qanat::tls;  // NOLINT: a fuzzer of this one namespace

namespace {

void LookAt(const Certificate& cert) {
  (void)cert.subject();
  (void)cert.issuer();
  (void)cert.serial();
  (void)cert.serial_hex();
  (void)cert.not_before();
  (void)cert.not_after();
  (void)cert.sans().ToString();
  (void)cert.is_ca();
  (void)cert.SelfSigned();
  (void)cert.public_key().Sha256OfSpki();
  (void)VerifyChain({cert}, {cert}, Purpose::kClientAuth,
                    Time(std::chrono::seconds(1'700'000'000)));
}

const JwtKeySet& Keys() {
  static const JwtKeySet keys = *JwtKeySet::Parse(
      R"({"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",)"
      R"("y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]})");
  return keys;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  switch (data[0] % 7) {
    case 0:
      if (auto cert = Certificate::FromDer({data + 1, size - 1})) LookAt(*cert);
      break;
    case 1:
      if (auto chain = Certificate::ParsePem(text)) {
        for (const Certificate& cert : *chain) LookAt(cert);
      }
      break;
    case 2:
      if (auto csr = ParseCsr(text)) (void)csr->sans.ToString();
      break;
    case 3: (void)VerifyJwt(text, Keys()); break;
    case 4: (void)JwtKeySet::Parse(text); break;
    case 5: (void)ParseSpiffe(text); break;
    case 6: {
      // A request in DER, so that the fuzzer need not find base64.
      std::string pem = "-----BEGIN CERTIFICATE REQUEST-----\n";
      pem += Base64Encode(text);
      pem += "\n-----END CERTIFICATE REQUEST-----\n";
      (void)ParseCsr(pem);
      break;
    }
  }
  return 0;
}
