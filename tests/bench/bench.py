#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The table of figures: the mesh as ratios to plain TCP between twin pods of the same run.

Two nodes on this machine. In each round every load runs once through the mesh and twice without
it, in alternating order, so that what else the machine does hits all three. Ratios are medians over
the rounds; A/A is plain against plain, and its spread is what a ratio may be off by. CPU is that
of all node proxies, agents and waypoints together. A load that did not go through the proxies of
its path, or a plain one that did, has no row, and the run fails.
"""
import argparse
import contextlib
import fcntl
import json
import os
import shlex
import signal
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import beside  # noqa: E402
import bpf_cost  # noqa: E402
import cold  # noqa: E402
import counts  # noqa: E402
import direct  # noqa: E402
import fairness  # noqa: E402
import history  # noqa: E402
import memory  # noqa: E402
import report  # noqa: E402
import upgrade  # noqa: E402
import workloads  # noqa: E402
from loads import DIRECT, LOADS, PATHS, PROXIED, cpu_per_unit  # noqa: E402
from pods import ECHO, YAML, cpu_of, finish, set_sysctls, start  # noqa: E402
from process import cpu_seconds  # noqa: E402
from proof import Misrouted, check_enrolment, check_mesh, check_plain, settle  # noqa: E402

from bed import BIN, Mesh, cgroup2, run_inside  # noqa: E402


BY_SERVICE = ("waypoint", "same node direct by Service")  # the mesh's leg; a plain one goes to the pod


def warmup(options):
    return min(0.3, options.seconds)


class Bench:
    echo_port = ECHO
    # Who serves the loads of a path.
    SERVERS = {path: "near" if path == "same node" else "close" if path in DIRECT else "far" for path in PATHS}

    def __init__(self, mesh, options):
        self.mesh, self.options = mesh, options
        self.failures = 0
        self.warmup = warmup(options)
        self.programs = {p["name"]: p["pid"] for p in mesh.state()["programs"]
                         if not p["name"].startswith("dns-")}
        self.on_path = [pid for name, pid in self.programs.items()
                        if name.startswith(("ztunnel-", "agent-", "waypoint-"))]
        pods = json.loads(mesh.ctl("local", "status", "--name", mesh.name, "-o", "json").stdout)
        check_enrolment(pods["pods"])
        self.waypoint_node = mesh.pod_files()["mesh/waypoint"]["node"]
        services = json.loads(mesh.ctl("services", "--name", mesh.name, "-o", "json").stdout)
        self.vips = {}
        for name in ("far", "close"):
            vips = next(s["vips"] for s in services if (s["namespace"], s["name"]) == ("mesh", name))
            self.vips[name] = next(ip for ip in (v.rsplit("/", 1)[-1] for v in vips) if ":" not in ip)
        self.opened = set()
        got = {run_inside(mesh.pod_netns(pod), None, set_sysctls, (), 10) for pod in mesh.pod_files()}
        self.congestion_control = got.pop()  # the same machine gives the same to all
        self.say(f"the waypoint is on {self.waypoint_node}; TCP uses {self.congestion_control}")

    @staticmethod
    def say(text):
        print(f"    {text}", file=sys.stderr, flush=True)

    def target(self, path, leg, port):
        """(pod that calls, address that it calls)."""
        namespace = "mesh" if leg == "mesh" else "plain"
        server = self.SERVERS[path]
        if path in BY_SERVICE and leg == "mesh":
            return "mesh/client", f"{self.vips[server]}:{port}"
        return f"{namespace}/client", f"{self.mesh.ip(f'{namespace}/{server}')}:{port}"

    @classmethod
    def ends(cls, path, source):
        """The two pods of a load that `source` makes."""
        return source, f"{source.split('/')[0]}/{cls.SERVERS[path]}"

    def refuse(self, row, wrong):
        """There is no such row, and the run says so."""
        row["refused"] = str(wrong)
        self.failures += 1
        self.say(f"refused: {wrong}")

    def leg(self, path, load, leg, watcher=None, seconds=None, attempts=3):
        """One load over one path, once; its report with our CPU in it. Misrouted, or RuntimeError
        for a load that did not work. A watcher is started before it and stopped when it is over,
        without the reading of counters in between."""
        source, to = self.target(path, leg, load.port)
        seconds = seconds or self.options.seconds
        straight = path in DIRECT and leg == "mesh"
        if straight and to not in self.opened:
            direct.open_path(self.mesh, to)
            self.opened.add(to)
        before = settle(self.mesh)
        seen = direct.Seen(self.mesh, source) if straight else None
        cpu = cpu_seconds(self.on_path)
        own = cpu_of(self.mesh, self.ends(path, source))
        if watcher:
            watcher.start()
        process = start(self.mesh, source, [
            load.mode, "--to", to, "--connections", str(load.connections), "--warmup", str(self.warmup),
            "--seconds", str(seconds), *load.flags])
        try:
            result = finish(process, timeout=seconds + 60)
        finally:
            if watcher:
                watcher.stop()
        after = settle(self.mesh)  # what still was on its way is part of the load's CPU
        result["cpu_seconds"] = cpu_seconds(self.on_path) - cpu
        result["cpu_per_unit"] = cpu_per_unit(load, result, result["cpu_seconds"])
        result["own_cpu_per_unit"] = cpu_per_unit(load, result, cpu_of(self.mesh, self.ends(path, source)) - own)
        if result["errors"]:
            raise RuntimeError(f"{leg}: {result['errors']} errors, the first: {result['first_error']}")
        if not result["all_bytes"] or (load.mode != "bulk" and not result["samples"]):
            if attempts > 1:  # a machine that stood still for all of a short load: nothing was measured
                self.say(f"{leg}: nothing was answered, once more")
                return self.leg(path, load, leg, watcher, seconds, attempts - 1)
            raise RuntimeError(f"{leg}: nothing was answered")
        if straight:
            direct.check(load, result, seen, direct.Seen(self.mesh, source), before, after)
        elif leg == "mesh":
            check_mesh(path, load, result, before, after)
        else:
            check_plain(before, after)
        return result

    def run(self, wanted, leg_of=None):
        """{(path, load name): (rounds of results, why there is no row)}"""
        leg_of = leg_of or Bench.leg
        samples = {(path, load.name): [] for path, load in wanted}
        refused = {}
        started = time.monotonic()
        for number in range(self.options.rounds):
            for at, (path, load) in enumerate(wanted):
                key = (path, load.name)
                if key in refused:
                    continue
                done = number * len(wanted) + at
                left = (time.monotonic() - started) / done * (
                    self.options.rounds * len(wanted) - done) if done else 0
                self.say(f"round {number + 1}/{self.options.rounds}: {path}, {load.name}"
                         + (f" (about {left / 60:.0f} min left)" if left > 90 else ""))
                legs = ["mesh", "plain", "again"]
                if number % 2:
                    legs.reverse()
                try:
                    samples[key].append({leg: leg_of(self, path, load, leg) for leg in legs})
                except (Misrouted, RuntimeError) as wrong:
                    refused[key] = str(wrong)
                    self.failures += 1
                    self.say(f"refused: {wrong}")
        return samples, refused


def parse():
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true",
                        help="one short round, about three minutes: shows that it works, no figures "
                             "to quote")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds to take medians of (5)")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of one load (1.5)")
    parser.add_argument("--path", action="append", choices=[p.replace(" ", "-") for p in PATHS],
                        help="only this path; may be repeated")
    parser.add_argument("--only", default="", metavar="TEXT",
                        help="only loads whose name contains TEXT, such as bulk, HTTP or upgrade")
    parser.add_argument("--idle-connections", type=int, metavar="N",
                        help="held while memory is read (10000, or what the limit of open files lets be); 0 leaves memory out")
    parser.add_argument("--workloads", default=None, metavar="N,N",
                        help="sizes of the mesh that a node proxy is started in (10000,100000); 0 leaves it out")
    parser.add_argument("--no-fairness", action="store_true", help="leave out what a neighbour does to another pod's p99")
    parser.add_argument("--no-upgrades", action="store_true", help="leave out what an upgrade does to connections that live through it")
    parser.add_argument("--history", default="build/bench-history.jsonl", metavar="FILE",
                        help="a line for this run is added to it (build/bench-history.jsonl)")
    parser.add_argument("-o", "--output", default="build/bench.json", metavar="FILE",
                        help="where the JSON goes (build/bench.json)")
    parser.add_argument("--markdown", action="store_true",
                        help="print the ratios as a Markdown table too")
    parser.add_argument("--name", default="bench", metavar="MESH", help="name of the mesh (bench)")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (0.5 if options.quick else 1.5)
    if options.rounds < 1 or not 0.05 <= options.seconds <= 60:
        parser.error("--rounds is at least 1, --seconds between 0.05 and 60")
    if options.idle_connections is None:
        options.idle_connections = min(10000, memory.most())
    if not 0 <= options.idle_connections <= memory.most():
        parser.error(f"--idle-connections is at most {memory.most()} here (hard limit of open files: ulimit -Hn)")
    wanted = [(path, load) for path in PATHS for load in LOADS
              if (not options.path or path.replace(" ", "-") in options.path)
              and options.only.lower() in load.name.lower()]
    if not wanted and not cold.wanted(options) and not beside.wanted(options) and not upgrade.names(options):
        parser.error(f"--only {options.only}: no such load; there are: "
                     + "; ".join(load.name for load in (*LOADS, *cold.LOADS, beside.LOAD)) + "; upgrade")
    # As for memory, an --only asks for something else.
    sizes = options.workloads or ("0" if options.only or options.path else "1000" if options.quick else "10000,100000")
    if not all(size.isdigit() for size in sizes.split(",")):
        parser.error("--workloads is a list of numbers, such as 10000,100000")
    options.sizes = [int(size) for size in sizes.split(",") if int(size)]
    return options, wanted


@contextlib.contextmanager
def mesh_of(name, environment=None):
    """The mesh, taken down whatever happens; a second signal does not stop the taking down."""
    Bench.say(f"bringing up the mesh '{name}', two nodes")
    lock = open(f"/run/qanat-bench-{name}.lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(f"another bench runs the mesh '{name}'; give --name ANOTHER") from None

    def on_signal(number, _frame):
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    # By default a pod has a share of the process's descriptors, which is few where a machine has few.
    mesh = Mesh(name=name, environment={"QANAT_MAX_CONNECTIONS_PER_POD": "20000", "QANAT_SAME_NODE": "direct",
                                         **(environment or {})})
    try:
        mesh.write("bench.yaml", YAML)
        yield mesh.up()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        Bench.say("taking the mesh down")
        mesh.down()
        deadline = time.monotonic() + 30  # the kernel takes groups and namespaces apart in its own time
        while (left := leftovers(name)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            raise SystemExit("the mesh left behind: " + ", ".join(left))
        os.unlink(lock.name)


def leftovers(name):
    if os.environ.get("QANAT_KEEP"):
        return []
    found = [f"/run/netns/{n}" for n in os.listdir("/run/netns") if n.startswith(f"qanat-{name}-")]
    found += [p for p in (f"/run/qanat/{name}", f"{cgroup2()}/qanat-{name}") if os.path.exists(p)]
    pins = "/sys/fs/bpf/qanat"
    if os.path.isdir(pins):
        found += [f"{pins}/{n}" for n in os.listdir(pins) if n.startswith(f"{name}-")]
    return found


def repeat(options):
    words = ["./run", "bench", "--rounds", str(options.rounds), "--seconds", f"{options.seconds:g}"]
    for path in options.path or []:
        words += ["--path", path]
    if options.only:
        words += ["--only", options.only]
    if options.no_fairness:
        words.append("--no-fairness")
    if options.no_upgrades:
        words.append("--no-upgrades")
    if options.workloads is not None:
        words += ["--workloads", options.workloads]
    if options.idle_connections != min(10000, memory.most()):
        words += ["--idle-connections", str(options.idle_connections)]
    if options.name != "bench":
        words += ["--name", options.name]
    return shlex.join(words)


def main():
    options, wanted = parse()
    machine = report.machine()
    if machine["load_average_before"] > machine["cpus"] / 2:
        Bench.say(f"this machine is busy (load {machine['load_average_before']:.1f} on "
                  f"{machine['cpus']} processors): expect a wide A/A")
    besides, upgrading = beside.wanted(options), upgrade.names(options)
    number = len(wanted) + len(besides)
    minutes = (options.rounds * number * 3 * (options.seconds + warmup(options) + 0.2) + 30) / 60
    Bench.say(f"{number} loads, {options.rounds} rounds: about {minutes:.0f} min")
    with mesh_of(options.name) as mesh:
        bench = Bench(mesh, options)
        proxied = [(path, load) for path, load in wanted if path in PROXIED]
        paths = [path for path in PROXIED if any(path == p for p, _ in proxied)]
        held = memory.measure(bench, paths, options.idle_connections) if options.idle_connections else []
        shipped = not any(memory.instrumented(pid) for pid in bench.programs.values())
        too_much = memory.over(held) if shipped else []
        samples, refused = bench.run(wanted)
        if besides:
            more, why = bench.run(besides, beside.leg)
            samples, refused = samples | more, refused | why
        counted, profiles = counts.measure(bench, proxied), counts.profile(bench, proxied)
        fair = [] if options.no_fairness or options.only or "cross node" not in paths else fairness.measure(bench, options.rounds)
        sizes = workloads.measure(bench, options.sizes)
        too_much += workloads.over(sizes) if shipped else []
        upgrades = upgrade.measure(bench, upgrading)
        costs = bpf_cost.measure(bench, wanted)
        version = mesh.ctl("--version").stdout.strip()
    without = []
    if costs:
        with mesh_of(options.name, bpf_cost.WITHOUT) as mesh:
            other = Bench(mesh, options)
            without = bpf_cost.measure(other, wanted)
            bench.failures += other.failures
    if colds := cold.wanted(options):
        with mesh_of(options.name, cold.ENVIRONMENT) as mesh:
            cold_bench = Bench(mesh, options)
            more, why = cold_bench.run(colds, cold.leg)
            bench.failures += cold_bench.failures
            samples, refused = samples | more, refused | why
    rows = [report.make_row(path, load, figure, samples[path, load.name],
                            refused.get((path, load.name)))
            for path, load in wanted + besides + colds for figure in load.figures]
    out = {"version": version, "machine": machine, "congestion_control": bench.congestion_control, "rounds": options.rounds,
           "seconds": options.seconds, "waypoint_node": bench.waypoint_node,
           "command": repeat(options), "rows": rows, "counts": counted, "profiles": profiles,
           "kernel_programs": {"with_records": costs, "without": without},
           "fairness": fair, "upgrades": upgrades, "memory_kb": held, "workloads": sizes}
    report.write(options.output, out)
    worse = history.add(options.history, out)
    print(report.table(rows))
    for text in (report.counts_table(counted), bpf_cost.table(costs, without), report.profile_table(profiles)):
        if text:
            print(text)
    if fair:
        print(report.fairness_table(fair))
    if upgrades:
        print(report.upgrades_table(upgrades))
    if held:
        print(report.memory_table(held))
    if sizes:
        print(report.workloads_table(sizes))
    if options.markdown:
        print(report.markdown(rows))
    for line in too_much:
        print(f"more memory than it may be: {line}")
    for line in upgrade.over(upgrades):
        print(f"a longer stall than it may be: {line}")
    for line in worse:
        print(f"worse than before: {line}")
    if options.rounds < 5:
        print("fewer than five rounds: nothing here is a figure to quote")
    print(f"written to {options.output}; repeat: {repeat(options)}")
    if bench.failures:
        print(f"{bench.failures} measurements were refused; the reasons are above", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
