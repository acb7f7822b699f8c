// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/ztunnel/boringssl_calls.h"

#include <openssl/bn.h>
#include <openssl/ec_key.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <atomic>
#include <mutex>

namespace qanat::ztunnel::test {
namespace {

// There is no other way between the library's callers and the test than globals.
std::atomic<int> contexts{0}, stores{0};

struct Keys {
  std::mutex mutex;
  std::vector<std::string> all;
};
Keys& AllKeys() {
  static Keys* keys = new Keys;
  return *keys;
}

}  // namespace

int ContextsMade() { return contexts; }
int RootStoresMade() { return stores; }
std::vector<std::string> PrivateKeysMade() {
  Keys& keys = AllKeys();
  std::lock_guard lock(keys.mutex);
  return keys.all;
}

// NOLINTBEGIN(bugprone-reserved-identifier): the linker wants these names.
extern "C" {

SSL_CTX* __real_qanat_SSL_CTX_new(const SSL_METHOD* method);
SSL_CTX* __wrap_qanat_SSL_CTX_new(const SSL_METHOD* method) {
  ++contexts;
  return __real_qanat_SSL_CTX_new(method);
}

X509_STORE* __real_qanat_X509_STORE_new();
X509_STORE* __wrap_qanat_X509_STORE_new() {
  ++stores;
  return __real_qanat_X509_STORE_new();
}

int __real_qanat_EC_KEY_generate_key(EC_KEY* key);
int __wrap_qanat_EC_KEY_generate_key(EC_KEY* key) {
  const int result = __real_qanat_EC_KEY_generate_key(key);
  std::string scalar(32, '\0');  // of P-256, as all keys of certificates are
  if (result == 1 && BN_bn2bin_padded(reinterpret_cast<uint8_t*>(scalar.data()), scalar.size(),
                                      EC_KEY_get0_private_key(key)) == 1) {
    Keys& keys = AllKeys();
    std::lock_guard lock(keys.mutex);
    keys.all.push_back(std::move(scalar));
  }
  return result;
}

}  // extern "C"
// NOLINTEND(bugprone-reserved-identifier)

}  // namespace qanat::ztunnel::test
