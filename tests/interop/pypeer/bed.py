# SPDX-License-Identifier: Apache-2.0
"""The bed: a node's namespace with a bridge, pods on it, the peer's control plane, authority and node
agent, and the real `qanat-ztunnel` ($QANAT_BIN_DIR) among them. Everything is named after this process
and goes away with it. A report of a sanitizer, an exit code, or a violation of a protocol that one of
the peers saw fails the test that took the bed down."""
import atexit
import functools
import http.client
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path.insert(0, os.path.join(ROOT, "tests/support"))
sys.path.insert(0, HERE)
import ads
import ca
import certs
import grpc
import netns
import reports
import tls
import zds

BIN = os.environ.get("QANAT_BIN_DIR", os.path.join(ROOT, "build/asan/bin"))
TRUST = "spiffe://cluster.local"
PEER = f"{TRUST}/ns/far/sa/peer"


def until(what, look, seconds=60):
    """Waits until look() gives something true; the last exception tells why it did not. The last look begins after
    the deadline: a machine that stood still for so long costs no test."""
    deadline, last, over = time.monotonic() + seconds, None, False
    while not over:
        over = time.monotonic() >= deadline
        try:
            if found := look():
                return found
            last = found
        except Exception as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s; last: {last!r}")


class Bed:
    count = 0

    def __init__(self, pods=("client", "server"), auto=True, environment=None, files=None):
        Bed.count += 1
        self.node = f"qpp{os.getpid()}x{Bed.count}"
        self.folder, self.pods = tempfile.mkdtemp(prefix="qanat-pypeer-"), {}
        self.program, self.environment, self.programs = None, environment or {}, 0
        self.files = files  # descriptors that the program may have
        atexit.register(self.discard)
        netns.make_node(self.node)
        for last, name in enumerate(pods, 2):
            self.pods[name] = netns.Pod(self.node, name, last)
            self.pods[name].capture()
        self.root = certs.Authority(self.folder)
        self.authority = certs.Authority(self.folder, "issuing", self.root)
        cert, key = self.root.issue("controlplane", ["DNS:localhost", "IP:127.0.0.1"], "serverAuth")
        self.ads, self.ca = ads.Ads(auto), ca.Ca(self.authority, self.root)
        context = tls.server_context(cert, key)
        # Not ephemeral ports: while a server is away, a connection of the proxy's could get one of those.
        self.xds_server = grpc.Server(self.node, context, {ads.PATH: self.ads.serve}, port=15010)
        self.ca_server = grpc.Server(self.node, context, {ca.PATH: self.ca.serve}, port=15012)
        self.ads.settle = self.settle
        self.agent = zds.Agent(os.path.join(self.folder, "zds.sock"))
        self.token = certs.Authority.write(os.path.join(self.folder, "token"), "first-token")
        self.closers = []

    def peer(self, last=9):
        """The namespace in which the foreign peer stands; nothing is captured there."""
        self.pods["peer"] = netns.Pod(self.node, "peer", last)
        return self.pods["peer"]

    # -- the program --------------------------------------------------------------------------
    def start(self, **more):
        self.programs += 1
        self.log = os.path.join(self.folder, f"ztunnel-{self.programs}.log")
        environment = {
            **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS") or k in ("PATH", "HOME")},
            "XDS_ADDRESS": f"https://localhost:{self.xds_server.port}", "CA_ADDRESS": f"https://localhost:{self.ca_server.port}",
            "XDS_ROOT_CA": self.root.cert, "CA_ROOT_CA": self.root.cert, "AUTH_TOKEN": self.token, "INPOD_UDS": self.agent.path,
            "NODE_NAME": "node-1", "POD_NAME": "ztunnel-abcde", "POD_NAMESPACE": "mesh-system", "INSTANCE_IP": "10.77.0.1",
            "CLUSTER_ID": "Kubernetes", "ISTIO_META_COLOUR": "blue", "ISTIO_METAJSON_NESTED": '{"a": {"b": [1, true, "c"]}}',
            "RUST_LOG": "info", **self.environment, **more}
        with open(self.log, "wb") as log:
            self.program = subprocess.Popen(["ip", "netns", "exec", self.node, os.path.join(BIN, "qanat-ztunnel"), "proxy", "ztunnel"],
                                            stdout=log, stderr=log, env=environment, cwd=self.folder, preexec_fn=self.limit)
        return self

    def limit(self):
        if self.files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.files, self.files))

    def enrol(self, *names, session=None):
        """Hands these pods (all but the peer's) over as a snapshot."""
        self.session = session or self.agent.accept()
        if not session:
            self.session.hello()
        for name in names or [n for n in self.pods if n != "peer"]:
            if error := self.session.add(f"uid-{name}", name, "near", name, self.pods[name].name):
                raise AssertionError(f"{name} was refused: {error}")
        if error := self.session.snapshot():
            raise AssertionError(f"the snapshot was refused: {error}")

    def stop(self, how=signal.SIGTERM):
        """The exit code. The log is searched for reports."""
        if not self.program:
            return 0
        if self.program.poll() is None:
            self.program.send_signal(how)
        try:
            code = self.program.wait(60)
        except subprocess.TimeoutExpired:
            self.program.kill()
            self.program.wait()
            code = "none within 60 s"
        self.program = None
        return code

    def logged(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def down(self):
        problems = [f"ztunnel ended with {code}"] if (code := self.stop()) else []
        for number in range(1, self.programs + 1):
            with open(os.path.join(self.folder, f"ztunnel-{number}.log"), errors="replace") as f:
                if report := reports.find(f.read()):
                    problems.append(report)
        problems += self.ads.violations + self.ca.violations
        for peer in (self.xds_server, self.ca_server, *(c for c in self.closers if hasattr(c, "problems"))):
            problems += peer.problems()
        tail = self.logged()[-3000:] if problems and self.programs else ""
        self.discard()
        if problems:
            raise AssertionError("\n".join(problems) + "\n--- log\n" + tail)

    def discard(self):
        if self.program:
            self.program.kill()
            self.program.wait()
            self.program = None
        for closer in [*self.closers, self.xds_server, self.ca_server, self.agent] if self.folder else []:
            try:
                closer.close()
            except OSError:
                pass
        for name in [self.node, *(pod.name for pod in self.pods.values())]:
            if os.path.exists(f"/run/netns/{name}"):
                subprocess.run(["ip", "netns", "del", name], check=False)
        if self.folder and not os.environ.get("QANAT_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = None

    # -- looking ------------------------------------------------------------------------------
    def get(self, port, path):
        """(status, text) of a GET at the program's own endpoints."""

        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.sock = netns.connect(self.node, "127.0.0.1", port)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def settle(self):
        """Returns when the threads that carry connections know what the main thread knows: a dump asks each of
        them, after what it was told before."""
        try:
            self.get(15000, "/config_dump")
        except OSError:
            time.sleep(1)  # the program is away or its admin port is another

    def ready(self):
        return self.get(15021, "/healthz/ready")[0] == 200

    def dump(self):
        return json.loads(self.get(15000, "/config_dump")[1])

    def listens(self, pod, port=15008):
        """Whether somebody listens there, asked without connecting."""
        out = netns.run(["ip", "netns", "exec", self.pods[pod].name, "cat", "/proc/net/tcp", "/proc/net/tcp6"])
        return bool(re.search(rf":{port:04X} \S+:0000 0A ", out))


class Case(unittest.TestCase):
    """Tells what the program logged when a test fails."""
    bed = None

    def __init_subclass__(cls, **more):
        super().__init_subclass__(**more)
        for name, test in list(vars(cls).items()):
            if name.startswith("test"):
                setattr(cls, name, cls.with_log(test))

    @staticmethod
    def with_log(test):
        @functools.wraps(test)
        def run(self):
            try:
                test(self)
            except Exception as error:
                if self.bed and self.bed.programs:
                    error.add_note("--- ztunnel's log\n" + self.bed.logged()[-2500:])
                raise
        return run

    def use(self, bed):
        """A bed of this test alone."""
        self.bed = bed
        self.addCleanup(bed.down)
        return bed
