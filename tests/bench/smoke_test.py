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
import beside  # noqa: E402
import cold  # noqa: E402
import counts  # noqa: E402
import direct  # noqa: E402
import history  # noqa: E402
import kernel_counters  # noqa: E402
import memory  # noqa: E402
import symbols  # noqa: E402
import upgrade  # noqa: E402
import workloads  # noqa: E402
from loads import LOADS, PATHS, PROXIED  # noqa: E402
from process import cpu_seconds  # noqa: E402
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
                                          str(IDLE), "-o", file, "--history", file + "l"),
                                  capture_output=True, text=True, timeout=1100)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            with open(file) as f:
                out = json.load(f)
            with open(file + "l") as f:
                past = json.loads(f.read())
        self.assertEqual(len(out["fairness"]), 2)
        self.assertEqual(len(out["upgrades"]), len(upgrade.WAYS))
        for row in out["upgrades"]:
            self.assertIsNone(row["refused"], row)
            self.assertEqual((row["lost_or_altered"], row["connections"], row["upgrades"]), (0, *upgrade.size(quick=True)))
            self.assertGreater(row["stall_ms"], 0)
            self.assertGreater(row["without_ms"], 0)
            self.assertIn(row["row"], done.stdout)
        self.check_counts(out)
        self.check_profiles(out, done.stdout)
        self.assertEqual([row["workloads"] for row in out["workloads"]], [1000])
        for row in out["workloads"]:
            self.assertIsNone(row["refused"], row)
            self.assertGreater(row["ready_s"], row["after_the_answer_began_s"])
            self.assertGreaterEqual(row["peak_kb"], row["rss_kb"])
            self.assertGreater(row["message_bytes"], 1000 * 200)
        for row in out["fairness"]:
            self.assertIsNone(row["refused"], row)
            self.assertGreater(row["ratio"], 0)
        counted = [row for row in out["counts"] if row["per"] != "GiB" and row["system_calls"]]
        self.assertEqual(len(past["rows"]), len(out["rows"]) + len(out["fairness"]) + len(counted))
        rows = {(row["path"], row["row"]): row for row in out["rows"]}
        for path in PATHS:
            for load in LOADS + ((*cold.LOADS, beside.LOAD) if path == cold.PATH else ()):
                for name, _, _ in load.figures:
                    row = rows[path, name]
                    self.assertIsNone(row["refused"], row)
                    for key in ("plain", "mesh", "ratio", "a_a", "own_cpu") + (("cpu",) if path in PROXIED else ()):
                        self.assertGreater(row[key], 0, (path, name, key))
                    self.assertIn(name, done.stdout)
        states = [entry["state"] for entry in out["memory_kb"]]
        self.assertEqual(states, ["idle"] + [f"{IDLE} on {path}" for path in PROXIED])
        for entry in out["memory_kb"]:
            for program in ("ztunnel-node1", "ztunnel-node2", "agent-node1", "agent-node2",
                            "waypoint-mesh-waypoint", "controlplane"):
                self.assertGreater(entry["kb"][program], 0)
                self.assertLess(out["memory_kb"][0]["own_kb"][program], out["memory_kb"][0]["kb"][program])
        self.assertEqual(bench.leftovers(NAME), [])

    # Of a load's connection or round trip: what both proxies cannot do without, and what would be far too much.
    # epoll_wait is not in it: of 64 connections one wake-up serves many round trips.
    LEAST = {"connection": ("accept4", "connect", "close", "sendmsg", "recvfrom"), "round trip": ("sendmsg", "recvfrom")}

    def check_counts(self, out):
        rows = {(row["path"], row["row"]): row for row in out["counts"]}
        self.assertEqual(set(rows), {(path, load.name) for path in PROXIED for load in counts.COUNTED})
        for (path, name), row in rows.items():
            self.assertIsNone(row["refused"], row)
            if row["system_calls"] is None:
                self.assertFalse(kernel_counters.tracepoints("raw_syscalls"), row)
                return
            self.assertGreater(row["system_calls"], 0)
            self.assertAlmostEqual(sum(part["system_calls"] for part in row["by_program"].values()), row["system_calls"], places=3)
            if row["per"] == "GiB":
                continue
            self.assertLess(row["system_calls"], 150 if row["per"] == "connection" else 40, row)
            if path != "waypoint":
                for call in self.LEAST[row["per"]]:
                    self.assertGreater(row["by_call"].get(call, 0), 0.2, row)
        one, both = (rows[path, "new connections/s, 1 client"]["system_calls"] for path in ("same node", "cross node"))
        self.assertGreater(both, one)

    def check_profiles(self, out, text):
        self.assertEqual({(row["path"], row["row"]) for row in out["profiles"]},
                         {(path, load.name) for path in PROXIED for load in counts.PROFILED})
        ours = 0
        for row in out["profiles"]:
            self.assertIsNone(row["refused"], row)
            self.assertGreater(row["samples"], 50)
            self.assertEqual(len(row["top"]), counts.TOP)
            self.assertGreater(row["top"][0]["share"], row["top"][-1]["share"])
            named = [entry for entry in row["top"] if entry["function"] != "?"]
            self.assertGreater(len(named), counts.TOP / 2, row)
            self.assertIn(named[0]["function"][:110], text)
            ours += sum(entry["where"].startswith("qanat-") for entry in row["top"])
        self.assertGreater(ours, 0, "no function of our programs has a name")

    def test_more_than_there_can_be_is_refused(self):
        done = subprocess.run(command("--idle-connections", str(memory.most() + 1)), capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 2)
        self.assertIn(f"at most {memory.most()} here", done.stderr)

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
            process.communicate(timeout=240)
        finally:
            if process.poll() is None:
                process.kill()
        self.assertEqual(process.returncode, 128 + signal.SIGINT)
        self.assertEqual(bench.leftovers(NAME), [])


