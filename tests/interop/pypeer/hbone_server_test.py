# SPDX-License-Identifier: Apache-2.0
"""A server of this peer where the node proxy's tunnels end: what is asked, how answers are taken, and how
connections end. The reference, sections 5, 1.4 and 7."""
import re
import socket
import time
import unittest

import h2
import hpack
import tls
from ads import ADDRESS, workload
from bed import PEER, TRUST, until
from certs import Authority
from hbone import Server, read_all, reset, serve
from outbound import CLIENT, PORT, Outbound


class Answers(Outbound):
    # -- what is asked ------------------------------------------------------------------------
    def test_request(self):
        self.assertEqual(self.echo(), b"hello")
        fields = self.only_stream().headers
        self.assertEqual(fields[:2], [(":method", "CONNECT"), (":authority", f"{self.peer.ip}:{PORT}")])
        self.assertEqual([name for name, _ in fields[2:]], ["baggage", "forwarded", "traceparent"])
        values = dict(fields)
        pairs = dict(pair.split("=") for pair in values["baggage"].split(","))
        self.assertEqual(pairs, {"k8s.cluster.name": "Kubernetes", "k8s.namespace.name": "near", "k8s.pod.name": "client",
                                 "service.name": "client", "service.version": "v1"})
        self.assertRegex(values["forwarded"], rf'^for="{re.escape(self.pod.ip)}:\d+"$')
        self.assertRegex(values["traceparent"], r"^00-[0-9a-f]{32}-[0-9a-f]{16}-00$")

    def test_baggage_names_what_is_known(self):
        """Keys only where there is a value; the kind of the workload is in the key."""
        name, body = workload("client", "near", "client", self.pod)
        for more, wanted in (
                ({"workload_type": 0, "workload_name": "front", "locality": {"region": "r1", "zone": "z1"}},
                 {"k8s.cluster.name": "Kubernetes", "k8s.namespace.name": "near", "k8s.deployment.name": "front", "service.name": "client",
                  "service.version": "v1", "cloud.region": "r1", "cloud.availability_zone": "z1"}),
                ({"canonical_name": "", "canonical_revision": ""},
                 {"k8s.cluster.name": "Kubernetes", "k8s.namespace.name": "near", "k8s.pod.name": "client"})):
            with self.subTest(more):
                self.bed.ads.push(ADDRESS, {name: {"workload": {**body["workload"], **more}}})
                self.server.forget()
                self.assertEqual(self.echo(), b"hello")
                self.assertEqual(dict(pair.split("=") for pair in self.only_stream().fields()["baggage"].split(",")), wanted)
        self.bed.ads.push(ADDRESS, {name: body})

    def test_request_for_a_service(self):
        self.assertEqual(self.echo(address="10.96.0.9", port=80), b"hello")
        values = self.only_stream().fields()
        self.assertEqual(values[":authority"], f"{self.peer.ip}:{PORT}")
        self.assertRegex(values["forwarded"], rf'^for="{re.escape(self.pod.ip)}:\d+";host=shop\.far\.svc\.cluster\.local$')

    def test_request_in_six(self):
        server = Server(self.peer.name, self.context, address=self.peer.ip6)
        self.bed.closers.append(server)
        self.assertEqual(self.echo(address=self.peer.ip6), b"hello")
        values = server.streams()[0].fields()
        self.assertEqual(values[":authority"], f"[{self.peer.ip6}]:{PORT}")
        self.assertRegex(values["forwarded"], rf'^for="\[{self.pod.ip6}\]:\d+"$')

    def test_traceparent_is_new_each_time(self):
        for _ in range(3):
            self.echo()
        traces = {s.fields()["traceparent"] for s in self.server.streams()}
        self.assertEqual(len(traces), 3)
        self.assertEqual(len(self.server.connections), 1, "one tunnel carries them all")

    def test_settings(self):
        self.echo()
        connection = self.server.connection(0)
        self.assertEqual({n: connection.theirs.get(n) for n in (h2.ENABLE_PUSH, h2.INITIAL_WINDOW, h2.MAX_FRAME, h2.MAX_HEADER_LIST)},
                         {h2.ENABLE_PUSH: 0, h2.INITIAL_WINDOW: 4 << 20, h2.MAX_FRAME: 1 << 20, h2.MAX_HEADER_LIST: 16 << 10})
        # The thread that reads them may be behind the application that has its echo.
        until("the connection's window", lambda: connection.send_window >= (16 << 20) - 65535)
        until("the ACK of SETTINGS", lambda: connection.settings_acked)
        self.assertEqual(connection.settings_acked, 1)

    def test_tls(self):
        self.echo()
        pipe = self.server.connection(0).pipe
        hello = tls.client_hello(pipe.first)
        self.assertEqual(pipe.peer_uris(), [CLIENT])
        self.assertEqual(hello["alpn"], ["h2"])
        self.assertFalse(hello["sni"])
        self.assertFalse(hello["psk"])
        grease = [v for v in hello["versions"] if v & 0x0f0f != 0x0a0a]
        self.assertEqual(grease, [0x0304])
        self.assertEqual(hello["suites"], [0x1302, 0x1301], "AES_256_GCM_SHA384 comes first")
        groups = [g for g in hello["groups"] if g & 0x0f0f != 0x0a0a]
        self.assertEqual(groups, [0x11ec, 29, 23, 24], "X25519MLKEM768, X25519, P-256, P-384")

    def refused_server(self, uris, usage="serverAuth,clientAuth", root=None, alpn=("h2",)):
        cert, key = (root or self.bed.root).issue("wrong", uris, usage)
        self.server.context = tls.server_context(cert, key, self.bed.root.cert, alpn)
        self.assertEqual(self.outcome(), "reset")
        self.assertEqual(self.server.streams(), [])

    def test_servers_that_are_not_who_they_should_be(self):
        self.refused_server([f"{TRUST}/ns/far/sa/other"])
        self.refused_server(["spiffe://elsewhere/ns/far/sa/peer"])
        self.refused_server(["DNS:peer"])
        self.refused_server([PEER], usage="clientAuth")
        self.refused_server([PEER], root=Authority(self.bed.folder, "stranger"))

    def test_a_server_without_h2(self):
        self.refused_server([PEER], alpn=("http/1.1",))
        self.refused_server([PEER], alpn=())

    # -- answers ------------------------------------------------------------------------------
    def test_statuses_that_refuse(self):
        for status in (400, 401, 403, 404, 503, 204, 302):
            with self.subTest(status):
                seen = self.outcome(lambda stream: stream.answer(status, end=True))
                self.assertIn(seen, ("reset", b"") if status == 204 else ("reset",))

    def test_a_refusal_leaves_the_tunnel(self):
        self.outcome(lambda stream: stream.answer(401, end=True))
        self.server.on_stream = serve
        self.assertEqual(self.echo(), b"hello")
        self.assertEqual(len(self.server.connections), 1)

    def test_answer_with_fields_in_pieces(self):
        """Interim answers, long fields in CONTINUATION, Huffman, padding, trailers."""
        def answer(stream):
            connection = stream.connection
            connection.send_headers(stream.id, [(":status", "103"), ("link", "</a>")])
            connection.send_headers(stream.id, [(":status", "200"), ("baggage", "k8s.namespace.name=far"), ("x", "z" * 5000)], pieces=5, padding=11)
            connection.send_data(stream, b"padded", padding=100)
            connection.send_data(stream, b"", padding=0)
            connection.send_headers(stream.id, [("trailer", "here")], end=True)
        self.server.how = {"encoder": hpack.Encoder(plain=False)}
        self.assertEqual(self.outcome(answer), b"padded")

    def test_unknown_frames_and_settings(self):
        def answer(stream):
            stream.connection.frame(0xfa, 0xff, 0, b"unknown")
            stream.connection.frame(0xfb, 0, stream.id, b"unknown")
            stream.answer(200)
            stream.connection.frame(h2.PRIORITY, 0, stream.id, b"\0\0\0\0\x10")
            stream.send(b"ok", end=True)
        self.server.settings = {0xabc: 7, 0x8: 0, 0xffff: 0xffffffff}
        self.assertEqual(self.outcome(answer), b"ok")

    def test_settings_that_come_late(self):
        def late(connection):
            time.sleep(1)
        self.server.on_connection = late
        self.assertEqual(self.echo(), b"hello")

    def test_answer_that_ends_at_once(self):
        self.assertEqual(self.outcome(lambda stream: stream.answer(200, end=True)), b"")

    def test_padding_gives_its_room_back(self):
        """17 MiB of padding around 70,000 bytes of data."""
        def answer(stream):
            stream.answer(200)
            for _ in range(70000):
                stream.connection.send_data(stream, b"x", padding=255)
            stream.finish()
        self.assertEqual(self.outcome(answer), b"x" * 70000)

    # -- ends ---------------------------------------------------------------------------------
    def after_bytes(self, code):
        def answer(stream):
            stream.answer(200)
            stream.read_exactly(5)
            stream.send(b"bytes")
            time.sleep(0.3)
            stream.abort(code)
        return self.outcome(answer)

    def test_codes_of_a_reset(self):
        for code, wanted in ((h2.CONNECT_ERROR, "reset"), (h2.INTERNAL_ERROR, "reset"), (h2.CANCEL, b"bytes"), (h2.NO_ERROR, b"bytes")):
            with self.subTest(code):
                self.assertEqual(self.after_bytes(code), wanted)

    def test_a_tunnel_that_dies_is_no_clean_end(self):
        def answer(stream):
            stream.answer(200)
            stream.send(b"part")
            time.sleep(0.2)
            stream.connection.close(reset=True)
        self.assertEqual(self.outcome(answer), "reset")
        self.server.on_stream = serve
        self.assertEqual(self.echo(), b"hello", "the next one has a new tunnel")

    def test_reset_of_the_application(self):
        [sock] = self.open_streams(1)
        stream = self.only_stream()
        reset(sock)
        self.assertEqual(stream.wait_reset(), h2.CONNECT_ERROR)
        self.assertFalse(stream.ended)
        self.assertEqual(self.echo(), b"hello")
        self.assertEqual(len(self.server.connections), 1)

    def test_half_close_of_the_application(self):
        big = bytes(range(256)) * 8192

        def answer(stream):
            stream.answer(200)
            got = stream.read_all()
            stream.send(got + big, end=True)
        self.server.on_stream = answer
        self.assertEqual(self.echo(b"question"), b"question" + big)
        self.assertIsNone(self.only_stream().reset)

    def test_half_close_of_the_server(self):
        got, big = [], bytes(range(256)) * 8192

        def answer(stream):
            stream.answer(200)
            stream.send(b"all I have", end=True)
            got.append(stream.read_all())
        self.server.on_stream = answer
        sock = self.dial()
        self.assertEqual(read_all(sock), b"all I have")
        sock.sendall(big)
        sock.shutdown(socket.SHUT_WR)
        self.assertEqual(until("the rest arrived", lambda: got)[0], big)
        sock.close()

if __name__ == "__main__":
    unittest.main(verbosity=2)
