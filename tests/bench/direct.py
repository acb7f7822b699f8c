# SPDX-License-Identifier: Apache-2.0
"""The paths with no proxy in them: two pods of one node that the kernel itself lets through to each other. The first
connection of a pair to a port goes through the node proxy, while the agent answers the kernel's question; so a
path is opened before its loads, and each load must then be seen by the agent alone: as many connections that went
straight, none that was captured, and nothing at any proxy.

The agent of the bench holds the ends to it by the kernel's own counters, the proxies by theirs."""
import re
import time

from pods import finish, start
from proof import Misrouted, check_plain, get_inside, settle

ADMIN = 15030
EVENT = re.compile(r'^qanat_capture_events(?:_total)?\{(.*)\} (\S+)$', re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
CLIENT = "mesh/client"
OPENING = 20  # seconds in which a path has to become direct


class Seen:
    """What the kernel counted of one pod."""

    def __init__(self, mesh, pod, node="node1"):
        namespace, name = pod.split("/")
        self.events = {}
        for labels, value in EVENT.findall(get_inside(mesh.node_netns(node), ADMIN, "/metrics")):
            have = dict(LABEL.findall(labels))
            if (have.get("namespace"), have.get("pod")) == (namespace, name):
                self.events[have["event"]] = float(value)

    def since(self, before, event):
        return self.events.get(event, 0) - before.events.get(event, 0)


def open_path(mesh, to):
    """Makes connections until they go straight. Misrouted when they do not within OPENING seconds."""
    deadline = time.monotonic() + OPENING
    while True:
        before = Seen(mesh, CLIENT)
        finish(start(mesh, CLIENT, ["connect", "--to", to, "--connections", "1", "--warmup", "0", "--seconds", "0.05"]), timeout=30)
        now = Seen(mesh, CLIENT)
        if now.since(before, "direct") > 0 and now.since(before, "captured") == 0:
            settle(mesh)  # what went through the proxy meanwhile is not a load's
            return
        if time.monotonic() > deadline:
            raise Misrouted(f"{to} was not direct within {OPENING} s: the kernel counted {now.events}")
        time.sleep(0.2)


def check(load, result, seen_before, seen_after, before, after):
    """Raises Misrouted unless every connection of the load went straight."""
    check_plain(before, after)
    least = max(1, result["opened"] - load.connections)  # the last ones may end before they are used
    direct, captured = (seen_after.since(seen_before, event) for event in ("direct", "captured"))
    if direct < least or captured:
        raise Misrouted(f"of {least} connections {direct:.0f} went straight and {captured:.0f} were captured")
