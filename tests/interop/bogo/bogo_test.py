# SPDX-License-Identifier: Apache-2.0
"""BoGo, BoringSSL's own conformance runner (a TLS stack in Go that can misbehave in a thousand ways), against our
TLS layer: shim.cc. config.json has what is not run, with the reason, and what we say where BoringSSL says something
else. A case that needs a flag the shim does not know counts as unimplemented; none of the others may fail."""
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.realpath(__file__))
DEPS = os.path.join(HERE, "..", "..", "..", "tools", "deps")
sys.path.insert(0, os.path.join(HERE, "..", "..", "kubernetes"))
from testbed.build import CACHE, find_go, go_environment  # noqa: E402
from testbed.tools import read, run  # noqa: E402

# Below: something keeps most cases from being run at all.
FLOOR = 600
# The crate leaves the runner's private keys out; any will do. Name -> openssl's words.
KEYS = {"rsa_1024": ("RSA", "rsa_keygen_bits:1024"), "rsa_2048": ("RSA", "rsa_keygen_bits:2048"),
        "ecdsa_p256": ("EC", "ec_paramgen_curve:P-256"), "ecdsa_p384": ("EC", "ec_paramgen_curve:P-384"),
        "ecdsa_p521": ("EC", "ec_paramgen_curve:P-521"), "channel_id": ("EC", "ec_paramgen_curve:P-256"),
        "ed25519": ("ED25519", None)}


def build(source, program):
    """BoringSSL's go.mod and go.sum pin all that the runner needs."""
    folder = os.path.join(source, "ssl", "test", "runner")
    for name, (algorithm, option) in KEYS.items():
        run("openssl", "genpkey", "-algorithm", algorithm, *(("-pkeyopt", option) if option else ()),
            "-out", os.path.join(folder, f"{name}_key.pem"))
    run(find_go([source]), "test", "-c", "-trimpath", "-o", program + ".new", "./ssl/test/runner", cwd=source,
        env=go_environment())
    os.rename(program + ".new", program)


def runner():
    """The program, built when it is not in the cache, from the very source that our BoringSSL is built from."""
    digest = hashlib.sha256()
    for file in (os.path.join(DEPS, "boringssl_version.sh"), os.path.realpath(__file__)):
        digest.update(read(file).encode())
    program = os.path.join(CACHE, f"bogo-{digest.hexdigest()[:12]}")
    os.makedirs(CACHE, exist_ok=True)
    with open(program + ".lock", "w") as lock, tempfile.TemporaryDirectory(dir=CACHE) as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(program):
            source = subprocess.run(["bash", os.path.join(DEPS, "boringssl_source.sh"), folder], check=True, text=True,
                                    stdout=subprocess.PIPE).stdout.strip()
            build(source, program)
    return program


class BogoTest(unittest.TestCase):
    def check(self, *extra):
        program = runner()
        with tempfile.TemporaryDirectory() as folder:
            report = os.path.join(folder, "report.json")
            done = subprocess.run([program, "-shim-path", os.environ["QANAT_BOGO_SHIM"], "-num-workers", "4",
                                   "-pipe=false", "-shim-config", os.path.join(HERE, "config.json"),
                                   "-allow-unimplemented", "-json-output", report, *extra], cwd=folder, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=540)
            self.assertTrue(os.path.exists(report), done.stdout[-4000:])
            tests = json.loads(read(report))["tests"]
        # The runner's own line: failed, unimplemented, done, started, all.
        counts = re.findall(r"(\d+)/(\d+)/(\d+)/(\d+)/(\d+)", done.stdout)[-1]
        failed, unimplemented, _, started, total = map(int, counts)
        passed = sum(test["actual"] == "PASS" for test in tests.values())
        print(f"bogo: {total} cases, {passed} passed, {failed} failed, {total - started} disabled, "
              f"{unimplemented} unimplemented")
        why = "\n".join(f"{name}: {test['error']}" for name, test in sorted(tests.items()) if test["actual"] == "FAIL")
        self.assertFalse(why, why)
        self.assertEqual(done.returncode, 0, done.stdout[-4000:])
        self.assertGreaterEqual(passed, FLOOR)

    def test_as_it_is(self):
        self.check()

    def test_handed_over(self):
        """Where TLS 1.3 is spoken, to another record layer after the handshake and each answer."""
        self.check("-shim-extra-flags", "-hand-over")


if __name__ == "__main__":
    if sys.argv[1:] == ["build"]:
        runner()
    else:
        unittest.main(verbosity=2)
