#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What an application behind an application tunnel is told of each connection: PROXY protocol v2 with the caller's
identity and the name that was asked for. The reference, sections 7 and 1.5; the protocol's own text."""
import ipaddress
import struct
import unittest

from ads import ADDRESS, workload
from bed import PEER
from hbone import App
from inbound import Inbound

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TUNNEL = 15088
IDENTITY, HOSTNAME = 0xD0, 0xD1  # workload.proto, ApplicationTunnel
HOST = "shop.near.svc.cluster.local"


def exactly(sock, size):
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError(f"{len(data)} of {size} bytes")
        data += more
    return data


def read_header(sock):
    """(source, destination, [(type, value)]), each address as (ip, port)."""
    head = exactly(sock, 16)
    signature, command, family, size = struct.unpack(">12sBBH", head)
    if (signature, command) != (SIGNATURE, 0x21) or family not in (0x11, 0x21):
        raise ValueError(f"no PROXY header for TCP: {head!r}")
    rest, width = exactly(sock, size), 4 if family == 0x11 else 16
    source, destination = (str(ipaddress.ip_address(rest[at:at + width])) for at in (0, width))
    ports, at, values = struct.unpack(">HH", rest[2 * width:2 * width + 4]), 2 * width + 4, []
    while at < size:
        kind, length = struct.unpack(">BH", rest[at:at + 3])
        if at + 3 + length > size:
            raise ValueError(f"a value of {length} bytes at {at} of {size}")
        values.append((kind, rest[at + 3:at + 3 + length].decode()))
        at += 3 + length
    return (source, ports[0]), (destination, ports[1]), values


class ProxyHeader(Inbound):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.seen = []

        def behave(sock):
            cls.seen.append(read_header(sock))
            while data := sock.recv(1 << 16):
                sock.sendall(data)
            sock.close()

        for address in ("127.0.0.1", "::1"):
            cls.bed.closers.append(App(cls.pod.name, address, TUNNEL, behave))
        services = cls.bed.ads.resources[ADDRESS]["Kubernetes//Pod/near/server"]["workload"]["services"]
        cls.bed.ads.push(ADDRESS, dict([workload("server", "near", "server", cls.pod, services=services,
                                                 application_tunnel={"protocol": 1, "port": TUNNEL})]))

    def told(self, authority, *fields, address=None):
        """(where the tunnel comes from, the header) of a connection; the bytes behind it are the client's."""
        self.seen.clear()
        tunnel = self.tunnel(address=address)
        self.assertEcho(tunnel.connect(authority, *fields))
        self.assertEqual(len(self.seen), 1)
        return tunnel.pipe.sock.getsockname()[:2], self.seen[0]

    def test_a_name_and_whose_it_is(self):
        """Both values; the address is the service's, on the port that was asked for."""
        client, (source, destination, values) = self.told(f"{HOST}:80")
        self.assertEqual((source, destination), (client, ("10.96.0.9", 80)))
        self.assertEqual(values, [(IDENTITY, PEER), (HOSTNAME, HOST)])

    def test_an_address_has_no_name(self):
        client, (source, destination, values) = self.told(self.to())
        self.assertEqual((source, destination), (client, (self.pod.ip, 8080)))
        self.assertEqual(values, [(IDENTITY, PEER)])

    def test_any_address_is_its_own_business(self):
        _, (_, destination, values) = self.told("192.0.2.7:443")
        self.assertEqual((destination, values), (("192.0.2.7", 443), [(IDENTITY, PEER)]))

    def test_six(self):
        client, (source, destination, values) = self.told(f"[{self.pod.ip6}]:8081", address=self.pod.ip6)
        self.assertEqual((source, destination), (client, (self.pod.ip6, 8081)))
        self.assertEqual(values, [(IDENTITY, PEER)])

    def test_what_a_client_says_of_itself_is_not_in_it(self):
        fields = ("forwarded", 'for="192.0.2.1:1";host=other.example'), ("baggage", "k8s.namespace.name=kube-system"), ("x-forwarded-network", "far")
        client, (source, _, values) = self.told(f"{HOST}:80", *fields)
        self.assertEqual((source, values), (client, [(IDENTITY, PEER), (HOSTNAME, HOST)]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
