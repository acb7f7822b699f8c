#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""TCP and HTTP through the mesh, on one node and across nodes: the bytes arrive as sent."""
import hashlib
import json
import os
import socket
import struct
import threading
import unittest

from bed import MeshCase, connect, echo_once, http_get, outcome
from fixture import APPS, NAMESPACES, pod

GIB = 1 << 30


def many_at_once(host, port, count):
    """`count` connections open together, each with its own bytes; returns those that did not get them back."""
    socks = [connect(host, port, 30) for _ in range(count)]
    wrong = []
    try:
        for i, sock in enumerate(socks):
            sock.sendall(struct.pack("!I", i) * 500)
        for i, sock in enumerate(socks):
            want, got, how = struct.pack("!I", i) * 500, b"", "other bytes"
            try:
                while len(got) < len(want):
                    chunk = sock.recv(65536)
                    if not chunk:
                        how = "closed"
                        break
                    got += chunk
            except OSError as error:
                how = repr(error)
            if got != want:
                wrong.append(f"connection {i}: {how} after {len(got)} of {len(want)} bytes")
    finally:
        for sock in socks:
            sock.close()
    return wrong


def upload(host, total):
    pattern = bytes(range(251)) * 4177  # a length that no buffer divides
    digest, left = hashlib.sha256(), total
    with connect(host, 9002, 120) as sock:
        while left:
            chunk = pattern[:min(left, len(pattern))]
            sock.sendall(chunk)
            digest.update(chunk)
            left -= len(chunk)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := sock.recv(4096):
            answer += chunk
    return answer.decode(), f"{total} {digest.hexdigest()}"


def download(host, total):
    want, got = hashlib.sha256(), hashlib.sha256()
    pattern = bytes(range(256)) * 256
    with connect(host, 9003, 120) as sock:
        sock.sendall(f"{total}\n".encode())
        count = 0
        while chunk := sock.recv(1 << 20):
            got.update(chunk)
            count += len(chunk)
    left = total
    while left:
        chunk = pattern[:min(left, len(pattern))]
        want.update(chunk)
        left -= len(chunk)
    return f"{count} {got.hexdigest()}", f"{total} {want.hexdigest()}"


def greeting(host):
    with connect(host, 9001) as sock:
        first = sock.recv(100)  # before we have said a word
        sock.sendall(b"x")
        return first, sock.recv(1)


def server_ends_first(host):
    """The server's direction ends while ours stays open and keeps working."""
    with connect(host, 9003) as sock:
        sock.sendall(b"5\n")
        got = b""
        while chunk := sock.recv(100):
            got += chunk
        sock.sendall(b"still here")
        sock.shutdown(socket.SHUT_WR)
        return len(got)


def reset_is_seen(host):
    with connect(host, 9004) as sock:
        sock.sendall(b"x")
        try:
            return "closed" if sock.recv(1) == b"" else "data"
        except ConnectionResetError:
            return "reset"


def address_of(host, family):
    return socket.getaddrinfo(host, None, family)[0][4][0]


