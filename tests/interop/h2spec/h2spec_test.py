# SPDX-License-Identifier: Apache-2.0
"""h2spec, a conformance test of HTTP/2 servers, against a server session of ours, twice. As it is: all its
cases, the strict ones too; its requests are GET and POST, which a tunnel's server refuses at once. And with
CONNECT in their place, for what needs a stream that stays open. What it may find is listed with the reason;
what is listed and not found fails as well."""
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "kubernetes"))
from testbed.build import CACHE, find_go, go_environment  # noqa: E402
from testbed.tools import read, run  # noqa: E402

MODULE = "github.com/summerwind/h2spec"
# Sections that are run with CONNECT, too.
TUNNELS = ("generic/2", "http2/5.1", "http2/6.5.3", "http2/6.9", "http2/8.1/1", "http2/8.1.2.1/3")
ANSWERED = "the request was answered and is over: see the run with CONNECT"
# Otherwise: what the case asks for and why it is not ours to do.
AS_IT_IS = {
    ("generic/2", "Sends a PRIORITY frame on half-closed (remote) stream"): ANSWERED,
    ("generic/2", "Sends a WINDOW_UPDATE frame on half-closed (remote) stream"): ANSWERED,
    ("http2/5.1", "closed: Sends a DATA frame after sending RST_STREAM frame"): ANSWERED,
    ("http2/5.1", "closed: Sends a HEADERS frame after sending RST_STREAM frame"): ANSWERED,
    ("http2/5.1.2",
     "Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded"): ANSWERED,
    ("http2/6.5.3", "Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE"): ANSWERED,
    ("http2/6.9", "Sends a WINDOW_UPDATE frame with a flow control window increment of 0 on a stream"): ANSWERED,
    ("http2/6.9.1", "Sends SETTINGS frame to set the initial window size to 1 and sends HEADERS frame"): ANSWERED,
    ("http2/6.9.1", "Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1 on a "
     "stream"): ANSWERED,
    ("http2/6.9.2", "Changes SETTINGS_INITIAL_WINDOW_SIZE after sending HEADERS frame"): ANSWERED,
    ("http2/6.9.2", "Sends a SETTINGS frame for window size to be negative"): ANSWERED,
    ("http2/8.1", "Sends a second HEADERS frame without the END_STREAM flag"): ANSWERED,
    ("http2/8.1.2.1", "Sends a HEADERS frame that contains a pseudo-header field as trailers"): ANSWERED,
    ("http2/4.2", "Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE"):
        "RFC 9113 4.2: the limit is what the receiver announced; we announce 1 MiB, h2spec sends 20 KB for any",
    ("http2/5.3.1", "Sends PRIORITY frame that depend on itself"):
        "RFC 9113 5.3.2 and 6.3 have done away with the dependencies of RFC 7540 5.3: the frame says nothing any more",
    ("http2/8.1.2.6", 'Sends a HEADERS frame with the "content-length" header field which does not equal the DATA frame '
     'payload length'):
        "RFC 9113 8.1: a server may answer before the whole request; a tunnel has no content (RFC 9110 9.3.6)",
    ("http2/8.1.2.6", 'Sends a HEADERS frame with the "content-length" header field which does not equal the sum of the '
     'multiple DATA frames payload length'):
        "RFC 9113 8.1: a server may answer before the whole request; a tunnel has no content (RFC 9110 9.3.6)",
}


def say_connect(text):
    """A file of h2spec with CONNECT in place of its requests."""
    text = text.replace('headers[0].Value = "POST"', 'headers[0].Value = "CONNECT"')
    text = text.replace('HeaderField(":method", "GET"),\n\t\tHeaderField(":scheme", scheme),\n'
                        '\t\tHeaderField(":path", c.Path),\n', 'HeaderField(":method", "CONNECT"),\n')
    text = re.sub(r"\tvar scheme, authority string", "\tvar authority string", text)
    return re.sub(r"\t\tscheme = .*\n", "", text)


