# SPDX-License-Identifier: Apache-2.0
"""New connections of which each needs a tunnel of its own: no tunnel is kept (POOL_UNUSED_RELEASE_TIMEOUT=0s) and none has two
streams (POOL_MAX_STREAMS_PER_CONNECTION=1), so with one client each finds a peer as cold as the first one did. With 32 the
handshakes are the load; there who waits for a tunnel is given one that is free by then, so what counts is the tunnels made, and
their CPU has the connections in it that needed none. The certificates are there. A mesh of its own, as the settings are those of
the program's start."""
import re

from loads import Load
from pods import ECHO
from proof import Misrouted, get_inside

ENVIRONMENT = {"POOL_UNUSED_RELEASE_TIMEOUT": "0s", "POOL_MAX_STREAMS_PER_CONNECTION": "1"}
PATH = "cross node"
LOADS = (
    Load("first connection to a cold peer", "connect", ECHO, 1, (),
         (("first connection to a cold peer, p50", "p50_us", "us"), ("first connection to a cold peer, p99", "p99_us", "us"))),
    Load("TLS connections/s, 32 clients", "connect", ECHO, 32, (),
         (("TLS connections/s, 32 clients", "tunnels_per_second", "/s"),)),
)


def wanted(options):
    if options.path and PATH.replace(" ", "-") not in options.path:
        return []
    return [(PATH, load) for load in LOADS if options.only.lower() in load.name.lower()]


class Dials:
    """A leg's watcher: how many tunnels were made in it."""

    def __init__(self, bench):
        self.netns, self.made = bench.mesh.node_netns("node1"), 0

    def read(self):
        page = get_inside(self.netns, 15020, "/metrics")
        return sum(float(n) for n in re.findall(r'^qanat_pool_dials(?:_total)?\{pool="direct"\} (\S+)$', page, re.MULTILINE))

    def start(self):
        self.before = self.read()

    def stop(self):
        self.made = self.read() - self.before


def leg(bench, path, load, which):
    """Bench.leg, with the tunnels of the mesh's connections; Misrouted when there were too few of them."""
    if which != "mesh":
        result = bench.leg(path, load, which)
        return {**result, "tunnels_per_second": result["per_second"]}
    dials = Dials(bench)
    result = bench.leg(path, load, which, dials)
    least = (0.9 if load.connections == 1 else 0.3) * (result["opened"] - load.connections)
    if dials.made < least:
        raise Misrouted(f"{dials.made:.0f} tunnels were made for {result['opened']} connections")
    result["tunnels_per_second"] = dials.made / (bench.warmup + bench.options.seconds)
    result["cpu_per_unit"] = result["cpu_seconds"] / (dials.made / 1000)
    return result