class History(unittest.TestCase):
    def run_of(self, ratio, spread=0.02, better="higher"):
        row = {"path": "same node", "row": "x", "refused": None, "ratio": ratio, "a_a_spread": spread, "cpu": 1, "better": better}
        return {"rows": [row, {**row, "row": "y", "refused": "why"}], "fairness": [], "machine": {"model": "m", "cpus": 2}, "rounds": 5,
                "seconds": 1.5, "memory_kb": []}

    def test_what_is_worse_than_usual_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "history")
            for ratio in (0.80, 0.82, 0.81):
                self.assertEqual(history.add(file, self.run_of(ratio)), [])
            self.assertEqual(history.add(file, self.run_of(0.79)), [], "within what a run may be off by")
            self.assertRegex(history.add(file, self.run_of(0.6))[0], "same node: x: 0.60 x plain, in 4 runs before usually 0.8")
            self.assertEqual(history.add(file, self.run_of(0.6, spread=0.4)), [], "plain TCP differed as much")
            self.assertEqual(history.add(file, {**self.run_of(0.1), "rounds": 1}), [], "of another kind")
            with open(file) as f:
                self.assertEqual(len(f.readlines()), 7)

    def test_of_latencies_more_is_worse(self):
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "history")
            for _ in range(3):
                history.add(file, self.run_of(3.0, better="lower"))
            self.assertEqual(history.add(file, self.run_of(2.0, better="lower")), [])
            self.assertEqual(len(history.add(file, self.run_of(4.0, better="lower"))), 1)


class Counted(unittest.TestCase):
    """Counters and samples against what this very process does."""

    def test_system_calls_are_exact(self):
        if not kernel_counters.tracepoints("raw_syscalls"):
            self.skipTest("this kernel has no tracepoints")
        counters = kernel_counters.Counters([os.getpid()])
        counters.start()
        for _ in range(1000):
            os.close(os.dup(0))
        got = counters.stop()
        self.assertGreaterEqual(got["by_name"]["close"], 1000)
        self.assertLess(got["by_name"]["close"], 1100)  # what opens and reads the counters counts too
        self.assertGreaterEqual(got["system_calls"], 2000)
        self.assertLess(got["system_calls"], 2700)
        self.assertEqual(sum(got["by_name"].values()), got["system_calls"])
        # Where the processor's counters are shut off there is no figure, and not a wrong one.
        self.assertTrue(got["instructions"] is None or got["instructions"] > 10000)

    def test_an_unknown_kind_is_none(self):
        counters = kernel_counters.Counters([os.getpid()])
        counters.kinds = {"instructions": (kernel_counters.HARDWARE, 0xffff, 0)}
        counters.start()
        self.assertEqual(counters.stop(), {"system_calls": None, "by_name": {}, "instructions": None})

    def test_samples_have_names(self):
        script = "import hashlib\nprint('begins', flush=True)\nwhile True: hashlib.sha256(bytes(1 << 20)).digest()"
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        try:
            self.assertTrue(process.stdout.readline())
            names = symbols.Symbols()
            names.read_maps(process.pid)
            samples = kernel_counters.Samples([process.pid], 1000)
            begin, used = time.monotonic(), cpu_seconds([process.pid])
            while cpu_seconds([process.pid]) < used + 0.4 and time.monotonic() < begin + 60:
                time.sleep(0.05)  # a busy machine gives it little
            found = samples.stop()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        self.assertGreater(sum(found.values()), 50)
        where = [names.name(*key)[1] for key in found]
        self.assertTrue(any("crypto" in name or "python" in name or name == "kernel" for name in where), where)

    def test_per_unit(self):
        got = {"a": {"system_calls": 30, "instructions": None, "by_name": {"read": 20, "write": 10}},
               "b": {"system_calls": 10, "instructions": 7, "by_name": {"read": 10}}}
        row = counts.per_unit(got, 10)
        self.assertEqual(row["system_calls"], 4)
        self.assertIsNone(row["instructions"], "of one program is not of both")
        self.assertEqual(row["by_call"], {"read": 3, "write": 1})
        self.assertEqual(row["by_program"]["b"], {"system_calls": 1, "instructions": 0.7})

    def test_symbols_of_an_elf_file(self):
        table, loads = symbols.elf_functions(os.path.join(bench.BIN, "qanat-ztunnel"))
        self.assertTrue(loads)
        start, size, name = next(entry for entry in table.entries if "EventLoop5RoundE" in entry[2])
        self.assertEqual(table.find(start), name)
        self.assertEqual(table.find(start + size - 1), name)
        self.assertNotEqual(table.find(start + size), name)
        self.assertEqual(symbols.demangler()(name), "qanat::event::EventLoop::Round(int)")

    def test_a_tunnel_for_each_connection(self):
        class Fake:
            warmup, options, mesh = 0.5, types.SimpleNamespace(seconds=1.5), types.SimpleNamespace(node_netns=lambda _: "")
            made = 0

            def leg(self, path, load, which, watcher=None):
                if watcher:
                    watcher.made = self.made
                return {"opened": 100 + load.connections, "per_second": 50, "cpu_seconds": 2}

        one, many = cold.LOADS
        fake = Fake()
        for load, few, enough in ((one, 85, 100), (many, 20, 80)):
            fake.made = few
            with self.assertRaisesRegex(Misrouted, f"{few} tunnels were made for {100 + load.connections} connections"):
                cold.leg(fake, cold.PATH, load, "mesh")
            fake.made = enough
            result = cold.leg(fake, cold.PATH, load, "mesh")
            self.assertEqual((result["tunnels_per_second"], result["cpu_per_unit"]), (enough / 2, 2000 / enough))
            self.assertEqual(cold.leg(fake, cold.PATH, load, "plain")["tunnels_per_second"], 50)