def change(module, folder):
    """The build in `folder` takes a changed copy in place of the module, and all else as pinned."""
    copy = os.path.join(folder, "h2spec")
    shutil.copytree(module, copy)
    for at, _, names in os.walk(copy):
        os.chmod(at, 0o755)
        for name in names:
            file = os.path.join(at, name)
            os.chmod(file, 0o644)
            text = read(file) if name.endswith(".go") else ""
            if say_connect(text) != text:
                with open(file, "w") as f:
                    f.write(say_connect(text))
    with open(os.path.join(copy, "go.mod"), "w") as f:
        f.write(f"module {MODULE}\n")
    with open(os.path.join(folder, "go.mod"), "a") as f:
        f.write(f"\nreplace {MODULE} => ./h2spec\n")


def h2spec(connect):
    """The program, built when it is not in the cache: its module and all that it needs are pinned by go.sum."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "h2spec_test.py"):
        digest.update(read(os.path.join(HERE, name)).encode())
    program = os.path.join(CACHE, f"h2spec{'-connect' if connect else ''}-{digest.hexdigest()[:12]}")
    os.makedirs(CACHE, exist_ok=True)
    with open(program + ".lock", "w") as lock, tempfile.TemporaryDirectory() as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(program):
            for name in ("go.mod", "go.sum"):
                shutil.copy(os.path.join(HERE, name), folder)
            said = json.loads(run(find_go(), "mod", "download", "-json", MODULE, cwd=folder, env=go_environment()))
            if connect:
                change(said["Dir"], folder)
            run(find_go(), "build", "-trimpath", "-o", program + ".new", MODULE + "/cmd/h2spec", cwd=folder,
                env=go_environment())
            os.rename(program + ".new", program)
    return program


class H2specTest(unittest.TestCase):
    def ask(self, program, *arguments):
        """(section, case) -> "" or what was wrong."""
        log = tempfile.TemporaryFile("w+")
        self.addCleanup(log.close)
        server = subprocess.Popen([os.environ["QANAT_H2SPEC_SERVER"]], stdout=subprocess.PIPE, stderr=log, text=True)
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        port = server.stdout.readline().strip()
        with tempfile.TemporaryDirectory() as folder:
            report = os.path.join(folder, "report.xml")
            # Where nothing is the right answer, the time limit is waited for.
            done = subprocess.run([program, "-p", port, "-S", "-o", "5", "-j", report, *arguments],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280)
            log.seek(0)
            self.assertIsNone(server.poll(), f"the server ended: {log.read()[-4000:]}")
            self.assertTrue(os.path.exists(report), done.stdout)
            tree = xml.parse(report)
        results = {}
        for case in tree.iter("testcase"):
            bad = case.find("failure") if case.find("failure") is not None else case.find("error")
            skipped = case.find("skipped") is not None
            results[case.get("package"), case.get("classname")] = \
                "".join(bad.itertext()) if bad is not None else "skipped" if skipped else ""
        return results

    def check(self, results, accepted):
        found = {name for name, why in results.items() if why}
        print(f"h2spec: {len(results)} cases, {len(results) - len(found)} passed")
        unexpected = "\n".join(f"{name}: {results[name]}" for name in sorted(found - accepted.keys()))
        self.assertFalse(unexpected, unexpected)
        ours = {name for name, why in accepted.items() if why is not ANSWERED}
        self.assertFalse(ours - found, "these pass, and are still in the list")

    def test_as_it_is(self):
        results = self.ask(h2spec(connect=False))
        self.assertEqual(len(results), 146)
        self.check(results, AS_IT_IS)

    def test_with_tunnels(self):
        results = self.ask(h2spec(connect=True), *TUNNELS)
        answered = {name for name, why in AS_IT_IS.items() if why is ANSWERED}
        self.assertFalse(answered - results.keys(), "not among the sections that are run with CONNECT")
        self.check(results, {})


if __name__ == "__main__":
    if sys.argv[1:] == ["build"]:
        h2spec(connect=False)
        h2spec(connect=True)
    else:
        unittest.main(verbosity=2)
