# SPDX-License-Identifier: Apache-2.0
"""Whether a load went where its row says: the proxies' own counters around every load.

A load of the mesh must show at each hop of its path, with the labels of that hop, at least the
connections that the client opened and the bytes that it moved. A plain load must leave every
counter of every proxy as it was. What was not where it should be is Misrouted, and has no row.
"""
import http.client
import os
import re
import time

from bed import LIBC

LINE = re.compile(r"^(istio_tcp_\w+|istio_requests_total)\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
OPENED, CLOSED = "istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"
RECEIVED, SENT = "istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total"
REQUESTS = "istio_requests_total"
TRAFFIC = (OPENED, RECEIVED, SENT, REQUESTS)


class Misrouted(Exception):
    pass


def get_inside(netns, port, path):
    """GET from a server that listens inside a network namespace."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        if LIBC.setns(there, 0) != 0:
            raise OSError(f"setns {netns}")
        try:
            connection.connect()  # a socket stays in the namespace that it was made in
        finally:
            LIBC.setns(home, 0)
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()
        os.close(there)
        os.close(home)


class Counters:
    """One reading of the traffic counters of every proxy."""

    def __init__(self, mesh):
        self.series = {}
        for program in mesh.state()["programs"]:
            name = program["name"]
            if name.startswith("ztunnel-"):
                netns, path = mesh.node_netns(name.split("-", 1)[1]), "/metrics"
            elif name.startswith("waypoint-"):
                netns, path = mesh.pod_netns("mesh/waypoint"), "/stats/prometheus"
            else:
                continue
            page = get_inside(netns, 15020, path)
            self.series[name] = [(metric, dict(LABEL.findall(labels)), float(value))
                                 for metric, labels, value in LINE.findall(page)]

    def sum(self, program, metric, **labels):
        return sum(value for name, have, value in self.series.get(program, ())
                   if name == metric and labels.items() <= have.items())

    def total(self, metric, **labels):
        return sum(self.sum(program, metric, **labels) for program in self.series)

    def open(self):
        """Connections of the client that a proxy still has. What the waypoint keeps open to the
        pods does not count: it is meant to stay."""
        client = {"source_workload": "client"}
        return int(self.total(OPENED, **client) - self.total(CLOSED, **client))

    def traffic(self):
        return [self.total(metric) for metric in TRAFFIC]


def settle(mesh, seconds=60):
    """Waits until every connection of the client has ended and nothing moves, so that one load is
    not in the next one's figures; returns the counters of then."""
    deadline = time.monotonic() + seconds
    last = None
    while True:
        now = Counters(mesh)
        if now.open() == 0 and now.traffic() == last:
            return now
        last = now.traffic()
        if time.monotonic() > deadline:
            raise Misrouted(f"{now.open()} connections are still open in the proxies {seconds} s "
                            "after their load ended")
        time.sleep(0.03)


def hops(path):
    """(proxy, labels that its series of this path carry), in the order of the way."""
    client = {"source_workload": "client", "source_workload_namespace": "mesh"}
    mtls = {"connection_security_policy": "mutual_tls"}
    source = {"reporter": "source", **client}
    if path == "same node":
        return [("ztunnel-node1", {**source, "destination_workload": "near"})]
    if path == "cross node":
        return [("ztunnel-node1", {**source, **mtls, "destination_workload": "far"}),
                ("ztunnel-node2", {"reporter": "destination", **client, **mtls,
                                   "destination_workload": "far"})]
    service = {"destination_service_name": "far"}
    return [("ztunnel-node1", {**source, **mtls, **service}),
            ("waypoint-mesh-waypoint", {"reporter": "waypoint", **client, **mtls, **service}),
            ("ztunnel-node2", {"reporter": "destination", **mtls, "destination_workload": "far"})]


def check_mesh(path, load, result, before, after):
    """Raises Misrouted unless `load` over `path` is seen at every hop."""
    connections = result["opened"] - load.connections  # the last ones may end before they are used
    requests = result["all_samples"]
    up, down = {"bulk": (result["all_bytes"], 0), "http": (requests, requests * 1024)}.get(
        load.mode, (requests, requests))
    for number, (program, labels) in enumerate(hops(path)):
        is_waypoint = program.startswith("waypoint-")
        wanted = {OPENED: connections, RECEIVED: up, SENT: down}
        if load.mode == "http" and path == "waypoint":
            if is_waypoint:
                wanted = {REQUESTS: requests}
                labels = {**labels, "response_code": "200"}
            elif number > 0:
                del wanted[OPENED]  # the waypoint keeps its connections to the pods
        for metric, least in wanted.items():
            moved = after.sum(program, metric, **labels) - before.sum(program, metric, **labels)
            if moved < least:
                raise Misrouted(f"{program} counted {moved:.0f} of {metric}{labels}, "
                                f"the load made {least:.0f}")


def check_plain(before, after):
    """Raises Misrouted if any proxy saw anything."""
    for program in after.series:
        for metric in TRAFFIC:
            moved = after.sum(program, metric) - before.sum(program, metric)
            if moved != 0:
                raise Misrouted(f"{program} counted {moved:.0f} of {metric} while plain TCP ran")


def check_enrolment(pods):
    """`pods` of `qanatctl local status -o json`: all of mesh captured, none of plain."""
    for pod in pods:
        wanted = {"mesh": "enabled", "plain": "disabled"}.get(pod["namespace"])
        if pod["name"] == "waypoint" or wanted is None:
            continue
        captured = "enabled" if pod["redirection"] == "enabled" else "disabled"
        if captured != wanted:
            raise Misrouted(f"{pod['namespace']}/{pod['name']} has redirection "
                            f"\"{pod['redirection']}\", the bench needs it {wanted}")
