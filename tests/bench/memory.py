# SPDX-License-Identifier: Apache-2.0
"""Resident memory of each process: of a mesh that has carried nothing yet, then with many idle
connections on each path, one path after the other. A process keeps freed memory, so these come
before every load, and a later path's figure is that of a process that held the earlier one's."""
import resource
import time

from pods import start, stop
from process import rss_kb, status_kb
from proof import CLOSED, OPENED, Counters, Misrouted, hops, settle

STALLED = 20  # seconds without one connection more
# What a node proxy may have, as it is shipped: idle, and more for each idle connection of a path it
# is on. Somewhat above what it has (DECISIONS.md), for a machine with other libraries.
IDLE_KB = 12 * 1024
CONNECTION_BYTES = 4096


def most():
    """How many idle connections a node proxy can hold here: two descriptors each on the same node, and what it keeps."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return (1 << 20) if limit == resource.RLIM_INFINITY else (limit * 15 // 16 - 500) // 2


def measure(bench, paths, connections):
    own = {name: status_kb(pid, "RssAnon") for name, pid in bench.programs.items()}
    out = [{"state": "idle", "kb": all_rss(bench), "own_kb": own, "refused": None}]
    for path in paths:
        bench.say(f"memory: {connections} idle connections, {path}")
        entry = {"state": f"{connections} on {path}", "connections": connections, "kb": {}, "refused": None}
        try:
            entry["kb"] = hold(bench, path, connections)
        except Misrouted as wrong:
            bench.refuse(entry, wrong)
        out.append(entry)
    return out


def over(entries):
    """What is more than it may be, of node proxies; `entries` is what measure() returns."""
    out = []
    for before, entry in zip([None] + entries, entries):
        for program, kb in entry["kb"].items():
            if not program.startswith("ztunnel-"):
                continue
            if before is None:
                if kb > IDLE_KB:
                    out.append(f"{program} has {kb} kB when it is idle, {IDLE_KB} are enough")
            elif program in before["kb"]:
                count = int(entry["state"].split()[0])
                more = (kb - before["kb"][program]) * 1024
                if more > CONNECTION_BYTES * count + (2 << 20):
                    out.append(f"{program} has {more // count} bytes more for each of {entry['state']}, "
                               f"{CONNECTION_BYTES} are enough")
    return out


def instrumented(pid):
    """With a sanitizer a process reserves terabytes, and says nothing about the shipped one."""
    with open(f"/proc/{pid}/status") as f:
        size = next(int(line.split()[1]) for line in f if line.startswith("VmSize:"))
    return size > 1 << 30


def all_rss(bench):
    return {name: rss_kb(pid) for name, pid in bench.programs.items()}


def hold(bench, path, connections):
    before = settle(bench.mesh)
    source, to = bench.target(path, "mesh", bench.echo_port)
    load = start(bench.mesh, source, ["idle", "--connections", str(connections), "--seconds", "300",
                                      "--to", to])
    try:
        last, deadline = "", 0.0
        while missing := absent(bench, path, before, connections):
            if missing != last:  # they still come
                last, deadline = missing, time.monotonic() + STALLED
            if time.monotonic() > deadline:
                break
            if load.poll() is not None:
                raise Misrouted(f"the client ended: {load.stderr.read().strip()}")
            time.sleep(0.2)
        time.sleep(0.5)
        kb = all_rss(bench)
        missing = absent(bench, path, before, connections)
        if missing:
            raise Misrouted(missing)
        return kb
    finally:
        stop(load)


def absent(bench, path, before, connections):
    """What is missing at a hop of the path while the connections are held; "" if nothing is."""
    now = Counters(bench.mesh)
    for program, labels in hops(path):
        held = sum(sign * (now.sum(program, metric, **labels) - before.sum(program, metric, **labels))
                   for metric, sign in ((OPENED, 1), (CLOSED, -1)))
        if held < connections:
            return f"{program} holds {held:.0f} of {connections} connections {labels}"
    return ""
