# SPDX-License-Identifier: Apache-2.0
"""What one pod's load does to another pod's latency: HTTP of `client` at half of what it could have, alone and beside
a neighbour on the same node that goes to the same pod. The ratio is taken within a round."""
import time
from statistics import median

from loads import LOADS
from pods import ECHO, HTTP, finish, start, stop
from proof import OPENED, Counters, Misrouted

CONNECTIONS = 64
PEAK = next(load for load in LOADS if load.name.startswith("HTTP/1.1 requests/s"))


def neighbours(quick):
    """What the neighbour does. Who sends to the echo server and never reads is a slow reader."""
    idle = 1000 if quick else 10000
    return ((f"{idle} idle connections", ("idle", ECHO, idle)), ("8 slow readers", ("bulk", ECHO, 8)))


def measure(bench, rounds):
    """[{"row", "alone_us", "beside_us", "ratio", "rounds", "refused"}]"""
    peak = bench.leg("cross node", PEAK, "mesh")["per_second"]
    rate = peak / 2
    out = []
    for name, neighbour in neighbours(bench.options.quick):
        row = {"row": f"p99 at {rate:.0f}/s beside {name}", "rounds": [], "refused": None}
        out.append(row)
        try:
            for number in range(rounds):
                bench.say(f"fairness {number + 1}/{rounds}: {name}")
                legs = ("alone_us", "beside_us")
                row["rounds"].append({leg: p99(bench, rate, neighbour if leg == "beside_us" else None)
                                      for leg in (legs if number % 2 == 0 else reversed(legs))})
        except (Misrouted, RuntimeError) as wrong:
            bench.failures += 1
            row["refused"] = str(wrong)
            bench.say(f"refused: {wrong}")
            continue
        for leg in ("alone_us", "beside_us"):
            row[leg] = median(r[leg] for r in row["rounds"])
        row["ratio"] = median(r["beside_us"] / r["alone_us"] for r in row["rounds"])
    return out


def p99(bench, rate, neighbour):
    if neighbour is None:
        return ask(bench, rate)
    mode, port, connections = neighbour
    before = held(bench)
    load = start(bench.mesh, "mesh/near", [mode, "--to", f"{bench.mesh.ip('mesh/far')}:{port}", "--connections", str(connections),
                                           "--seconds", "300"])
    try:
        deadline = time.monotonic() + 120
        while held(bench) - before < connections:
            if load.poll() is not None:
                raise RuntimeError(f"the neighbour ended: {load.stderr.read().strip()}")
            if time.monotonic() > deadline:
                raise Misrouted(f"the neighbour has {held(bench) - before:.0f} of {connections} connections")
            time.sleep(0.2)
        time.sleep(1)  # what a slow reader can fill is full by then
        return ask(bench, rate)
    finally:
        stop(load)


def held(bench):
    return Counters(bench.mesh).sum("ztunnel-node1", OPENED, reporter="source", source_workload="near")


def ask(bench, rate, attempts=3):
    process = start(bench.mesh, "mesh/client", ["http", "--to", f"{bench.mesh.ip('mesh/far')}:{HTTP}", "--connections", str(CONNECTIONS),
                                                "--rate", f"{rate:.0f}", "--warmup", str(bench.warmup),
                                                "--seconds", str(bench.options.seconds)])
    result = finish(process, timeout=bench.options.seconds + 60)
    if not result["errors"] and not result["samples"] and attempts > 1:
        return ask(bench, rate, attempts - 1)  # this machine stood still for all of it: nothing was measured
    if result["errors"] or not result["samples"]:
        raise RuntimeError(f"{result['errors']} errors, the first: {result['first_error']}")
    return result["p99_us"]
