# SPDX-License-Identifier: Apache-2.0
"""A client of this peer at the node proxy's 15008: what is asked and answered, and how connections end.
The reference, sections 5, 1.5 and 7."""
import socket
import threading
import unittest

import h2
from bed import until
from hbone import read_all, reset
from inbound import DENIED, Inbound


class Connect(Inbound):
    # -- CONNECT ------------------------------------------------------------------------------
    def test_connect(self):
        stream = self.tunnel().connect(self.to())
        self.assertEcho(stream)
        self.assertEqual(self.apps[8080].sources[-1][0], self.peer.ip, "the application sees the client's address")
        stream.send(b"", end=True)
        self.assertEqual(stream.read_all(), b"")
        self.assertIsNone(stream.reset)

    def test_answer_carries_baggage_and_nothing_else(self):
        stream = self.tunnel().connect(self.to())
        self.assertEqual(stream.status(), 200)
        self.assertEqual([name for name, _ in stream.headers], [":status", "baggage"])
        pairs = dict(pair.split("=") for pair in stream.fields()["baggage"].split(","))
        self.assertEqual(pairs, {"k8s.cluster.name": "Kubernetes", "k8s.namespace.name": "near", "k8s.pod.name": "server",
                                 "service.name": "server", "service.version": "v1"})

    def test_request_with_and_without_the_fields_of_the_reference(self):
        full = (("baggage", "k8s.cluster.name=c,k8s.namespace.name=n,k8s.deployment.name=d,service.name=s,service.version=v1"),
                ("forwarded", 'for="192.0.2.7:4711";host=shop.near.svc.cluster.local'),
                ("traceparent", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-00"))
        odd = (("baggage", "=,,;;%%=x=y,k8s.cluster.name"), ("forwarded", 'for=;host="'), ("traceparent", "nonsense"), ("x-unknown", "\xff" * 300))
        for fields in ((), full, odd):
            with self.subTest(fields):
                self.assertEcho(self.tunnel().connect(self.to(), *fields))

    def test_authority_of_another_pod(self):
        self.assertEqual(self.status(f"{self.bed.pods['client'].ip}:8080"), 400)

    def test_authorities_that_are_none(self):
        for authority in ("nonsense", "", self.pod.ip, f"{self.pod.ip}:", f"{self.pod.ip}:99999", f"{self.pod.ip}:80x", ":8080", f"[{self.pod.ip6}:8080", f"{self.pod.ip6}:8080"):
            with self.subTest(authority):
                try:
                    self.assertEqual(self.status(authority), 400)
                except h2.Reset as malformed:  # an empty one is malformed by RFC 9113, 8.5
                    self.assertEqual((authority, malformed.code), ("", h2.PROTOCOL_ERROR))

    def test_no_authority(self):
        stream = self.tunnel().h2.open([(":method", "CONNECT")])
        try:
            self.assertEqual(stream.status(), 400)
        except h2.Reset as malformed:
            self.assertEqual(malformed.code, h2.PROTOCOL_ERROR)

    def test_other_methods(self):
        for method in ("GET", "POST", "OPTIONS"):
            with self.subTest(method):
                fields = [(":method", method), (":scheme", "https"), (":authority", self.to()), (":path", "/")]
                stream = self.tunnel().h2.open(fields, end=method == "GET")
                self.assertEqual(stream.status(), 400)

    def test_connect_with_scheme_and_path_or_protocol(self):
        """Malformed (RFC 9113, 8.5), or an extended CONNECT that nobody offered: never a tunnel."""
        for more in ([(":scheme", "https"), (":path", "/")], [(":protocol", "websocket"), (":scheme", "https"), (":path", "/")]):
            with self.subTest(more):
                stream = self.tunnel().h2.open([(":method", "CONNECT"), *more, (":authority", self.to())])
                try:
                    self.assertEqual(stream.status(), 400)
                except h2.Reset as malformed:
                    self.assertEqual(malformed.code, h2.PROTOCOL_ERROR)

    def test_hostname_of_a_service(self):
        self.assertEcho(self.tunnel().connect("shop.near.svc.cluster.local:80"))

    def test_hostname_that_nobody_knows(self):
        self.assertEqual(self.status("nobody.near.svc.cluster.local:80"), 503)

    def test_port_that_a_service_does_not_have(self):
        self.assertEqual(self.status("shop.near.svc.cluster.local:81"), 503)

    def test_ports_of_the_proxy(self):
        for port in (15001, 15006, 15008):
            self.assertEqual(self.status(self.to(port)), 503, port)

    def test_nobody_listens(self):
        self.assertEqual(self.status(self.to(7)), 503)

    def test_denied(self):
        self.assertEqual(self.status(self.to(DENIED)), 401)
        self.assertEcho(self.tunnel().connect(self.to()))

    def test_a_refusal_leaves_the_tunnel(self):
        tunnel = self.tunnel()
        self.assertEqual(tunnel.connect(self.to(DENIED)).status(), 401)
        self.assertEqual(tunnel.connect("nonsense").status(), 400)
        self.assertEcho(tunnel.connect(self.to()))

    def test_six(self):
        self.assertEcho(self.tunnel(address=self.pod.ip6).connect(f"[{self.pod.ip6}]:8081"))
        self.assertEqual(self.apps[8081].sources[-1][0], self.peer.ip6)
        self.assertEqual(self.status(f"[{self.pod.ip6}]:8081"), 400, "not the address that was dialled")

    def test_data_before_the_answer(self):
        stream = self.tunnel().connect(self.to())
        stream.send(b"early", end=True)
        self.assertEqual(stream.status(), 200)
        self.assertEqual(stream.read_all(), b"early")

    # -- ends ---------------------------------------------------------------------------------
    def outcome_at_app(self, act):
        """How the application's connection ended when `act` was done to the stream after some bytes."""
        seen, got = [], threading.Event()

        def behave(sock):
            try:
                first = sock.recv(5)
                got.set()
                rest = read_all(sock)
                seen.append((first + rest).decode())
            except ConnectionResetError:
                seen.append("reset")
            sock.close()
        self.app(8082, behave)
        tunnel = self.tunnel()
        stream = tunnel.connect(self.to(8082))
        self.assertEqual(stream.status(), 200)
        stream.send(b"bytes")
        self.assertTrue(got.wait(20))
        act(tunnel, stream)
        return until("the application's connection ended", lambda: seen)[0]

    def test_codes_of_a_reset(self):
        """NO_ERROR and CANCEL read as a clean end; CONNECT_ERROR and all else is a reset."""
        for code, wanted in ((h2.CONNECT_ERROR, "reset"), (h2.INTERNAL_ERROR, "reset"), (h2.CANCEL, "bytes"), (h2.NO_ERROR, "bytes")):
            with self.subTest(code):
                self.assertEqual(self.outcome_at_app(lambda tunnel, stream: stream.abort(code)), wanted)

    def test_fin_is_a_fin(self):
        self.assertEqual(self.outcome_at_app(lambda tunnel, stream: stream.finish()), "bytes")

    def test_a_tunnel_that_dies_is_no_clean_end(self):
        self.assertEqual(self.outcome_at_app(lambda tunnel, stream: tunnel.close(reset=True)), "reset")

    def test_reset_of_the_application(self):
        def behave(sock):
            sock.recv(10)
            reset(sock)
        self.app(8083, behave)
        stream = self.tunnel().connect(self.to(8083))
        self.assertEqual(stream.status(), 200)
        stream.send(b"go")
        self.assertEqual(stream.wait_reset(), h2.CONNECT_ERROR)
        self.assertFalse(stream.ended)

    def test_half_close_of_the_client(self):
        big = bytes(range(256)) * 4096

        def behave(sock):
            got = read_all(sock)
            sock.sendall(got + big)
            sock.close()
        self.app(8084, behave)
        stream = self.tunnel().connect(self.to(8084))
        stream.send(b"question", end=True)
        self.assertEqual(stream.status(), 200)
        self.assertEqual(stream.read_all(), b"question" + big)

    def test_half_close_of_the_server(self):
        got = []

        def behave(sock):
            sock.sendall(b"all I have")
            sock.shutdown(socket.SHUT_WR)
            got.append(read_all(sock))
            sock.close()
        self.app(8085, behave)
        stream = self.tunnel().connect(self.to(8085))
        self.assertEqual(stream.status(), 200)
        self.assertEqual(stream.read_all(), b"all I have")
        big = bytes(range(256)) * 2048
        stream.send(big, end=True)
        self.assertEqual(until("the rest arrived", lambda: got)[0], big)
        self.assertIsNone(stream.reset)

if __name__ == "__main__":
    unittest.main(verbosity=2)
