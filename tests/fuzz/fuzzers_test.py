#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every fuzzer of this folder is built, begins with inputs of its own, and says what it is for; and every
kind of outside bytes that the node proxy reads has one."""
import os
import re
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
# What comes from outside -> the fuzzer that reads it.
READ = {"HTTP/2 of a client": "h2_server", "HTTP/2 of a server": "h2_client", "two sessions in any order": "h2_pair",
        "TLS records": "tls_records", "certificates": "x509", "revocation lists": "crl", "the saved mesh state": "state_journal",
        "the process before": "takeover", "what it hands over": "handover",
        "the node agent": "zds_client", "the node proxy": "zds", "DNS": "dns", "PROXY headers": "proxy_header", "workloads": "address",
        "policies": "authorization", "xDS": "xds_delta", "baggage and forwarded headers": "headers", "the local file": "local_config",
        "SOCKS": "socks", "a pod's DNS settings": "dns_settings", "the admin port": "admin"}


def text_of(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return file.read()


class Fuzzers(unittest.TestCase):
    def setUp(self):
        self.names = sorted(f[5:-3] for f in os.listdir(HERE) if f.startswith("fuzz_") and f.endswith(".cc"))
        self.built = text_of("CMakeLists.txt")

    def test_each_is_built_and_has_a_corpus(self):
        for name in self.names:
            call = re.search(rf"qanat_fuzzer\(fuzz_{name}\s[^)]*\)", self.built)
            self.assertTrue(call, f"fuzz_{name}.cc is not in CMakeLists.txt")
            self.assertRegex(call[0], rf"CORPUS\s+corpus/{name}\b")
            corpus = os.path.join(HERE, "corpus", name)
            self.assertTrue(os.path.isdir(corpus) and os.listdir(corpus), f"corpus/{name} is empty")

    def test_each_says_what_it_is_for(self):
        for name in self.names:
            self.assertRegex(text_of(f"fuzz_{name}.cc").splitlines()[1], r"^// \S", f"fuzz_{name}.cc: `./run fuzz` shows its second line")

    def test_all_outside_bytes_have_one(self):
        for what, name in READ.items():
            self.assertIn(name, self.names, what)


if __name__ == "__main__":
    unittest.main()