class Memory(unittest.TestCase):
    def entries(self, idle, held):
        return [{"state": "idle", "kb": {"ztunnel-node1": idle, "agent-node1": 10**6}},
                {"state": "1000 on same node", "kb": {}},  # refused
                {"state": "1000 on cross node", "kb": {"ztunnel-node1": held, "agent-node1": 10**7}}]

    def test_what_is_too_much_is_named(self):
        fine = self.entries(9000, 9000)
        fine[1]["kb"] = {"ztunnel-node1": 12000}
        self.assertEqual(memory.over(fine), [])
        self.assertRegex(memory.over(self.entries(13000, 13000))[0], "ztunnel-node1 has 13000 kB when it is idle")
        fine[2]["kb"]["ztunnel-node1"] = 12000 + 7000
        self.assertRegex(memory.over(fine)[0], "7168 bytes more for each of 1000 on cross node")
        self.assertEqual(memory.over([]), [])

    def test_what_a_large_mesh_takes_is_judged(self):
        fine = {"workloads": 10000, "rss_kb": 15000, "peak_kb": 16000}
        self.assertEqual(workloads.over([fine, {"workloads": 100000}]), [])  # refused
        self.assertRegex(workloads.over([fine | {"rss_kb": 21000, "peak_kb": 16000}])[0], "has 21000 kB with 10000 workloads")
        self.assertRegex(workloads.over([fine | {"peak_kb": 18000}])[0], "had 18000 kB")

    def test_this_process_is_not_instrumented(self):
        self.assertFalse(memory.instrumented(os.getpid()))


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

    def straight(self, opened, direct_now, captured_now, seen_by_proxy=0):
        """check() of a load with `opened` connections of which the kernel and a proxy have counted these."""
        fake = types.SimpleNamespace(node_netns=lambda _: "")
        page = direct.get_inside
        try:
            direct.get_inside = lambda *_: self.PAGE.format(5, 7)
            before = direct.Seen(fake, direct.CLIENT)
            direct.get_inside = lambda *_: self.PAGE.format(5 + direct_now, 7 + captured_now)
            after = direct.Seen(fake, direct.CLIENT)
        finally:
            direct.get_inside = page
        load = types.SimpleNamespace(connections=2)
        zero, now = ({"reporter": "source", "source_workload": "client"} for _ in range(2))
        direct.check(load, {"opened": opened}, before, after, counters(("ztunnel-node1", OPENED, zero, 0)),
                     counters(("ztunnel-node1", OPENED, now, seen_by_proxy)))

    PAGE = ('qanat_capture_events_total{{namespace="mesh",pod="client",event="direct"}} {}\n'
            'qanat_capture_events_total{{namespace="mesh",pod="client",event="captured"}} {}\n'
            'qanat_capture_events_total{{namespace="plain",pod="client",event="direct"}} 900\n')

    def test_a_direct_load_that_was_not(self):
        self.straight(12, 12, 0)
        for wrong in ((12, 9, 0), (12, 12, 1), (2, 0, 0), (12, 12, 0, 1)):
            with self.assertRaises(Misrouted, msg=wrong):
                self.straight(*wrong)

    def test_plain_that_a_proxy_saw(self):
        check_plain(counters(), counters())
        with self.assertRaisesRegex(Misrouted, "while plain TCP ran"):
            check_plain(counters(), counters(*self.hop("ztunnel-node1", self.source, 1)))


if __name__ == "__main__":
    unittest.main(verbosity=2)
