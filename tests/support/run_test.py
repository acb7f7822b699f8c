#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""No step of ./run can fail unseen. In a folder of its own, where every program that it calls is a stub that
does nothing and notes its call, it succeeds; then each of these calls fails in turn, and so must the run,
without going on with what that step should have made."""
import os
import re
import shutil
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
# Programs of the machine that are no step of their own.
REAL = ("bash", "env", "sed", "awk", "grep", "tee", "tail", "cat", "mkdir", "rm", "dirname", "realpath", "nproc", "sleep")
STUBS = ("cmake", "ninja", "ctest", "python3", "apt-get", "npm")
SCRIPTS = ("tools/scripts/cleanup.sh", "tools/scripts/demo.sh", "tools/scripts/demo_kubernetes.sh", "tests/interop/envoy.sh")
# The reports about times, and the one for people at the end, decide nothing.
NO_STEP = ("test_report.py slow", "test_report.py cluster", "test_report.py failures")
NOTE = r'''
call="NAME $*"
echo "$call" >>"$CALLS"
case $call in *"$FAILS"*) exit 7 ;; esac
'''


class Run(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="qanat-run-")
        self.addCleanup(shutil.rmtree, self.folder)
        shutil.copy(os.path.join(ROOT, "run"), self.folder)
        os.mkdir(self.path("bin"))
        for name in REAL:
            os.symlink(shutil.which(name), self.path("bin", name))
        for name in STUBS:
            self.stub(f"bin/{name}", NOTE.replace("NAME", name))
        self.stub("bin/id", "echo 0")
        self.stub("bin/dpkg-query", "echo installed")
        for script in SCRIPTS:
            self.stub(script, NOTE.replace("NAME", script))
        self.write("tools/deps/packages.txt", "")
        self.write("tools/deps/lib.sh", "find_cargo() { :; }")
        self.write("tests/kubernetes/packages.txt", "")
        self.write("tests/kernels/packages.txt", "")

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def write(self, path, text):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        with open(self.path(path), "w") as file:
            file.write(text)

    def stub(self, path, text):
        self.write(path, f"#!{shutil.which('bash')}\n{text}\n")
        os.chmod(self.path(path), 0o755)

    def run_with(self, arguments, fails="no such call", **more):
        """(exit status, calls in their order, output); calls that contain `fails` fail. `more`: environment."""
        self.write("calls", "")
        done = subprocess.run([self.path("run"), *arguments], capture_output=True, text=True, timeout=60,
                              env={"PATH": self.path("bin"), "HOME": self.folder, "CALLS": self.path("calls"), "FAILS": fails, **more})
        with open(self.path("calls")) as file:
            return done.returncode, file.read().splitlines(), done.stdout + done.stderr

    def each_call_counts(self, *arguments, least):
        status, calls, output = self.run_with(arguments)
        self.assertEqual(status, 0, output)
        self.assertGreaterEqual(len(set(calls)), least, calls)
        for call in dict.fromkeys(calls):
            if any(name in call for name in NO_STEP):
                continue
            with self.subTest(fails=call):
                # Tests fail at their second try too, which names another file.
                status, _, output = self.run_with(arguments, call.split(".xml")[0].split("--output-junit ")[-1])
                self.assertNotEqual(status, 0, output)
                self.assertNotIn("All tests passed", output)

    def test_of_test(self):
        self.each_call_counts("test", "--nightly", "--kubernetes", least=20)

    def test_of_demo(self):
        self.each_call_counts("demo", least=3)
        self.each_call_counts("demo", "--kubernetes", least=5)

    def test_of_images(self):
        self.each_call_counts("images", least=3)

    def test_nothing_goes_on_with_old_programs(self):
        for failing in ("cmake --preset release", "ninja -C build/release"):
            _, calls, _ = self.run_with(["test"], failing)
            self.assertFalse([call for call in calls if "images/build.py" in call or "-L ^kubernetes" in call], calls)
        _, calls, _ = self.run_with(["test"], "images/build.py")
        self.assertFalse([call for call in calls if "-L ^kubernetes" in call], calls)

    def test_says_how_long_kubernetes_took(self):
        self.assertIn("Kubernetes is there", self.run_with(["test"])[2])
        self.assertIn("\n    from the cache\n", self.run_with(["test"])[2])
        self.stub("bin/python3", 'case "$*" in *" build --idle") echo "     built in 700 s: 137 MB" ;; esac')
        self.assertIn("built in 700 s", self.run_with(["test"])[2])

    def test_says_how_long_each_stage_took(self):
        self.stub("bin/python3", 'case "$*" in *results-netns.xml*) sleep 2 ;; esac')
        self.stub("bin/ctest", 'case "$*" in *results-tsan*) exit 7 ;; esac')
        started = time.monotonic()
        status, _, output = self.run_with(["test", "--nightly"])
        took = time.monotonic() - started
        self.assertEqual(status, 1)  # and all the same
        stages = re.findall(r"^ +(\d+) s  (.+)$", output, re.M)
        self.assertEqual([name for _, name in stages], [
            "packages and peers", "build asan", "unit", "netns", "fuzz", "kernels", "build release", "nightly", "build tsan", "tsan",
            "release build and images", "waiting for the build of Kubernetes", "kubernetes"], output)
        self.assertGreaterEqual(int(stages[3][0]), 2, output)
        self.assertLessEqual(sum(int(seconds) for seconds, _ in stages), took + 1, output)  # none has another's time
        output = self.run_with(["test", "--quick"])[2]
        self.assertEqual(re.findall(r"^ +\d+ s  (.+)$", output, re.M), ["packages and peers", "build asan", "unit", "netns"])

    def test_a_late_run_shows_the_core_and_says_so(self):
        """... and the others all of it. The shell counts on from the seconds that it is given."""
        for seconds, arguments, core in (("3001", [], True), ("3001", ["--kubernetes"], False), ("2400", [], False)):
            for fails, status in (("no such call", 0), ("results-unit", 1)):
                with self.subTest(seconds=seconds, arguments=arguments, fails=fails):
                    done, calls, output = self.run_with(["test", *arguments], fails, SECONDS=seconds)
                    self.assertEqual(done, status, output)
                    labels = [label for call in calls for label in re.findall(r"^ctest .* -L (\^kubernetes\S*)", call)]
                    self.assertEqual(labels, ["^kubernetes-core$" if core else "^kubernetes$"], calls)
                    self.assertEqual("on a cluster only the core" in output.splitlines()[-1], core, output)

    def test_a_test_that_fails_alone_again_is_a_failure(self):
        status, calls, output = self.run_with(["test"], "/build/asan/results-unit")  # of ctest, which gets the whole path
        self.assertEqual(status, 1)
        self.assertIn("results-unit-again.xml", "\n".join(calls))
        self.assertIn("some tests failed", output)
        self.assertTrue([call for call in calls if "-L ^kubernetes" in call], "the rest was left out")


if __name__ == "__main__":
    unittest.main(verbosity=2)
