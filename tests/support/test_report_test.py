#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What tools/scripts/test_report.py reads out of ctest's JUnit files."""
import os
import subprocess
import sys
import tempfile
import unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "scripts", "test_report.py")
UP = """
   0.3 s  Kubernetes 1.34.4, {0}
   9.1 s  API server ready
  {1} s  cluster DNS ready
export KUBECONFIG=/x
"""


def case(name, seconds, output="", failed=False):
    failure = "<failure message=''/>" if failed else ""
    return f'<testcase name="{name}" time="{seconds}">{failure}<system-out>{output}</system-out></testcase>'


class TestReport(unittest.TestCase):
    def say(self, command, *cases):
        with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
            file.write(f"<testsuite>{''.join(cases)}</testsuite>")
            file.flush()
            done = subprocess.run([sys.executable, "-B", SCRIPT, command, file.name], capture_output=True, text=True)
            return done.stdout, done.returncode

    def test_how_long_clusters_took(self):
        mesh = case("kubernetes_mesh", 100, UP.format("from the cache", "21.4"))
        smoke = case("kubernetes_smoke", 100, UP.format("built", "1500.2") + UP.format("from the cache", "30.0"))
        self.assertEqual(self.say("cluster", mesh, smoke), (
            "    3 clusters, up in 21 to 1500 s; Kubernetes 1.34.4, built; Kubernetes 1.34.4, from the cache\n", 0))
        self.assertEqual(self.say("cluster", case("none", 1, "text")), ("", 0))

    def test_the_slowest_are_named(self):
        self.assertEqual(self.say("slow", case("a", 2.5), case("b", 7), case("c", 0.1))[0],
                         "    3 tests, 10 s in all; slowest: b 7.0 s, a 2.5 s\n")

    def test_what_may_run_again(self):
        self.assertEqual(self.say("again", case("a", 1, failed=True), case("b", 1)), ("a\n", 0))
        report = "==7==ERROR: AddressSanitizer: x"
        self.assertEqual(self.say("again", case("a", 1, report, failed=True))[1], 1)
        self.assertEqual(self.say("again", *(case(n, 1, failed=True) for n in "abcd"))[1], 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
