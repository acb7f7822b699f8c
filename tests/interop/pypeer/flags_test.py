#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the metrics call a connection that failed: `response_flags` of the reference, section 8, one way of failing
each. (DENY, CONNECT and CERT_REVOKED are other tests'.)"""
import re
import time
import unittest

import netns
import tls
from ads import ADDRESS, workload
from bed import PEER, TRUST, Bed, Case, until
from ca import Refuse
from hbone import App, Server, outcome

UNLUCKY = f"{TRUST}/ns/near/sa/unlucky"
FAILED = "istio_tcp_connections_failed_total"


class Flags(Case):
    @classmethod
    def setUpClass(cls):
        bed = cls.bed = Bed(pods=("client", "unlucky"))
        cls.addClassCleanup(bed.down)
        cls.peer = bed.peer()
        bed.ads.resources[ADDRESS] = dict([workload(name, "near", name, bed.pods[name]) for name in ("client", "unlucky")])
        cls.context = tls.server_context(*bed.root.issue("peer", [PEER]), bed.root.cert)
        bed.ca.answer = lambda asked: cls.refuse() if asked.identity == UNLUCKY else bed.ca.sign(asked)
        cls.place("good", 20)
        bed.closers.append(Server(cls.peer.name, cls.context, address="10.77.0.20"))
        bed.start().enrol()
        until("the client has its certificate", lambda: cls.call("10.77.0.20", b"ready") == b"ready")

    @staticmethod
    def refuse():
        raise Refuse(7, "not this one")

    @classmethod
    def place(cls, name, last, account="peer"):
        """A workload at an address of its own where the peer stands."""
        netns.run(f"ip -n {cls.peer.name} addr add 10.77.0.{last}/24 dev eth0")
        named = dict([workload(name, "far", account, cls.peer, node="node-2", addresses=[bytes((10, 77, 0, last))])])
        if cls.bed.programs:
            cls.bed.ads.push(ADDRESS, named)
        else:
            cls.bed.ads.resources[ADDRESS].update(named)
        return f"10.77.0.{last}"

    @classmethod
    def call(cls, address, data=b"hello", pod="client"):
        return outcome(cls.bed.pods[pod].name, address, 7000, data)

    def flags(self, **ends):
        """{flag: how often} of the failures between these workloads."""
        out = {}
        for line in self.bed.get(15020, "/metrics")[1].splitlines():
            if line.startswith(FAILED + "{") and all(f'{end}_workload="{name}"' in line for end, name in ends.items()):
                flag = re.search(r'response_flags="([^"]*)"', line)[1]
                out[flag] = out.get(flag, 0) + float(line.rpartition(" ")[2])
        return out

    def fails(self, flag, address, pod="client", **ends):
        self.assertEqual(self.call(address, pod=pod), "reset")
        until("the failure is counted", lambda: self.flags(**ends))
        self.assertEqual(self.flags(**ends), {flag: 1.0})

    def test_who_speaks_no_tls(self):
        address = self.place("plain", 21)
        self.bed.closers.append(App(self.peer.name, address, 15008, lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")))
        self.fails("TLS_FAILURE", address, destination="plain")

    def test_who_is_somebody_else(self):
        address = self.place("impostor", 22, account="honest")
        self.bed.closers.append(Server(self.peer.name, self.context, address=address))
        self.fails("TLS_FAILURE", address, destination="impostor")

    def test_who_speaks_no_http2(self):
        address = self.place("garbled", 23)

        def garble(sock):
            pipe = tls.Tls(sock, self.context, server=True)
            pipe.send(b"\xff" * 1000)
            while pipe.recv():
                pass

        self.bed.closers.append(App(self.peer.name, address, 15008, garble))
        self.fails("H2_HANDSHAKE_FAILURE", address, destination="garbled")

    def test_who_never_answers(self):
        """As a policy of the network that drops what goes to 15008; given up after ten seconds."""
        address = self.place("walled", 24)
        netns.run(["ip", "netns", "exec", self.peer.name, "iptables", "-A", "INPUT", "-d", address, "-p", "tcp", "--dport", "15008", "-j", "DROP"])
        begin = time.monotonic()
        self.fails("NETWORK_POLICY", address, destination="walled")
        self.assertGreater(time.monotonic() - begin, 9.5)

    def test_who_has_no_certificate(self):
        self.fails("IDENTITY_ERROR", "10.77.0.20", pod="unlucky", source="unlucky")
        # Nobody asks for it any more: the proxy does, by itself.
        until("each call of the authority that fails is counted",
              lambda: float(re.search(r"^qanat_certificate_failures_total (\S+)$", self.bed.get(15020, "/metrics")[1], re.M)[1]) >= 3)


if __name__ == "__main__":
    unittest.main(verbosity=2)
