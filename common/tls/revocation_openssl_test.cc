// SPDX-License-Identifier: Apache-2.0
// Revocation lists as CAs run with the openssl program write them: `openssl ca -gencrl`, and what
// `openssl crl` makes of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "common/tls/revocation.h"

namespace qanat::tls {
namespace {

constexpr char kConfig[] = R"(
[ca]
default_ca = plain
[plain]
new_certs_dir = .
database = index.txt
serial = serial
default_md = sha256
default_days = 30
policy = any
unique_subject = no
[numbered]
database = index.txt
default_md = sha256
crlnumber = crlnumber
crl_extensions = extensions
[extensions]
authorityKeyIdentifier = keyid
[any]
commonName = supplied
[req]
distinguished_name = none
x509_extensions = of_ca
[none]
[of_ca]
basicConstraints = critical, CA:true
subjectKeyIdentifier = hash
)";

class OpensslListTest : public ::testing::Test {
 protected:
  OpensslListTest() {
    char name[] = "/tmp/qopenssl-XXXXXX";
    dir_ = mkdtemp(name);
    std::ofstream(dir_ + "/ca.cnf") << kConfig;
    std::ofstream(dir_ + "/serial") << "00F001\n";  // a first byte that a sign bit makes longer
    std::ofstream(dir_ + "/crlnumber") << "01\n";
    std::ofstream(dir_ + "/index.txt");
  }
  ~OpensslListTest() override { std::filesystem::remove_all(dir_); }

  void Openssl(const std::string& arguments) {
    const std::string command =
        "cd " + dir_ + " && OPENSSL_CONF=ca.cnf openssl " + arguments + " >log 2>&1";
    ASSERT_EQ(std::system(command.c_str()), 0) << command << "\n" << Read("log");
  }
  std::string Read(const std::string& file) {
    std::stringstream text;
    text << std::ifstream(dir_ + "/" + file, std::ios::binary).rdbuf();
    return text.str();
  }
  void MakeCa(const std::string& key) {
    Openssl("req -x509 -newkey " + key +
            " -nodes -keyout key.pem -out ca.pem -days 30 -subj '/CN=Ünsere Root CA' -utf8");
  }
  Certificate Issue(const std::string& name) {
    Openssl("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -out " +
            name + ".csr -subj /CN=" + name);
    Openssl("ca -config ca.cnf -batch -notext -keyfile key.pem -cert ca.pem -in " + name +
            ".csr -out " + name + ".pem");
    return (*Certificate::ParsePem(Read(name + ".pem")))[0];
  }
  void Revoke(const std::string& name, const std::string& how = "") {
    Openssl("ca -config ca.cnf -keyfile key.pem -cert ca.pem -revoke " + name + ".pem " + how);
  }
  void Generate(const std::string& out, const std::string& how = "-crldays 30") {
    Openssl("ca -config ca.cnf -gencrl -keyfile key.pem -cert ca.pem -out " + out + " " + how);
  }
  // Taken, vouched for, and of its certificates just these.
  void Check(const std::string& text, size_t lists, const std::vector<Certificate>& revoked,
             const std::vector<Certificate>& good) {
    const auto list =
        RevocationList::Parse({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
    ASSERT_TRUE(list) << list.error().message;
    const Certificate ca = (*Certificate::ParsePem(Read("ca.pem")))[0];
    EXPECT_EQ((*list)->lists(), lists);
    const Status vouched = (*list)->CheckSignatures({&ca, 1});
    EXPECT_TRUE(vouched) << vouched.error().message;
    for (const Certificate& one : revoked) {
      const std::vector<Certificate> path{one, ca};
      EXPECT_TRUE((*list)->Revoked(path)) << one.subject();
    }
    for (const Certificate& one : good) {
      const std::vector<Certificate> path{one, ca};
      EXPECT_FALSE((*list)->Revoked(path)) << one.subject();
    }
  }
  bool HasVersion(const std::string& file, const std::string& version) {
    Openssl("crl -noout -text -in " + file);
    return Read("log").find("Version " + version) != std::string::npos;
  }

  std::string dir_;
};

TEST_F(OpensslListTest, OfBothVersionsAndAllForms) {
  MakeCa("ec -pkeyopt ec_paramgen_curve:P-256");
  const Certificate alice = Issue("alice"), bob = Issue("bob"), carol = Issue("carol");
  Generate("empty.pem");
  Check(Read("empty.pem"), 1, {}, {alice, bob, carol});
  Revoke("alice");
  Generate("v1.pem");  // no extension anywhere: the first version, which says no version
  ASSERT_TRUE(HasVersion("v1.pem", "1 "));
  Check(Read("v1.pem"), 1, {alice}, {bob, carol});
  Revoke("bob", "-crl_reason keyCompromise");
  Revoke("carol", "-crl_hold holdInstructionReject");
  Generate("v2.pem");
  ASSERT_TRUE(HasVersion("v2.pem", "2 "));
  Check(Read("v2.pem"), 1, {alice, bob, carol}, {});
  Generate("numbered.pem", "-name numbered -crlhours 1");
  Check(Read("numbered.pem"), 1, {alice, bob, carol}, {});
  Generate("late.pem", "-crl_nextupdate 20990101000000Z");  // GeneralizedTime
  Check(Read("late.pem"), 1, {alice, bob, carol}, {});

  Openssl("crl -in v1.pem -outform DER -out v1.der");
  Check(Read("v1.der"), 1, {alice}, {bob});
  Openssl("crl -in v2.pem -text -out text.pem");
  ASSERT_EQ(Read("text.pem").rfind("Certificate Revocation List", 0), 0u);
  Check(Read("text.pem"), 1, {alice, bob, carol}, {});
  const std::string together =
      Read("text.pem") + Read("v1.pem") + Read("ca.pem") + Read("text.pem");
  Check(together, 3, {alice, bob, carol}, {});
  std::string windows;
  for (const char c : together) windows += c == '\n' ? "\r\n" : std::string(1, c);
  Check(windows, 3, {alice, bob, carol}, {});
}

TEST_F(OpensslListTest, OfAnRsaCa) {
  MakeCa("rsa:2048");
  const Certificate alice = Issue("alice"), bob = Issue("bob");
  Revoke("alice");
  Generate("list.pem");
  Check(Read("list.pem"), 1, {alice}, {bob});
  Generate("pss.pem", "-crldays 1 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:-1");
  Check(Read("pss.pem"), 1, {alice}, {bob});
}

}  // namespace
}  // namespace qanat::tls
