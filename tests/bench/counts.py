# SPDX-License-Identifier: Apache-2.0
"""What a connection, a round trip and a GiB cost in system calls and in instructions: figures that a busy machine does not
change, so that a small gain or loss shows. And where the CPU time of a load goes, by function."""
import time

from kernel_counters import Counters, Samples
from loads import LOADS
from proof import Misrouted
from symbols import Symbols

COUNTED = tuple(load for load in LOADS if load.mode in ("rr", "connect") or load.name == "bulk, 1 connection")
PROFILED = tuple(load for load in LOADS if load.name in ("bulk, 1 connection", "1-byte round trip", "HTTP/1.1 at 1000/s",
                                                           "new connections/s, 32 clients"))
TOP = 20
QUIET = 0.2  # seconds in which the last connections of a load end
UNITS = {"rr": ("round trip", 1), "connect": ("connection", 1), "bulk": ("GiB", 1 << 30), "http": ("request", 1)}


def units(load, result):
    name, size = UNITS[load.mode]
    return name, (result["all_bytes"] if load.mode == "bulk" else result["all_samples"]) / size


def proxies(bench):
    """Ztunnels and waypoints; an agent has no part in a connection."""
    return {name: pid for name, pid in bench.programs.items() if name.startswith(("ztunnel-", "waypoint-"))}


class Counting:
    """A leg's watcher: counters of each proxy by itself."""

    def __init__(self, programs):
        self.counters = {name: Counters([pid]) for name, pid in programs.items()}
        self.got = {}

    def start(self):
        for counters in self.counters.values():
            counters.start()

    def stop(self):
        time.sleep(QUIET)
        self.got = {name: counters.stop() for name, counters in self.counters.items()}


def total(parts):
    return sum(parts) if parts and all(part is not None for part in parts) else None


def per_unit(got, count):
    """`got` of Counters.stop() by program -> a row's figures."""
    def each(value):
        return None if value is None else value / count
    names = {name for one in got.values() for name in one["by_name"]}
    by_name = {name: sum(one["by_name"].get(name, 0) for one in got.values()) / count for name in names}
    return {"system_calls": each(total([one["system_calls"] for one in got.values()])),
            "instructions": each(total([one["instructions"] for one in got.values()])),
            "by_program": {name: {key: each(one[key]) for key in ("system_calls", "instructions")} for name, one in got.items()},
            # What happens less than once in fifty is the clock's or the bench's.
            "by_call": dict(sorted(((name, n) for name, n in by_name.items() if n >= 0.02), key=lambda item: -item[1]))}


def measure(bench, wanted):
    """[{"path", "row", "per", "system_calls", "instructions", "by_program", "by_call", "refused"}]"""
    out = []
    for path, load in wanted:
        if load not in COUNTED:
            continue
        bench.say(f"counting: {path}, {load.name}")
        row = {"path": path, "row": load.name, "per": UNITS[load.mode][0], "refused": None}
        out.append(row)
        counting = Counting(proxies(bench))
        try:
            result = bench.leg(path, load, "mesh", counting, bench.options.seconds / 2)
        except (Misrouted, RuntimeError) as wrong:
            bench.refuse(row, wrong)
            continue
        row |= per_unit(counting.got, units(load, result)[1])
    return out


class Sampling:
    def __init__(self, programs):
        self.programs, self.symbols, self.counts, self.lost = programs, Symbols(), {}, 0

    def start(self):
        self.samples = Samples(self.programs.values())

    def stop(self):
        for pid in self.programs.values():
            self.symbols.read_maps(pid)
        self.counts = self.samples.stop()
        self.lost = self.samples.lost


def top(counts, name):
    """`counts` {(pid, address): samples}, `name` (pid, address) -> (function, where). The functions with the most samples."""
    functions, everything = {}, sum(counts.values())
    for key, samples in counts.items():
        function = name(*key)
        functions[function] = functions.get(function, 0) + samples
    ordered = sorted(functions.items(), key=lambda item: (-item[1], item[0]))
    return [{"function": function, "where": where, "share": samples / everything} for (function, where), samples in ordered[:TOP]]


def profile(bench, wanted):
    """[{"path", "row", "samples", "lost", "in_kernel", "top": [{"function", "where", "share"}], "refused"}]"""
    out = []
    for path, load in wanted:
        if load not in PROFILED:
            continue
        bench.say(f"profile: {path}, {load.name}")
        row = {"path": path, "row": load.name, "refused": None}
        out.append(row)
        sampling = Sampling(proxies(bench))
        try:
            bench.leg(path, load, "mesh", sampling)
        except (Misrouted, RuntimeError, OSError) as wrong:
            bench.refuse(row, wrong)
            continue
        row["samples"], row["lost"] = sum(sampling.counts.values()), sampling.lost
        row["in_kernel"] = sum(n for (_, address), n in sampling.counts.items() if address >> 63) / max(row["samples"], 1)
        row["top"] = top(sampling.counts, sampling.symbols.name)
    return out
