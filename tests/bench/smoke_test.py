#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The bench is whole: every row and its JSON, nothing left behind, and no row for a load that went
another way. Says nothing about speed."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import types
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import bench  # noqa: E402
from loads import LOADS, PATHS  # noqa: E402
from proof import OPENED, RECEIVED, SENT, Counters, Misrouted, check_mesh, check_plain  # noqa: E402

NAME = "qbenchtest"
# Enough for the receiving node proxy to meet taken ports again and again when it draws one for its
# leg to the application.
IDLE = 4000


def command(*flags):
    return [sys.executable, "-B", os.path.join(HERE, "bench.py"), "--name", NAME, *flags]


def counters(*series):
    """Counters as if read from two node proxies; series: (program, metric, labels, value)."""
    fake = Counters(types.SimpleNamespace(state=lambda: {"programs": []}))
    fake.series = {"ztunnel-node1": [], "ztunnel-node2": []}
    for program, metric, labels, value in series:
        fake.series[program].append((metric, labels, value))
    return fake


class Run(unittest.TestCase):
    def test_every_row_of_a_quick_run(self):
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "bench.json")
            done = subprocess.run(command("--quick", "--seconds", "0.5", "--idle-connections",
                                          str(IDLE), "-o", file),
                                  capture_output=True, text=True, timeout=240)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            with open(file) as f:
                out = json.load(f)
        rows = {(row["path"], row["row"]): row for row in out["rows"]}
        for path in PATHS:
            for load in LOADS:
                for name, _, _ in load.figures:
                    row = rows[path, name]
                    self.assertIsNone(row["refused"], row)
                    for key in ("plain", "mesh", "ratio", "a_a", "cpu"):
                        self.assertGreater(row[key], 0, (path, name, key))
                    self.assertIn(name, done.stdout)
        states = [entry["state"] for entry in out["memory_kb"]]
        self.assertEqual(states, ["idle"] + [f"{IDLE} on {path}" for path in PATHS])
        for entry in out["memory_kb"]:
            for program in ("ztunnel-node1", "ztunnel-node2", "agent-node1", "agent-node2",
                            "waypoint-mesh-waypoint", "controlplane"):
                self.assertGreater(entry["kb"][program], 0)
        self.assertEqual(bench.leftovers(NAME), [])

    def test_a_signal_takes_the_mesh_down(self):
        process = subprocess.Popen(command("--quick", "--only", "round trip", "--seconds", "20"),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            for line in process.stderr:
                if "idle connections" in line:  # the mesh is up and connections are being made
                    break
            self.assertNotEqual(bench.leftovers(NAME), [])
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                process.kill()
        self.assertEqual(process.returncode, 128 + signal.SIGINT)
        self.assertEqual(bench.leftovers(NAME), [])


class Refusal(unittest.TestCase):
    load = next(load for load in LOADS if load.mode == "rr" and load.connections == 1)
    result = {"opened": 1, "all_samples": 1000, "all_bytes": 1000}
    source = {"reporter": "source", "source_workload": "client", "destination_workload": "far",
              "source_workload_namespace": "mesh", "connection_security_policy": "mutual_tls"}

    def hop(self, program, labels, bytes_moved):
        return [(program, OPENED, labels, 1), (program, RECEIVED, labels, bytes_moved),
                (program, SENT, labels, bytes_moved)]

    def check(self, after):
        check_mesh("cross node", self.load, self.result, counters(), after)

    def test_seen_at_both_proxies(self):
        self.check(counters(*self.hop("ztunnel-node1", self.source, 1000),
                            *self.hop("ztunnel-node2", {**self.source, "reporter": "destination"}, 1000)))

    def test_the_second_proxy_was_passed_by(self):
        with self.assertRaisesRegex(Misrouted, "ztunnel-node2"):
            self.check(counters(*self.hop("ztunnel-node1", self.source, 1000)))

    def test_without_tls(self):
        plain = {**self.source, "connection_security_policy": "unknown"}
        with self.assertRaisesRegex(Misrouted, "ztunnel-node1"):
            self.check(counters(*self.hop("ztunnel-node1", plain, 1000),
                                *self.hop("ztunnel-node2", {**plain, "reporter": "destination"}, 1000)))

    def test_only_some_of_the_bytes(self):
        with self.assertRaisesRegex(Misrouted, "counted 999"):
            self.check(counters(*self.hop("ztunnel-node1", self.source, 999)))

    def test_plain_that_a_proxy_saw(self):
        check_plain(counters(), counters())
        with self.assertRaisesRegex(Misrouted, "while plain TCP ran"):
            check_plain(counters(), counters(*self.hop("ztunnel-node1", self.source, 1)))


if __name__ == "__main__":
    unittest.main(verbosity=2)