class L4(MeshCase):
    # A pod with DNS settings of its own: names of another namespace are short for it.
    named = pod("mesh", "named", "client", "node1") + """
  dnsConfig:
    nameservers: [10.96.0.77]
    searches: [plain.svc.cluster.local]
    options: [{name: ndots, value: "3"}]
"""
    files = {"base.yaml": NAMESPACES + "---\n" + APPS, "named.yaml": named}

    @staticmethod
    def each():
        """One server on the client's node, one on the other."""
        for server in ("near", "far"):
            yield f"{server}.mesh.svc.cluster.local", f"mesh/{server}"

    def test_http_and_tcp(self):
        for host, _ in self.each():
            status, headers, body = self.mesh.call("mesh/client", http_get, host, 80, "/hello")
            self.assertEqual(status, 200, f"{host}: {body}")
            self.assertEqual(headers.get("x-served-by"), host.split(".")[0], f"{host}: {headers}")
            self.assertEqual(self.mesh.call("mesh/client", echo_once, host, 9000, b"over the service"), b"over the service", host)

    def test_short_names_resolve_as_without_the_mesh(self):
        for name in ("far", "bystander.plain"):
            self.assertEqual(self.mesh.call("mesh/client", outcome, name, 9000), "ok", name)

    def test_a_pods_own_dns_settings(self):
        """Its resolv.conf, and what the agent tells the node's proxy of it, are what the kubelet would have made."""
        self.assertEqual(self.mesh.call("mesh/named", outcome, "bystander", 9000), "ok")
        self.assertNotEqual(self.mesh.call("mesh/client", outcome, "bystander", 9000), "ok")
        info = self.mesh.pod_files()["mesh/named"]
        search = ["mesh.svc.cluster.local", "svc.cluster.local", "cluster.local", "plain.svc.cluster.local"]
        with open(f"{self.mesh.run}/pods/{info['uid']}/resolv.conf") as f:
            self.assertEqual(f.read(), f"search {' '.join(search)}\nnameserver 10.96.0.10\nnameserver 10.96.0.77\noptions ndots:3\n")
        told = f"{self.mesh.run}/nodes/node1/zds/dns/{info['uid']}"
        with open(told) as f:
            self.assertEqual(json.load(f), {"nameservers": ["10.96.0.10", "10.96.0.77"], "search": search, "ndots": 3})
        self.mesh.remove("named.yaml")
        self.mesh.until("nothing is kept of a pod that is gone", lambda: os.path.exists(told), False)

    def captured(self, pod):
        """Connections that the kernel gave to the proxy."""
        info = self.mesh.pod_files()[pod]
        pods = json.loads(self.mesh.admin(info["node"], "/pods", 15030)[2])
        return next(p for p in pods if p["uid"] == info["uid"])["counters"]["captured"]

    def test_its_own_service(self):
        """A pod that calls a service whose only endpoint is itself: the application sees the pod, as without the mesh."""
        for name in ("near", "far"):
            pod = f"mesh/{name}"
            for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                vip = self.mesh.call(pod, address_of, f"{name}.mesh.svc.cluster.local", family)
                before = self.captured(pod)
                self.assertEqual(self.mesh.call(pod, echo_once, vip, 9000, b"to myself"), b"to myself", vip)
                self.assertGreater(self.captured(pod), before, "it went through the proxy")
                status, _, body = self.mesh.call(pod, http_get, vip, 80)
                self.assertEqual(status, 200, body)
                self.assertEqual(json.loads(body)["peer"].replace("::ffff:", ""), self.mesh.ip(pod, version), body)
            self.assertEqual(self.mesh.call(pod, many_at_once, f"{name}.mesh.svc.cluster.local", 9000, 50), [])

    def test_pod_addresses_and_ipv6(self):
        for _, pod in self.each():
            for version in (4, 6):
                ip = self.mesh.ip(pod, version)
                self.assertEqual(self.mesh.call("mesh/client", echo_once, ip, 9000, b"to the pod"), b"to the pod", f"{pod} at {ip}")

    def test_the_server_sees_the_clients_address(self):
        for version in (4, 6):
            for host, pod in self.each():
                status, _, body = self.mesh.call("mesh/client", http_get, self.mesh.ip(pod, version), 8080)
                self.assertEqual(status, 200, f"{pod} over IPv{version}: {body}")
                self.assertEqual(json.loads(body)["peer"].replace("::ffff:", ""), self.mesh.ip("mesh/client", version), f"{pod}: {body}")

    def test_own_address_and_loopback_are_left_alone(self):
        for ip in ("127.0.0.1", self.mesh.ip("mesh/client")):
            self.assertEqual(self.mesh.call("mesh/client", echo_once, ip, 9000), b"hello", ip)

    def test_server_speaks_first(self):
        for host, pod in self.each():
            first, back = self.mesh.call("mesh/client", greeting, self.mesh.ip(pod))
            self.assertTrue(first.startswith(b"220 "), f"{pod} began with {first!r}")
            self.assertEqual(back, b"x", pod)

    def test_half_close_both_ways(self):
        for _, pod in self.each():
            payload = b"y" * 300000
            self.assertSameBytes(self.mesh.call("mesh/client", echo_once, self.mesh.ip(pod), 9000, payload), payload, pod)
            self.assertEqual(self.mesh.call("mesh/client", server_ends_first, self.mesh.ip(pod)), 5, pod)

    def test_reset_is_carried(self):
        for _, pod in self.each():
            self.assertEqual(self.mesh.call("mesh/client", reset_is_seen, self.mesh.ip(pod)), "reset", pod)

    def test_closed_port(self):
        for _, pod in self.each():
            self.assertIn(self.mesh.call("mesh/client", outcome, self.mesh.ip(pod), 4444), ("refused", "reset", "closed"), pod)

    def test_200_connections_at_once(self):
        for _, pod in self.each():
            self.assertEqual(self.mesh.call("mesh/client", many_at_once, self.mesh.ip(pod), 9000, 200), [], pod)

    def test_one_gib_byte_exact(self):
        for _, pod in self.each():
            answer, want = self.mesh.call("mesh/client", upload, self.mesh.ip(pod), GIB + 12345, timeout=300)
            self.assertEqual(answer, want, f"up to {pod}: length and digest")
            answer, want = self.mesh.call("mesh/client", download, self.mesh.ip(pod), GIB // 4 + 77, timeout=300)
            self.assertEqual(answer, want, f"down from {pod}: length and digest")

    def test_pods_without_the_label_are_untouched(self):
        """No capture, no rule, no listener in a pod that is not enrolled; and it still reaches others."""
        self.assertEqual(self.mesh.call("plain/outsider", echo_once, self.mesh.ip("plain/bystander"), 9000), b"hello")
        def listeners_and_rules():
            import subprocess
            return (subprocess.run(["ss", "-Hltn"], capture_output=True, text=True).stdout,
                    subprocess.run(["ip", "rule"], capture_output=True, text=True).stdout)
        listeners, rules = self.mesh.call("plain/outsider", listeners_and_rules)
        for port in ("15001", "15006", "15008"):
            self.assertNotIn(port, listeners)
        self.assertNotIn("fwmark", rules)
        # the same look at an enrolled pod finds them, so that the check can fail
        listeners, rules = self.mesh.call("mesh/client", listeners_and_rules)
        self.assertIn("15001", listeners)
        self.assertIn("fwmark", rules)


if __name__ == "__main__":
    unittest.main(verbosity=2)
