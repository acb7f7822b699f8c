#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `qanatctl capture` says is what there is: programs in the kernel, the last proof, what went past the capture by
its kind, as a table, as JSON and as a metric. And who listens where: the agent on localhost alone."""
import concurrent.futures
import json
import os
import re
import socket
import subprocess
import time
import unittest

from bed import MeshCase, outcome
from fixture import APPS, NAMESPACES, pod

REPROVE = 30  # seconds; the agent's --reprove-ms


def send_what_is_not_captured(far):
    """One packet of each kind that capture is not for."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", (far, 5000))  # without connect(): nothing sees it but the second guard
    for protocol in (1, 132, 47):  # ICMP echo, SCTP, GRE
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as sock:
            sock.sendto(b"\x08\x00\xf7\xff\x00\x00\x00\x00" if protocol == 1 else bytes(16), (far, 0))


def keep_open(host, ready, flag):
    with socket.create_connection((host, 9000), timeout=20) as sock:
        with open(ready, "w"):
            pass
        while not os.path.exists(flag):
            sock.sendall(b"x")
            if not sock.recv(1):
                return "ended"
            time.sleep(0.05)
    return "open"


class CaptureTable(MeshCase):
    files = {"base.yaml": NAMESPACES + "---\n" + APPS,
             "late.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: late}\n" + pod("late", "app", "app", "node1")}

    def ctl(self, *args):
        return self.mesh.ctl("capture", "--name", self.mesh.name, *args).stdout

    def rows(self, *args):
        """{pod: {column: cell}}; "-" is an empty one. Columns are where the header has them."""
        head, *lines = self.ctl(*args).splitlines()
        starts = [(m[0], m.start()) for m in re.finditer(r"[A-Z-]+", head)]
        ends = [start for _, start in starts[1:]] + [None]
        cells = lambda line: [line[start:end].strip() for (_, start), end in zip(starts, ends)]
        found = [{name: "" if cell == "-" else cell for (name, _), cell in zip(starts, cells(line))} for line in lines]
        return {f"{row['NAMESPACE']}/{row['POD']}": row for row in found}

    def json(self, *args):
        return json.loads(self.ctl("-o", "json", *args))

    def pod(self, name):
        return next(p for node in self.json().values() for p in node["pods"] if f"{p['namespace']}/{p['name']}" == name)

    def kernel(self, program):
        said = subprocess.run(["bpftool", "-j", "prog", "show", "id", str(program)], capture_output=True, text=True).stdout
        return json.loads(said).get("name")

    def test_what_is_attached_is_what_the_kernel_has(self):
        shown = self.json()
        self.assertEqual(sorted(shown), ["node1", "node2"])
        for node, told in shown.items():
            self.assertLess({"connect4", "connect6", "bind4", "bind6", "sockops"}, set(told["hooks"]), told["hooks"])
            for name, hook in told["hooks"].items():
                self.assertTrue(hook["attached"], f"{node} {name}")
                self.assertRegex(self.kernel(hook["program"]), "^qanat_", f"{node} {name}")
            for entry in told["pods"]:
                if entry["redirection"] != "enabled":
                    self.assertEqual(entry["attached"], [], entry["name"])
                    continue
                names = {link["name"]: self.kernel(link["program"]) for link in entry["attached"]}
                self.assertTrue(all(link["attached"] for link in entry["attached"]))
                self.assertEqual(names.pop("lookup"), "qanat_sk_lookup")
                if entry["guard"]["by"] == "tcx":
                    device = entry["guard"]["devices"][0]
                    self.assertEqual(names.pop(f"guard-{device}"), "qanat_guard")
                    self.assertEqual(names.pop(f"ingress-{device}"), "qanat_ingress")
                    # At the node's end of its veth.
                    self.assertEqual({name.split("-")[0]: program for name, program in names.items()},
                                     {"host_in": "qanat_host_in", "host_out": "qanat_host_out"})
                self.assertEqual(len(entry["guard"]["devices"]), 1)
                proof = entry["lastProof"]
                self.assertTrue(proof["passed"] and proof["failure"] == "")
                self.assertEqual(proof["steps"], len(entry["proof"]))
                self.assertTrue({"outbound/v4", "outbound/v6"} <= {step["step"] for step in entry["proof"]}, entry["proof"])
                self.assertIn(proof["ageMs"], range((REPROVE + 10) * 1000))
                self.assertIn(proof["tookMs"], range(30000))
        # The list of one pod's links changes when one of them goes, and when it is back the pod is as before.
        rows = self.rows()
        for name in ("mesh/client", "mesh/near", "mesh/client2", "mesh/far"):
            self.assertEqual(rows[name]["REDIRECTION"], "enabled")
            self.assertRegex(rows[name]["ATTACHED"], r"^lookup(, guard, host_in, host_out, ingress \(tcx\)|, guard \(clsact\))?$")
            self.assertRegex(rows[name]["PROOF"], r"^passed \d+\.\d s ago$")
            self.assertEqual(rows[name]["REASON"], "")
        self.assertEqual({row["NODE"] for row in self.rows("--node", "node2").values()}, {"node2"})
        self.assertEqual({row["NAMESPACE"] for row in self.rows("-n", "plain").values()} - {"plain"}, set())

    def test_a_proof_is_repeated(self):
        began = time.monotonic()
        before = self.pod("mesh/client")["lastProof"]
        after = self.mesh.until("a newer proof", lambda: self.pod("mesh/client")["lastProof"],
                                lambda p: p["ageMs"] < before["ageMs"] + (time.monotonic() - began) * 1000 - 500, REPROVE + 30)
        self.assertTrue(after["passed"])

    def test_what_goes_past_it_is_told_by_kind(self):
        kinds = ("outside_udp", "outside_icmp", "outside_sctp", "outside_other")
        before = self.pod("mesh/near")["counters"]
        self.assertNotIn("UDP", self.rows()["mesh/near"]["OUTSIDE"])
        self.mesh.call("mesh/near", send_what_is_not_captured, self.mesh.ip("mesh/far"))
        counted = lambda: {kind: self.pod("mesh/near")["counters"][kind] - before[kind] for kind in kinds}
        self.mesh.until("each kind is counted", counted, dict.fromkeys(kinds, 1))
        self.assertEqual(self.rows()["mesh/near"]["OUTSIDE"], "1 UDP, 1 ICMP, 1 SCTP, 1 other")
        self.assertEqual(self.rows()["mesh/client"]["OUTSIDE"], "", "another pod's")
        self.mesh.until("and told", lambda: len(self.pod("mesh/near")["outside"]), 4)
        metrics = self.mesh.admin("node1", "/metrics", 15030)[2].decode()
        for kind in kinds:
            self.assertIn(f'qanat_capture_events_total{{namespace="mesh",pod="near",event="{kind}"}} 1\n', metrics)

    def test_connections_from_before_the_enrolment(self):
        with self.mesh.flag() as end:
            ready = f"{end}-open"
            with concurrent.futures.ThreadPoolExecutor() as pool:
                held = pool.submit(self.mesh.call, "late/app", keep_open, self.mesh.ip("plain/bystander"), ready, end)
                self.mesh.wait("it is open", lambda: os.path.exists(ready))
                self.mesh.write("late.yaml", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: late\n  labels: {istio.io/dataplane-mode: ambient}\n"
                                + pod("late", "app", "app", "node1"))
                self.mesh.until("it is enrolled", lambda: self.rows()["late/app"]["REDIRECTION"], "enabled")
                self.assertEqual(self.rows()["late/app"]["OUTSIDE"], "1 not yet meshed")
                self.assertRegex(self.ctl("late/app"), rf"out +\S+ +{re.escape(self.mesh.ip('plain/bystander'))}:9000 +established")
                with open(end, "w"):
                    pass
                self.assertEqual(held.result(), "open")
        self.mesh.until("and is gone with it", lambda: self.rows()["late/app"]["OUTSIDE"], "")

    def test_the_agent_listens_on_localhost_alone(self):
        """What listens on TCP in each node's namespace, by whose it is."""
        self.assertEqual(self.mesh.call("mesh/client", outcome, self.mesh.ip("mesh/far"), 9000), "ok")
        for node in ("node1", "node2"):
            pid = self.mesh.program_pid(f"agent-{node}")
            said = subprocess.run(["nsenter", f"--net={self.mesh.node_netns(node)}", "ss", "-Hltnup"], capture_output=True,
                                  text=True, check=True).stdout
            ours = [line.split()[4] for line in said.splitlines() if f"pid={pid}," in line]
            self.assertEqual(ours, ["127.0.0.1:15030"], said)
            # In pods it holds the proxy's listeners for a moment at most, and has none of its own.
            for name, entry in self.mesh.pod_files().items():
                if entry["node"] == node:
                    said = subprocess.run(["nsenter", f"--net={self.mesh.pod_netns(name)}", "ss", "-Hltnup"], capture_output=True,
                                          text=True, check=True).stdout
                    own = [line for line in said.splitlines() if f"pid={pid}," in line and "ztunnel" not in line]
                    self.assertEqual(own, [], name)


if __name__ == "__main__":
    unittest.main(verbosity=2)
