#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The table of figures: the mesh as ratios to plain TCP between pods of the same run.

Two nodes on this machine; in each round every load runs once without and once with the mesh, in
alternating order, so that what else the machine does hits both. Medians over the rounds; "A/A" is
plain against plain and says how much of a ratio is noise. CPU is that of all our processes on the
path together. Writes JSON beside the table.

    ./run bench [--rounds 5] [--seconds 2] [--only NAME] [--json FILE]
"""
import argparse
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../netns"))
from bed import BIN, Mesh  # noqa: E402
from fixture import NAMESPACES, once, service  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")


def bench_pod(namespace, name, sa, node, labels=None):
    labels = {"app": name, **(labels or {})}
    return f"""
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {sa}, namespace: {namespace}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels: {{{", ".join(f"{k}: {v}" for k, v in labels.items())}}}
spec:
  nodeName: {node}
  serviceAccountName: {sa}
  containers:
  - name: app
    image: localhost/qanat-loadgen
    command: ["{BIN}/qanat-loadgen", server, --port, "9100"]
    ports: [{{name: echo, containerPort: 9100}}, {{name: http, containerPort: 9102}}]
    readinessProbe: {{tcpSocket: {{port: 9100}}, periodSeconds: 1}}
"""


YAML = once(
    NAMESPACES
    + "".join(bench_pod(ns, name, name, node)
              for ns in ("mesh", "plain")
              for name, node in (("client", "node1"), ("near", "node1"), ("far", "node2")))
    + bench_pod("mesh", "web", "web", "node2")
    + service("mesh", "web", {"app": "web"}, {"istio.io/use-waypoint": "waypoint"})
    + """
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: waypoint
  namespace: mesh
  labels: {istio.io/waypoint-for: service}
spec:
  gatewayClassName: qanat-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
