#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ztunnel/README.md tells of each variable of our own that the node proxy reads, and of no other."""
import os
import re
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
# What the node proxy's configuration is read by; tests and other programs have variables of their own.
READERS = ("ztunnel", "common/grpc", "common/takeover")


def code():
    for folder in READERS:
        for at, _, names in os.walk(os.path.join(ROOT, folder)):
            for name in names:
                if name.endswith(".cc") and not name.endswith("_test.cc"):
                    with open(os.path.join(at, name), encoding="utf-8") as file:
                        yield file.read()


class Settings(unittest.TestCase):
    def test_each_is_told_and_no_other(self):
        read = {name for text in code() for name in re.findall(r'"(QANAT_[A-Z_]+)"', text)}
        self.assertGreater(len(read), 15)
        with open(os.path.join(ROOT, "ztunnel/README.md"), encoding="utf-8") as file:
            table = file.read().split("## Settings")[1]
        told = {name for row in re.findall(r"^\|([^|]*)\|", table, re.M) for name in re.findall(r"QANAT_[A-Z_]+", row)}
        self.assertEqual(told, read)


if __name__ == "__main__":
    unittest.main()
