#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Nothing leaves in the clear, shown so that a toy cannot pass.

Every payload carries a random 16-byte token. Every interface of every namespace is recorded from
before the pods start until after they end. Between enrolled pods of different nodes no packet may
hold a token (loopback inside a pod excepted) and no SYN may go but to 15008. The same run without
the mesh must find the tokens, else the test proves nothing.
"""
import glob
import os
import shutil
import tempfile
import time
import unittest

import capture
from bed import Mesh, cgroup2, echo_once, http_get, own_name
from fixture import APPS, NAMESPACES, WEB


def process_starts(name):
    """Pod uid -> when the first of the processes in its control group started (seconds, epoch)."""
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    ticks, starts = os.sysconf("SC_CLK_TCK"), {}
    root = f"{cgroup2()}/qanat-{name}"
    for procs in glob.glob(f"{root}/*/pods/*/**/cgroup.procs", recursive=True):
        uid = procs[len(root) + 1:].split("/")[2]
        for pid in open(procs).read().split():
            try:
                fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            starts[uid] = min(starts.get(uid, float("inf")), boot + int(fields[19]) / ticks)
    return starts


def in_any_stream(folder, tokens, wanted):
    """Which tokens stand in frames that `wanted(packet)` selects: in one frame, or across frames of a flow."""
    found = set()
    flows = {}
    for packet in capture.packets(folder):
        if not wanted(packet):
            continue
        for token in tokens - found:
            if token in packet.raw:
                found.add(token)
        if packet.payload:
            key = (packet.netns, packet.interface, packet.src, packet.sport, packet.dst, packet.dport)
            tail, after = flows.get(key, (b"", 0))
            joined = (tail if after == packet.seq else b"") + packet.payload[:32]
            for token in tokens - found:
                if token in joined:
                    found.add(token)
            flows[key] = (packet.payload[-32:], (packet.seq + len(packet.payload)) & 0xFFFFFFFF)
    return found


class Clear(unittest.TestCase):
    def run_traffic(self, options):
        folder = tempfile.mkdtemp(prefix="qanat-capture-")
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        mesh = Mesh(name=own_name("clear"), options=options)
        mesh.write("base.yaml", NAMESPACES + "---\n" + APPS + "\n---\n" + WEB)
        recorder = capture.start(mesh.name, folder)
        try:
            mesh.up()
            starts = process_starts(mesh.name)
            cross, near = set(), set()

            def token(to):
                fresh = os.urandom(16)
                to.add(fresh)
                return fresh

            ips = {pod: info["ips"] for pod, info in mesh.pod_files().items()}
            uids = {pod: info["uid"] for pod, info in mesh.pod_files().items()}
            nodes = {pod: info["node"] for pod, info in mesh.pod_files().items()}
            enrolled = [p for p in ips if p.startswith("mesh/") and p != "mesh/waypoint"]
            for source in ("mesh/client", "mesh/client2"):
                for target in ("mesh/near", "mesh/far"):
                    group = cross if nodes[source] != nodes[target] else near
                    for version in (4, 6):
                        for _ in range(5):
                            payload = token(group) * 3
                            self.assertEqual(mesh.call(source, echo_once, mesh.ip(target, version), 9000, payload), payload)
                    payload = token(group) + b"x" * 200000 + token(group)
                    self.assertEqual(mesh.call(source, echo_once, mesh.ip(target), 9000, payload), payload)
                    status, _, _ = mesh.call(source, http_get, target.split("/")[1] + ".mesh", 80, "/", None, "POST", token(group))
                    self.assertEqual(status, 200)
            for _ in range(10):  # through the waypoint: TLS on every leg, whatever the nodes
                status, _, _ = mesh.call("mesh/client", http_get, "web.mesh", 80, "/", None, "POST", token(cross))
                self.assertEqual(status, 200)
        finally:
            mesh.down()
            capture.stop(recorder)
        for stats in glob.glob(f"{folder}/*.stats"):
            self.assertIn('"dropped": 0', open(stats).read(), f"{stats}: the recorder lost packets")
        for pod in ips if not options else ():  # the control run has only to find something
            with open(f"{folder}/qanat-{mesh.name}-pod-{pod.replace('/', '-')}.started") as f:
                # a process's start is known to a hundredth of a second, rounded down
                self.assertLess(float(f.read()), starts[uids[pod]] + 0.01, f"{pod} ran before its recorder")
        return folder, cross, near, {ip: nodes[p] for p in enrolled for ip in ips[p]}

    def test_with_the_mesh(self):
        folder, cross, near, enrolled = self.run_traffic([])
        off_loopback = lambda p: p.interface != "lo"
        self.assertEqual(in_any_stream(folder, set(cross), off_loopback), set(), "payload in the clear between nodes")
        # On one node the pods' own links carry plain TCP by design, but never the links between nodes.
        between = lambda p: p.interface != "lo" and p.netns.endswith("-fabric")
        self.assertEqual(in_any_stream(folder, set(near), between), set())
        # The applications' own legs on loopback are seen, so the recorder does see payload.
        self.assertEqual(in_any_stream(folder, set(cross), lambda p: p.interface == "lo"), cross)
        syns = {}
        for p in capture.packets(folder):
            if p.syn and p.interface != "lo" and p.src in enrolled and p.dst in enrolled and enrolled[p.src] != enrolled[p.dst]:
                syns[p.dport] = syns.get(p.dport, 0) + 1
        self.assertEqual(set(syns), {15008}, syns)

    def test_without_the_mesh_the_tokens_are_found(self):
        folder, cross, near, _ = self.run_traffic(["--no-mesh"])
        found = in_any_stream(folder, set(cross), lambda p: p.interface != "lo" and p.netns.endswith("-fabric"))
        self.assertGreater(len(found), len(cross) // 2, "the search finds nothing even where it must")


if __name__ == "__main__":
    unittest.main(verbosity=2)