""")

# name, mode, port, connections, figure, extra flags
LOADS = [
    ("bulk, 1 connection", "bulk", 9101, 1, "gbit_s", []),
    ("bulk, 16 connections", "bulk", 9101, 16, "gbit_s", []),
    ("1-byte round trip, p50", "rr", 9100, 1, "p50_us", []),
    ("1-byte round trip, p99", "rr", 9100, 1, "p99_us", []),
    ("64 connections, round trips/s", "rr", 9100, 64, "per_second", []),
    ("new connections/s, 1 client", "connect", 9100, 1, "per_second", []),
    ("new connections/s, 32 clients", "connect", 9100, 32, "per_second", []),
    ("HTTP/1.1 1000 rps p50", "http", 9102, 64, "p50_us", ["--rate", "1000"]),
    ("HTTP/1.1 1000 rps p99", "http", 9102, 64, "p99_us", ["--rate", "1000"]),
    ("HTTP/1.1 maximum", "http", 9102, 64, "per_second", []),
]


def loadgen(flags):
    import subprocess
    done = subprocess.run([f"{BIN}/qanat-loadgen", *flags], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def cpu_seconds(pids):
    total = 0.0
    for pid in pids:
        try:
            fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def rss_kb(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


class Bench:
    def __init__(self, mesh, options):
        self.mesh, self.options = mesh, options
        self.programs = {p["name"]: p["pid"] for p in mesh.state()["programs"]}
        self.rows = {}

    def target(self, path, port):
        """(pod that calls, address) of the meshed and the plain way."""
        if path == "waypoint":
            files = self.mesh.ctl("services", "--name", self.mesh.name, "-o", "json").stdout
            vip = next(s for s in json.loads(files) if s["name"] == "web")["vip"]
            return ("mesh/client", f"{vip}:80"), ("plain/client", f"{self.mesh.ip('plain/far')}:{port}")
        pod = {"same node": "near", "cross node": "far"}[path]
        return ("mesh/client", f"{self.mesh.ip('mesh/' + pod)}:{port}"), ("plain/client", f"{self.mesh.ip('plain/' + pod)}:{port}")

    def once(self, source, flags):
        pids = [pid for name, pid in self.programs.items() if name.startswith(("ztunnel", "agent", "waypoint"))]
        before = cpu_seconds(pids)
        result = self.mesh.call(source, loadgen, flags, timeout=150)
        result["cpu_seconds"] = cpu_seconds(pids) - before
        if result["errors"]:
            raise RuntimeError(f"{source} {flags}: {result['errors']} errors, {result['first_error']}")
        return result

    def run(self):
        wanted = [(path, load) for path in ("same node", "cross node", "waypoint") for load in LOADS
                  if not (path == "waypoint" and load[1] != "http")
                  and (not self.options.only or self.options.only in f"{path} {load[0]}")]
        for round_ in range(self.options.rounds):
            done = {}
            for path, (name, mode, port, connections, figure, extra) in wanted:
                key = (path, mode, connections, tuple(extra))
                if key not in done:  # p50 and p99 come from one run
                    meshed, plain = self.target(path, port)
                    flags = [mode, "--connections", str(connections), "--seconds", str(self.options.seconds), *extra]
                    order = [("mesh", meshed), ("plain", plain), ("again", plain)]
                    if round_ % 2:
                        order.reverse()
                    done[key] = {which: self.once(source, flags + ["--to", to]) for which, (source, to) in order}
                    print(f"  round {round_ + 1}/{self.options.rounds}: {path}, {mode} x{connections}", file=sys.stderr)
                for which, result in done[key].items():
                    row = self.rows.setdefault((path, name), {"figure": figure})
                    row.setdefault(which, []).append(result[figure])
                    row.setdefault(which + "_cpu", []).append(self.cpu(mode, result))

    @staticmethod
    def cpu(mode, result):
        """CPU seconds per GiB for bulk, per 1000 requests or connections for the rest."""
        if mode == "bulk":
            gib = result["gbit_s"] * result["seconds"] / 8 * 1e9 / (1 << 30)
            return result["cpu_seconds"] / gib if gib else 0
        return result["cpu_seconds"] / (result["samples"] / 1000) if result["samples"] else 0

    def memory(self):
        idle = {name: rss_kb(pid) for name, pid in self.programs.items()}
        import concurrent.futures
        meshed, _ = self.target("cross node", 9100)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            held = pool.submit(self.mesh.call, meshed[0], loadgen,
                               ["idle", "--connections", "5000", "--seconds", "8", "--to", meshed[1]], timeout=60)
            time.sleep(6)
            loaded = {name: rss_kb(pid) for name, pid in self.programs.items()}
            held.result()
        return idle, loaded


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", default="build/bench.json")
    options = parser.parse_args()
    mesh = Mesh(name="bench")
    mesh.write("bench.yaml", YAML)
    with mesh:
        bench = Bench(mesh, options)
        bench.run()
        idle, loaded = bench.memory() if not options.only else ({}, {})
    out = {"rounds": options.rounds, "seconds": options.seconds, "rows": [], "memory_kb": {"idle": idle, "5000 idle connections": loaded}}
    print(f"{'':42}{'plain':>12}{'mesh':>12}{'× of plain':>12}{'A/A':>8}{'CPU-s':>10}")
    for (path, name), row in bench.rows.items():
        plain, meshed, again = (statistics.median(row[w]) for w in ("plain", "mesh", "again"))
        cpu = statistics.median(row["mesh_cpu"])
        unit = "/GiB" if name.startswith("bulk") else "/1k"
        print(f"{path + ': ' + name:42}{plain:12.1f}{meshed:12.1f}{meshed / plain:12.2f}{again / plain:8.2f}{cpu:7.3f}{unit}")
        out["rows"].append({"path": path, "load": name, "figure": row["figure"], "plain": plain, "mesh": meshed,
                            "ratio": meshed / plain, "a_a": again / plain, "cpu_seconds": cpu, "cpu_per": unit,
                            "samples": {w: row[w] for w in ("plain", "mesh", "again")}})
    for program in idle:
        print(f"{'memory of ' + program:42}{idle[program] / 1024:10.1f} MB idle, {loaded[program] / 1024:.1f} MB with 5000 idle connections")
    os.makedirs(os.path.dirname(options.json) or ".", exist_ok=True)
    json.dump(out, open(options.json, "w"), indent=1)
    print(f"written to {options.json}; repeat: ./run bench --rounds {options.rounds} --seconds {options.seconds:g}")


if __name__ == "__main__":
    main()
