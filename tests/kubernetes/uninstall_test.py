#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""After uninstall nothing of ours is left, on the nodes and in the API; and the search finds what is planted."""
import unittest

import inventory
from harness import SYSTEM, UNLABELLED, MeshBench
from bed import http_get, outcome
from fixture import APPS, WEB, authorization

# Each of these is something an uninstall could forget. {name: (how to plant, how to take away)}
PLANTED = {
    "a plugin binary": ("touch /opt/cni/bin/qanat-cni", "rm /opt/cni/bin/qanat-cni"),
    "a file beside the CNI configuration": ("touch /etc/cni/net.d/00-qanat.conflist", "rm /etc/cni/net.d/00-qanat.conflist"),
    "an entry in the CNI chain": ("sed -i 's/\"plugins\": \\[/&{\"type\": \"qanat-cni\"},/' /etc/cni/net.d/10-testbed.conflist",
                                  "sed -i 's/{\"type\": \"qanat-cni\"},//' /etc/cni/net.d/10-testbed.conflist"),
    "a pinned map": ("mkdir -p /sys/fs/bpf/qanat && bpftool map create /sys/fs/bpf/qanat/left type array key 4 value 4 entries 1 name left",
                     "rm -r /sys/fs/bpf/qanat"),
    "a cache": ("mkdir -p /var/lib/qanat && touch /var/lib/qanat/pods-cache", "rm -r /var/lib/qanat"),
    "a socket's folder": ("mkdir -p /run/ztunnel", "rmdir /run/ztunnel"),
    "a table of nftables": ("nft add table inet qanat", "nft delete table inet qanat"),
    "a rule": ("ip rule add fwmark 0x539 lookup 15001", "ip rule del fwmark 0x539 lookup 15001"),
    "a route": ("ip route add local 0.0.0.0/0 dev lo table 15001", "ip route flush table 15001"),
}


class Uninstall(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bench = MeshBench("uninstall").up()

    @classmethod
    def tearDownClass(cls):
        cls.bench.down()

    def nothing_left(self, before, said=""):
        """Within some seconds: what others do about objects that are gone takes them a moment."""
        left = set()

        def look():
            nonlocal left
            left = inventory.take(self.bench) - before
            return not left
        try:
            self.bench.wait("nothing is left", look)
        except AssertionError:
            self.fail("left behind:\n  " + "\n  ".join(sorted(left)) + f"\n{said}")

    def test_1_the_search_finds_what_is_planted(self):
        before = inventory.take(self.bench)
        for what, (plant, remove) in PLANTED.items():
            self.bench.on_node(1, "sh", "-c", plant)
            self.assertNotEqual(inventory.take(self.bench) - before, set(), f"{what} was not found")
            self.bench.on_node(1, "sh", "-c", remove)
            self.assertEqual(inventory.take(self.bench) - before, set(), f"{what} is still found")
        for kind in ("configmap left", "secret generic left", "serviceaccount left"):
            self.bench.kubectl("create", *kind.split())
            self.bench.kubectl("label", kind.split()[0], "left", "app.kubernetes.io/part-of=qanat")
            self.assertNotEqual(inventory.take(self.bench) - before, set(), f"{kind} was not found")
            self.bench.kubectl("delete", kind.split()[0], "left")
        self.bench.kubectl("annotate", "namespace", "default", "qanat.io/left=1")
        self.assertNotEqual(inventory.take(self.bench) - before, set(), "an annotation was not found")
        self.bench.kubectl("annotate", "namespace", "default", "qanat.io/left-")
        self.assertEqual(inventory.take(self.bench) - before, set())

    def test_2_uninstall_leaves_nothing(self):
        bench = self.bench
        bench.apply(UNLABELLED + "---\n" + APPS)
        bench.wait_ready(mesh=4, plain=2)
        before, started = inventory.take(bench), bench.restarts("mesh")
        failed_probes = bench.probe_failures("mesh", started)
        bench.install()
        bench.label("mesh")
        bench.wait("pods enrolled", lambda: bench.enrolled("mesh"))
        bench.apply(WEB)
        bench.apply(authorization("some", "{action: ALLOW, selector: {matchLabels: {app: far}}, rules: [{}]}"))
        bench.wait("the waypoint runs", lambda: bench.ready("mesh", count=7))
        bench.wait("web answers", lambda: bench.call("mesh/client", http_get, "web.mesh", 80)[0] == 200)
        self.assertGreater(len(inventory.take(bench) - before), 20, "the search must find what is installed")

        bench.delete(WEB)  # the user's own objects are the user's to remove
        bench.kubectl("delete", "authorizationpolicy", "-n", "mesh", "some")
        bench.label("mesh", None)
        said = bench.ctl("uninstall", "--purge").stdout
        bench.wait("the namespace is gone", lambda: bench.get(f"/api/v1/namespaces/{SYSTEM}") is None)
        bench.wait("WEB is gone", lambda: len(bench.pods("mesh")) == 4)
        self.nothing_left(before, said)
        self.assertEqual(bench.restarts("mesh"), started, "a pod was restarted")
        self.assertEqual(bench.probe_failures("mesh", started), failed_probes)
        for target in ("mesh/near", "mesh/far"):
            self.assertEqual(bench.call("mesh/client", outcome, bench.ip(target), 9000), "ok")

    def test_3_uninstall_with_pods_still_enrolled(self):
        """No unlabelling first: pods go on in the clear, as an uninstall must say, and not cut off."""
        bench = self.bench
        before = inventory.take(bench)
        bench.install()
        bench.label("mesh")
        bench.wait("pods enrolled", lambda: bench.enrolled("mesh"))
        bench.ctl("uninstall", "--purge", "--force", check=False)
        bench.label("mesh", None)
        bench.wait("the namespace is gone", lambda: bench.get(f"/api/v1/namespaces/{SYSTEM}") is None)
        bench.wait("client reaches far", lambda: bench.call("mesh/client", outcome, bench.ip("mesh/far"), 9000) == "ok")
        self.nothing_left(before)


if __name__ == "__main__":
    unittest.main(verbosity=2)
