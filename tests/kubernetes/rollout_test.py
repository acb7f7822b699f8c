#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The DaemonSet of the node proxy rolls out, alone and as all parts go to another version and back: no live connection
ends and no byte of one is others, new connections go through, and nothing gets past the policy meanwhile."""
import re
import unittest

import editions
from harness import SYSTEM
from bed import http_get
from live import Live
from scene import Scene

WAYS = [
    ("mesh/client", "mesh/far", 4),  # between the nodes, each of them with its sender ...
    ("mesh/client2", "mesh/near", 6),
    ("mesh/client", "mesh/near", 4),  # ... within a node, ...
    ("mesh/client2", "mesh/far", 6),
    ("plain/outsider", "mesh/near", 4),  # ... and in the clear, into the mesh and out of it
    ("mesh/client", "plain/bystander", 4),
]
EACH = 10
MOVED = re.compile(r'^qanat_takeover_items_total\{side="new",result="(\w+)"\} (\d+)', re.M)
HELD = re.compile(r"^qanat_held_listeners (\d+)", re.M)
SILENCE = 5000  # ms; what a busy machine may cost, and less than what a lost packet or a broken hand-over would


class Rollout(Scene):
    NAME = "rollout"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.old, cls.new = editions.present(), editions.load_next(cls.bench, *editions.PROGRAMS)
        cls.started = cls.bench.restarts("mesh")
        cls.failures_before = cls.bench.probe_failures("mesh", cls.started)

    def taken_over(self, pod):
        """{result: items} of what this proxy got from the one before it: connections, and the listeners of a pod."""
        text = self.bench.kubectl("get", "--raw", f"/api/v1/namespaces/{SYSTEM}/pods/{pod}:15020/proxy/metrics").stdout
        return {result: int(count) for result, count in MOVED.findall(text)}

    def rolled_out(self, *parts):
        for part in parts:
            self.bench.kubectl("rollout", "status", "-n", SYSTEM, part, "--timeout=110s")

    def change(self, what, change, *parts):
        before = set(self.bench.part("ztunnel"))
        with self.unharmed(), Live(self.bench, WAYS, EACH) as live:
            change()
            self.rolled_out("daemonset/ztunnel", *parts)
            self.bench.wait("the old ones are gone", lambda: not before & set(self.bench.part("ztunnel")), 60)
            self.assertTrue(live.are_up(), "the load was over too early: the test says nothing")
            taken = {pod: self.taken_over(pod) for pod in self.bench.part("ztunnel")}
        print(f"{what}: {live.count} connections; taken over: {taken}; longest silences in ms: {live.silences}", flush=True)
        self.assertEqual(live.failures, [])
        self.assertEqual(len(taken), 2)
        for counts in taken.values():
            # Each node has to do with half of the connections at least; in a tunnel they are many in one item. Those
            # within a node are the kernel's, which a proxy has no part in.
            self.assertGreaterEqual(counts["moved"], EACH // 2, taken)
            self.assertEqual(counts["refused"], 0, taken)
        for kinds in live.silences.values():
            # the checkers are as starved as everybody on a machine that is
            self.assertLess(max(kinds.values()), SILENCE + 4 * kinds["itself"], live.silences)

    def test_1_the_proxies_are_started_anew(self):
        self.change("rollout restart", lambda: self.bench.kubectl("rollout", "restart", "-n", SYSTEM, "daemonset/ztunnel"))
        self.agents_hold_the_listeners()

    def agents_hold_the_listeners(self):
        """... of those proxies that came last, should they be killed."""
        for node in (1, 2):
            def held():
                metrics = self.bench.call_node(node, http_get, "127.0.0.1", 15030, "/metrics")[2].decode()
                return float(HELD.search(metrics)[1]) > 0
            self.bench.wait(f"the agent of node{node} keeps listeners", held, 30)

    def install(self, what, version):
        self.change(what, lambda: self.bench.install("--image-tag", version), "daemonset/qanat-agent", "deployment/qanat-controlplane")
        images = {p["spec"]["containers"][0]["image"].rpartition(":")[2] for p in self.bench.pods(SYSTEM)
                  if "deletionTimestamp" not in p["metadata"]}
        self.assertEqual(images, {version})

    def test_2_everything_goes_to_the_next_version(self):
        self.install("upgrade", self.new)
        self.wait_for_log("ztunnel", f"taking over from a process of version {self.old}")

    def test_3_and_back(self):
        self.install("way back", self.old)
        self.agents_hold_the_listeners()
        # the older control plane writes when the newer one's lease has run out
        self.bench.wait("all is well",
                        lambda: self.bench.ctl("verify", check=False).returncode == 0, 60)
        self.traffic_is_as_it_was()

    def test_4_probes_stayed_green(self):
        self.assertEqual(self.bench.restarts("mesh"), self.started)
        self.assertEqual(self.bench.probe_failures("mesh", self.started), self.failures_before, "a probe failed meanwhile")


if __name__ == "__main__":
    unittest.main(verbosity=2)
