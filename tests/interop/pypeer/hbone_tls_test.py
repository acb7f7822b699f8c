# SPDX-License-Identifier: Apache-2.0
"""A client of this peer at the node proxy's 15008: who is let in, and what changes while connections
live. The reference, sections 5, 4 and 7."""
import signal
import ssl
import unittest

import h2
import netns
import tls
from ads import AUTHORIZATION, policy
from bed import PEER, TRUST, until
from certs import Authority
from hbone import echo, read_all
from inbound import Inbound


class Identity(Inbound):
    def context_of(self, uris, usage="clientAuth", root=None):
        cert, key = (root or self.bed.root).issue("visitor", uris, usage)
        return tls.client_context(self.bed.root.cert, cert, key)

    def assertRefused(self, context):
        """In the handshake or, as TLS 1.3 has it, at the first thing that is read."""
        with self.assertRaises(OSError) as how:
            self.tunnel(context).h2.ping()
        self.assertNotIsInstance(how.exception, TimeoutError, "silence is no refusal")

    def test_who_is_let_in(self):
        self.assertEcho(self.tunnel(self.context_of([f"{TRUST}/ns/any/sa/body"])).connect(self.to()))

    def test_no_certificate(self):
        self.assertRefused(tls.client_context(self.bed.root.cert))

    def test_certificates_that_are_not_good(self):
        stranger = Authority(self.bed.folder, "stranger")
        for name, context in {"another root": self.context_of([PEER], root=stranger),
                              "another trust domain": self.context_of(["spiffe://elsewhere/ns/far/sa/peer"]),
                              "for servers only": self.context_of([PEER], "serverAuth"),
                              "no URI": self.context_of(["DNS:peer"]),
                              "no name": self.context_of([]),
                              "not a workload's": self.context_of([f"{TRUST}/far/peer"])}.items():
            with self.subTest(name):
                self.assertRefused(context)

    def test_older_tls(self):
        context = tls.client_context(self.bed.root.cert, *self.bed.root.issue("visitor", [PEER]))
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.assertRefused(context)

    def test_another_protocol(self):
        context = tls.client_context(self.bed.root.cert, *self.bed.root.issue("visitor", [PEER]))
        context.set_alpn_protocols(["http/1.1"])
        self.assertRefused(context)

    def test_what_the_server_shows(self):
        """Its identity, by a chain that leads to the root that the peer has."""
        pipe = self.tunnel().pipe
        self.assertEqual(pipe.peer_uris(), [f"{TRUST}/ns/near/sa/server"])

    def test_plain_text(self):
        sock = netns.connect(self.peer.name, self.pod.ip, 15008)
        try:
            sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            self.assertNotIn(b"HTTP", read_all(sock))
        except (ConnectionResetError, BrokenPipeError):
            pass
        sock.close()


class Changes(Inbound):
    def test_a_policy_that_comes_closes_what_it_denies(self):
        self.app(8090, echo)
        tunnel = self.tunnel()
        denied, kept = tunnel.connect(self.to(8090)), tunnel.connect(self.to(8080))
        self.assertEcho(denied)
        self.assertEcho(kept)
        name, body = policy("no-peer", "near", 1, {"destination_ports": [8090], "principals": [{"exact": PEER.removeprefix("spiffe://")}]})
        self.bed.ads.push(AUTHORIZATION, {name: body})
        until("closed, and not as a clean end", lambda: denied.reset not in (None, h2.NO_ERROR, h2.CANCEL))
        self.assertEcho(kept)
        self.assertEqual(tunnel.connect(self.to(8090)).status(), 401)
        self.bed.ads.push(AUTHORIZATION, removed=[name])
        self.assertEcho(tunnel.connect(self.to(8090)))

    def test_principals_are_the_peers(self):
        """The identity is that of the certificate, whatever the fields say."""
        self.app(8091, echo)
        name, body = policy("only-guest", "near", 1, {"destination_ports": [8091], "not_principals": [{"exact": "cluster.local/ns/far/sa/guest"}]})
        self.bed.ads.push(AUTHORIZATION, {name: body})
        guest = tls.client_context(self.bed.root.cert, *self.bed.root.issue("guest", [f"{TRUST}/ns/far/sa/guest"]))
        self.assertEqual(self.tunnel().connect(self.to(8091), ("baggage", "k8s.namespace.name=far,service.name=guest")).status(), 401)
        self.assertEcho(self.tunnel(guest).connect(self.to(8091)))
        self.bed.ads.push(AUTHORIZATION, removed=[name])

    def test_passthrough_meets_the_policy_without_identity(self):
        """15006: plain text from outside of the mesh."""
        sock = netns.connect(self.peer.name, self.pod.ip, 8080)
        sock.sendall(b"plain")
        self.assertEqual(sock.recv(5), b"plain")
        sock.close()
        name, body = policy("strict", "near", 1, {"destination_ports": [8080], "not_principals": [{"presence": {}}]})
        self.bed.ads.push(AUTHORIZATION, {name: body})
        with self.assertRaises((ConnectionResetError, BrokenPipeError, EOFError)):
            sock = netns.connect(self.peer.name, self.pod.ip, 8080)
            sock.sendall(b"plain")
            if not sock.recv(5):
                raise EOFError
        self.assertEcho(self.tunnel().connect(self.to()))
        self.bed.ads.push(AUTHORIZATION, removed=[name])

    def test_zz_drain(self):
        """Last: SIGTERM closes the listeners, says GOAWAY, and lets what is open go on until the deadline."""
        tunnel = self.tunnel()
        stream = tunnel.connect(self.to())
        self.assertEcho(stream)
        self.bed.program.send_signal(signal.SIGTERM)
        tunnel.h2.wait(lambda: tunnel.h2.goaways, "GOAWAY")
        self.assertEqual(tunnel.h2.goaways[-1][1], h2.NO_ERROR)
        until("nobody listens", lambda: not self.bed.listens("server"))
        self.assertEcho(stream, b"drained " * 1000)
        stream.send(b"", end=True)
        self.assertEqual(stream.read_all(), b"")
        tunnel.h2.wait_closed()


class Queue(Inbound):
    """The original loses who has connected and was not accepted yet."""
    environment = {"TERMINATION_GRACE_PERIOD_SECONDS": "90"}

    def test_zz_who_waits_when_the_listeners_close_is_served(self):
        proxy = self.bed.program
        proxy.send_signal(signal.SIGSTOP)
        try:
            waiting = [netns.connect(self.peer.name, self.pod.ip, 8080) for _ in range(200)]
            proxy.send_signal(signal.SIGTERM)
        finally:
            proxy.send_signal(signal.SIGCONT)
        for sock in waiting:
            sock.settimeout(30)
            sock.sendall(b"x")
            self.assertEqual(sock.recv(1), b"x")
            sock.close()
        self.assertEqual(proxy.wait(60), 0)


class Plain(Inbound):
    """Another configuration."""
    environment = {"ENABLE_RESPONSE_BAGGAGE": "false"}

    def test_no_baggage_when_it_is_off(self):
        stream = self.tunnel().connect(self.to())
        self.assertEqual(stream.status(), 200)
        self.assertEqual(stream.headers, [(":status", "200")])

    def test_zz_cut_off_at_the_deadline(self):
        """What is still open 5 s after SIGTERM is ended, and not as if it were complete."""
        stream = self.tunnel().connect(self.to())
        self.assertEcho(stream)
        self.bed.program.send_signal(signal.SIGTERM)
        stream.connection.wait_closed()
        self.assertFalse(stream.ended)
        self.assertEqual(self.bed.program.wait(60), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
