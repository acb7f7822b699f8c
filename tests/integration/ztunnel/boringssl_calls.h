// SPDX-License-Identifier: Apache-2.0
// What this whole process has asked of BoringSSL. The linker puts these between the callers and the
// library (--wrap, CMakeLists.txt): the programs themselves know nothing of it. Any thread.
#pragma once

#include <string>
#include <vector>

namespace qanat::ztunnel::test {

int ContextsMade();    // SSL_CTX
int RootStoresMade();  // X509_STORE
// Each EC key that was generated since the start: its scalar, big endian.
std::vector<std::string> PrivateKeysMade();

}  // namespace qanat::ztunnel::test
