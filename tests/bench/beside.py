# SPDX-License-Identifier: Apache-2.0
"""Interactive traffic beside bulk: 1-byte round trips of a pod to another one while a stream of the same pod to the same pod
takes all it can get. Plain has its stream beside it too, so the ratio says what the way through the tunnels adds to that, not
what sharing two cores and a link costs."""
import time

from loads import LOADS, Load, cpu_per_unit
from pods import ECHO, cpu_of, finish, start, stop
from process import cpu_seconds
from proof import check_mesh, check_plain, settle

PATH = "cross node"
LOAD = Load("round trips beside bulk", "rr+bulk", ECHO, 1, (),
            (("1-byte round trip beside bulk, p50", "p50_us", "us"), ("1-byte round trip beside bulk, p99", "p99_us", "us"),
             ("bulk beside 1-byte round trips", "gbit_s", "Gbit/s")))
ROUND_TRIP = next(load for load in LOADS if load.mode == "rr" and load.connections == 1)
BULK = next(load for load in LOADS if load.mode == "bulk" and load.connections == 1)
AROUND = 0.5  # seconds that the stream begins before and ends after the others


def wanted(options):
    if options.path and PATH.replace(" ", "-") not in options.path:
        return []
    return [(PATH, LOAD)] if any(options.only.lower() in text.lower() for text in (LOAD.name, *(f[0] for f in LOAD.figures))) else []


def flags(to, load, warmup, seconds):
    return [load.mode, "--to", to, "--connections", "1", "--warmup", f"{warmup:g}", "--seconds", f"{seconds:g}"]


def leg(bench, path, load, which, attempts=3):
    """Both at once, once; Misrouted or RuntimeError as Bench.leg. CPU is that of both, over what the stream carried."""
    source, echo = bench.target(path, which, ROUND_TRIP.port)
    _, sink = bench.target(path, which, BULK.port)
    seconds = bench.options.seconds
    before = settle(bench.mesh)
    cpu, own = cpu_seconds(bench.on_path), cpu_of(bench.mesh, bench.ends(path, source))
    bulk = start(bench.mesh, source, flags(sink, BULK, AROUND, bench.warmup + seconds + AROUND))
    try:
        time.sleep(AROUND)
        asked = finish(start(bench.mesh, source, flags(echo, ROUND_TRIP, bench.warmup, seconds)), timeout=seconds + 60)
        beside = bulk.poll() is None
        carried = finish(bulk, timeout=seconds + 60)
    finally:
        stop(bulk)
    after = settle(bench.mesh)
    for result in (asked, carried):
        if result["errors"]:
            raise RuntimeError(f"{which}: {result['errors']} errors, the first: {result['first_error']}")
    if not beside or not asked["samples"] or not carried["all_bytes"]:
        if attempts > 1:  # a machine that stood still for a while
            bench.say(f"{which}: not all of it was beside the bulk, once more")
            return leg(bench, path, load, which, attempts - 1)
        raise RuntimeError(f"{which}: the round trips were not beside the bulk")
    if which == "mesh":
        both = {"opened": asked["opened"] + carried["opened"], "all_bytes": carried["all_bytes"] + asked["all_samples"],
                "all_samples": asked["all_samples"]}
        check_mesh(path, BULK, both, before, after)
        check_mesh(path, ROUND_TRIP, asked, before, after)
    else:
        check_plain(before, after)
    used = cpu_seconds(bench.on_path) - cpu
    return {**asked, "gbit_s": carried["gbit_s"], "cpu_seconds": used, "cpu_per_unit": cpu_per_unit(BULK, carried, used),
            "own_cpu_per_unit": cpu_per_unit(BULK, carried, cpu_of(bench.mesh, bench.ends(path, source)) - own)}
