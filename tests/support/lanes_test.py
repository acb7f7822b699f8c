#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests that run side by side do not meet, what they leave is gone, and none of them is lost."""
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree as ET

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
LANES = os.path.join(ROOT, "tools/scripts/lanes.py")
# Each makes what the other makes too, and fails where that is already there.
MAKES = ("set -e; [ ! -e /tmp/same ]; touch /tmp/same; ip netns add same; mkdir /sys/fs/bpf/same; mkdir /run/qanat/same; "
         "mkdir $(awk '/ - cgroup2 / { print $5; exit }' /proc/self/mountinfo)/same; [ $(ip -o link | wc -l) = 1 ]; sleep 2")


class Lanes(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="qanat-lanes-test-", dir="/var/tmp")
        self.addCleanup(shutil.rmtree, self.folder)

    def run_of(self, tests, *arguments):
        """(status, output, {name: failed}) of a run of these tests: {name: command of a shell}."""
        with open(os.path.join(self.folder, "CTestTestfile.cmake"), "w") as file:
            for name, command in tests.items():
                file.write(f"add_test({name} bash -c [==[{command}]==])\nset_tests_properties({name} PROPERTIES LABELS some TIMEOUT 20)\n")
        results = os.path.join(self.folder, "out.xml")
        done = subprocess.run([sys.executable, "-B", LANES, "--test-dir", self.folder, "--output-on-failure", "--output-junit", results,
                               *arguments], capture_output=True, text=True, timeout=120)
        cases = ET.parse(results).iter("testcase") if os.path.exists(results) else ()
        return done.returncode, done.stdout + done.stderr, {case.get("name"): case.find("failure") is not None for case in cases}

    def test_side_by_side_and_apart(self):
        began = time.monotonic()
        status, output, cases = self.run_of({"a": MAKES, "b": MAKES, "c": MAKES, "d": MAKES, "other": "exit 1"}, "-R", "^[a-d]$")
        self.assertEqual((status, cases), (0, dict.fromkeys("abcd", False)), output)
        self.assertLess(time.monotonic() - began, 7.5, output)
        self.assertFalse(os.path.exists("/run/netns/same") or os.path.exists("/tmp/same"))

    def test_a_failure_is_told_with_its_output(self):
        status, output, cases = self.run_of({"good": "true", "bad": "echo because; false"}, "-L", "some")
        self.assertEqual((status, cases), (1, {"good": False, "bad": True}))
        self.assertIn("because", output)
        self.assertIn("failed: bad", output)

    def test_none_is_a_failure(self):
        self.assertNotEqual(self.run_of({"good": "true"}, "-R", "nothing")[0], 0)

    def test_what_a_test_leaves_is_ended(self):
        status, output, _ = self.run_of({"good": "sleep 300 >/dev/null 2>&1 & echo $! >%s/pid" % self.folder})
        self.assertEqual(status, 0, output)
        with open(os.path.join(self.folder, "pid")) as file:
            pid = int(file.read())
        try:
            with open(f"/proc/{pid}/stat") as file:
                self.assertIn(file.read().split()[2], "ZX")
        except FileNotFoundError:
            pass


if __name__ == "__main__":
    unittest.main(verbosity=2)
