#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Who may talk to whom: allow, deny, default deny, STRICT, live changes, reused addresses."""
import os
import time
import unittest

from bed import MeshCase, connect, outcome
from fixture import APPS, NAMESPACES, authorization, peer_authentication, pod

DENIED = ("refused", "reset", "closed")


def hold_open(host, port, opened, over):
    """Sends a byte every 20 ms until the file `over` is there, and writes the file `opened` after the first. Returns
    after how long the connection was cut, or None."""
    start = time.monotonic()
    with connect(host, port, 50) as sock:
        while not os.path.exists(over):
            try:
                sock.sendall(b"x")
                if sock.recv(1) == b"":
                    return time.monotonic() - start
            except TimeoutError:
                raise  # silence is no cut
            except OSError:
                return time.monotonic() - start
            if not os.path.exists(opened):
                open(opened, "w").close()
            time.sleep(0.02)
    return None


class Policy(MeshCase):
    files = {"base.yaml": NAMESPACES + "---\n" + APPS}

    def setUp(self):
        self.files = []

    def tearDown(self):
        for file in self.files:
            self.mesh.remove(file)
        for source in ("mesh/client", "plain/outsider"):
            self.becomes(source, "mesh/far", "ok")
            self.becomes(source, "mesh/near", "ok")

    def apply(self, file, text):
        self.mesh.write(file, text)
        if file not in self.files:
            self.files.append(file)

    def try_(self, source, target, port=9000):
        return self.mesh.call(source, outcome, self.mesh.ip(target), port)

    def becomes(self, source, target, want, port=9000):
        want = want if isinstance(want, tuple) else (want,)
        self.mesh.until(f"{source} -> {target}:{port} becomes {want}",
                        lambda: self.try_(source, target, port), lambda seen: seen in want)

    def test_default_deny_then_allow_by_principal_and_namespace(self):
        self.apply("deny-all.yaml", authorization("deny-all", "{}"))
        for target in ("mesh/near", "mesh/far"):
            self.becomes("mesh/client", target, DENIED)
            self.becomes("plain/outsider", target, DENIED)
        self.apply("allow.yaml", authorization("allow-client", """
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/client"]}}]
    to: [{operation: {ports: ["9000"]}}]
"""))
        for target in ("mesh/near", "mesh/far"):
            self.becomes("mesh/client", target, "ok")
            self.assertIn(self.try_("mesh/client", target, 9001), DENIED, "another port")
            self.assertIn(self.try_("plain/outsider", target), DENIED, "no identity")
        self.apply("allow.yaml", authorization("allow-client", """
  action: ALLOW
  rules:
  - from: [{source: {namespaces: ["elsewhere"]}}]
"""))
        for target in ("mesh/near", "mesh/far"):
            self.becomes("mesh/client", target, DENIED)

    def test_deny_wins(self):
        self.apply("allow.yaml", authorization("allow-all", "\n  rules: [{}]\n"))
        self.apply("deny.yaml", authorization("deny-client", """
  action: DENY
  selector: {matchLabels: {app: far}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/client"]}}]
"""))
        self.becomes("mesh/client", "mesh/far", DENIED)
        self.assertEqual(self.try_("mesh/client", "mesh/near"), "ok", "the selector names far only")
        self.assertEqual(self.try_("mesh/near", "mesh/far"), "ok", "another identity")

    def test_strict_and_permissive(self):
        self.assertEqual(self.try_("plain/outsider", "mesh/far"), "ok", "permissive by default")
        self.apply("pa.yaml", peer_authentication("STRICT"))
        for target in ("mesh/near", "mesh/far"):
            self.becomes("plain/outsider", target, DENIED)
            self.assertEqual(self.try_("mesh/client", target), "ok")
        # Readiness probes of the node still pass, so the pods stay ready: were they refused, three in a row
        # would make them unready, and nothing would make them ready again.
        time.sleep(5)
        self.mesh.until("the pods are ready", lambda: self.mesh.ctl("local", "status", "--name", self.mesh.name, "-o", "json").stdout,
                        lambda status: '"ready": true' in status and '"ready": false' not in status)
        self.apply("pa.yaml", peer_authentication("PERMISSIVE"))
        for target in ("mesh/near", "mesh/far"):
            self.becomes("plain/outsider", target, "ok")

    def test_a_new_policy_cuts_a_live_connection(self):
        import concurrent.futures
        with concurrent.futures.ThreadPoolExecutor() as pool, self.mesh.flag() as over:
            opened = [f"{over}-{number}" for number in range(3)]
            held = [pool.submit(self.mesh.call, "mesh/client", hold_open, self.mesh.ip(target), 9000, file, over, timeout=150)
                    for target, file in zip(("mesh/near", "mesh/far"), opened)]
            kept = pool.submit(self.mesh.call, "mesh/client2", hold_open, self.mesh.ip("mesh/client"), 9000, opened[2], over, timeout=150)
            self.mesh.wait("all are open", lambda: all(os.path.exists(file) for file in opened))
            self.apply("deny.yaml", authorization("deny-client", """
  action: DENY
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/client"]}}]
    to: [{operation: {ports: ["9000"]}}]
  selector: {matchLabels: {version: v1, app: near}}
"""))
            self.apply("deny2.yaml", authorization("deny-client-far", """
  action: DENY
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/client"]}}]
  selector: {matchLabels: {app: far}}
"""))
            for future in held:
                try:
                    self.assertIsNotNone(future.result(30), "the connection outlived the policy")
                except concurrent.futures.TimeoutError:
                    self.fail("the connection outlived the policy")
            time.sleep(1)  # what comes after the policy would cut the other now
        self.assertIsNone(kept.result(), "a connection that the policy does not name was cut")

    def test_a_policy_that_cannot_be_understood_fails_closed(self):
        self.apply("odd.yaml", authorization("odd", """
  action: DENY
  rules:
  - from: [{source: {ipBlocks: ["10.91.0.0/16", "not an address"]}}]
    to: [{operation: {ports: ["9000"]}}]
"""))
        self.becomes("mesh/client", "mesh/far", DENIED)
        said = self.mesh.ctl("policies", "--name", self.mesh.name).stdout
        self.assertIn("odd", said, "`qanatctl policies` must name the policy")
        self.assertIn("not an address", said, "... and what is wrong with it")

    def test_a_reused_address_is_not_the_old_identity(self):
        """far may be called by `trusted` only; its pod goes, and another account gets its address."""
        self.apply("trusted.yaml", pod("mesh", "visitor", "trusted", "node1"))
        self.apply("policy.yaml", authorization("only-trusted", """
  action: ALLOW
  selector: {matchLabels: {app: far}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/trusted"]}}]
"""))
        self.mesh.until("visitor reaches far", lambda: self.try_("mesh/visitor", "mesh/far"), "ok", 60)
        address = self.mesh.ip("mesh/visitor")
        self.mesh.remove("trusted.yaml")
        self.files.remove("trusted.yaml")
        self.mesh.until("visitor is gone", lambda: list(self.mesh.pod_files()), lambda pods: "mesh/visitor" not in pods)
        # Addresses are the kubelet's to give; the local mode takes a wish, so that this can be tested.
        intruder = pod("mesh", "intruder", "intruder", "node1", annotations={"qanat.io/pod-ip": address})
        self.apply("intruder.yaml", intruder)
        self.mesh.until("intruder exists", lambda: list(self.mesh.pod_files()), lambda pods: "mesh/intruder" in pods)
        self.assertEqual(self.mesh.ip("mesh/intruder"), address, "the test needs the same address again")
        begin = time.monotonic()
        tries = 0
        while (passed := time.monotonic() - begin) < 4 or tries < 4 and passed < 60:
            try:
                self.assertNotEqual(self.try_("mesh/intruder", "mesh/far"), "ok")
                tries += 1
            except (FileNotFoundError, KeyError, RuntimeError):
                time.sleep(0.02)  # its namespace is still being made
        self.assertGreater(tries, 3)


if __name__ == "__main__":
    unittest.main(verbosity=2)
