#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Names as pods ask for them: the agent's hooks give the questions to the node's proxy, whoever was asked,
and what comes back seems to come from there."""
import json
import os
import re
import socket
import struct
import unittest

from bed import MeshCase
from fixture import APPS, NAMESPACES

NEAR = "near.mesh.svc.cluster.local"
# Nobody answers there: an answer can only be the proxy's.
NOBODY4, NOBODY6 = "192.0.2.53", "2001:db8::53"
UDP4, UDP6 = (socket.AF_INET, NOBODY4), (socket.AF_INET6, NOBODY6)


def question(name, kind=1):
    labels = b"".join(struct.pack("!B", len(label)) + label.encode() for label in name.split("."))
    return os.urandom(2) + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def addresses(asked, answer):
    """The IPv4 addresses of an answer to a question for A records, or what is wrong with it."""
    ident, flags, _, count = struct.unpack("!HHHH", answer[:8])
    if answer[:2] != asked[:2] or not flags & 0x8000 or flags & 15:
        return f"id {ident:x} flags {flags:x}"
    found, at = [], len(asked)
    for _ in range(count):
        at += 2  # a pointer to the name that was asked for
        kind, _, _, size = struct.unpack("!HHIH", answer[at:at + 10])
        if kind == 1:
            found.append(socket.inet_ntoa(answer[at + 10:at + 14]))
        at += 10 + size
    return found


def ask(family, server, name, connected=False, seconds=5):
    """(addresses, who answered)"""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(seconds)
        asked = question(name)
        try:
            if connected:
                sock.connect((server, 53))
                if sock.getpeername()[:2] != (server, 53):
                    return "getpeername", sock.getpeername()
                sock.send(asked)
            else:
                sock.sendto(asked, (server, 53))
            answer, who = sock.recvfrom(2048)
        except OSError as error:
            return type(error).__name__, None
        return addresses(asked, answer), who[:2]


def ask_tcp(family, server, name):
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        sock.connect((server, 53))
        asked, who = question(name), sock.getpeername()[:2]
        sock.sendall(struct.pack("!H", len(asked)) + asked)
        answer = b""
        while len(answer) < 2 or len(answer) < 2 + struct.unpack("!H", answer[:2])[0]:
            chunk = sock.recv(2048)
            if not chunk:
                return "closed", who
            answer += chunk
        return addresses(asked, answer[2:]), who


def ask_from_one_socket(servers, name):
    """Each server is asked by one unconnected socket; who answered, and what."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        asked = {}
        for server in servers:
            packet = question(name)
            asked[packet[:2]] = (server, packet)
            sock.sendto(packet, (server, 53))
        got = {}
        for _ in servers:
            answer, who = sock.recvfrom(2048)
            server, packet = asked[answer[:2]]
            got[server] = (who[0], addresses(packet, answer))
        return got


def resolve(name):
    return socket.getaddrinfo(name, None, socket.AF_INET)[0][4][0]


def reach(host, port):
    """What a question and a connection from outside to the proxy's listener meet."""
    udp = ask_port(host, port)
    try:
        socket.create_connection((host, port), 1).close()
        return udp, "connected"
    except OSError as error:
        return udp, type(error).__name__


def ask_port(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.sendto(question(NEAR), (host, port))
        try:
            sock.recvfrom(2048)
            return "answered"
        except OSError as error:
            return type(error).__name__


class Dns(MeshCase):
    files = {"base.yaml": NAMESPACES + "---\n" + APPS}

    def counters(self, pod):
        info = self.mesh.pod_files()[pod]
        pods = json.loads(self.mesh.admin(info["node"], "/pods", 15030)[2])
        return next(p for p in pods if p["uid"] == info["uid"])["counters"]

    def answers(self, origin):
        text = self.mesh.admin("node1", "/metrics", 15020)[2].decode()
        found = re.search(rf'qanat_dns_answers_total{{[^}}]*origin="{origin}"[^}}]*}} (\d+)', text)
        return int(found[1]) if found else 0

    def vip(self):
        return self.mesh.call("mesh/client", resolve, NEAR)

    def test_names_of_the_mesh_from_any_server(self):
        want = [self.vip()]
        for family, server in (UDP4, UDP6):
            for connected in (False, True):
                got = self.mesh.call("mesh/client", ask, family, server, NEAR, connected)
                self.assertEqual(got, (want, (server, 53)), f"connected: {connected}")
            self.assertEqual(self.mesh.call("mesh/client", ask_tcp, family, server, NEAR), (want, (server, 53)))

    def test_the_resolver_of_the_pod_uses_it(self):
        before, asked = self.answers("mesh"), self.counters("mesh/client")["dns"]
        self.vip()
        self.assertGreater(self.answers("mesh"), before)
        self.assertGreater(self.counters("mesh/client")["dns"], asked)
        self.assertEqual(self.counters("mesh/client")["dns_full"], 0)

    def test_each_server_by_itself(self):
        servers = [f"192.0.2.{100 + i}" for i in range(10)]
        want = [self.vip()]
        got = self.mesh.call("mesh/client", ask_from_one_socket, servers, NEAR)
        self.assertEqual(got, {server: (server, want) for server in servers})

    def test_a_pod_outside_the_mesh_asks_as_ever(self):
        self.assertEqual(self.mesh.call("plain/outsider", ask, *UDP4, NEAR, False, 1), ("TimeoutError", None))
        self.assertEqual(self.mesh.call("plain/outsider", ask, socket.AF_INET, "10.96.0.10", NEAR)[1], ("10.96.0.10", 53))

    def test_the_listener_is_the_pods_own(self):
        got = self.mesh.call("plain/outsider", reach, self.mesh.ip("mesh/client"), 15053)
        self.assertEqual(got, ("TimeoutError", "ConnectionRefusedError"))

    def test_the_proof_tells(self):
        info = self.mesh.pod_files()["mesh/client"]
        pods = json.loads(self.mesh.admin(info["node"], "/pods", 15030)[2])
        proof = {step["step"]: step["passed"] for step in next(p for p in pods if p["uid"] == info["uid"])["proof"]}
        for step in ("dns/v4", "dns-connected/v4", "dns/v6", "dns-connected/v6"):
            self.assertIs(proof.get(step), True, proof)


if __name__ == "__main__":
    unittest.main(verbosity=2)
