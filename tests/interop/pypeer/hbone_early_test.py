# SPDX-License-Identifier: Apache-2.0
"""A client's first bytes along with the CONNECT are the node proxy's own extension (common/hbone/README.md): a peer that
does not announce it never sees DATA before its answer, and what a peer refuses comes to no application."""
import socket
import time
import unittest

import netns
import tls
from ads import ADDRESS, workload
from bed import PEER, Bed, Case, until
from hbone import App, Client, Server, echo, read_all

PORT = 7000
TAKES_EARLY = 0xF516
MOST = 4096


class AsServer(Case):
    """A pod calls this peer."""

    @classmethod
    def setUpClass(cls):
        bed = cls.bed = Bed(pods=("one",), environment={"ZTUNNEL_WORKER_THREADS": "1"})
        cls.addClassCleanup(bed.down)
        cls.peer = bed.peer()
        bed.ads.resources[ADDRESS] = dict([workload("one", "near", "one", bed.pods["one"]), workload("peer", "far", "peer", cls.peer)])
        cls.server = Server(cls.peer.name, tls.server_context(*bed.root.issue("peer", [PEER]), bed.root.cert))
        bed.closers.append(cls.server)
        bed.start().enrol("one")
        until("the pod has its certificate", lambda: cls.call(b"hello") == b"hello")

    def setUp(self):
        self.server.forget()
        self.early = []

    @classmethod
    def call(cls, data):
        sock = netns.connect(cls.bed.pods["one"].name, cls.peer.ip, PORT)
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock)
        except OSError:
            return None
        finally:
            sock.close()

    def slow(self, stream):
        """Looks what is there before the answer, which takes a while."""
        time.sleep(0.05)
        self.early.append(bytes(stream.buffer))
        stream.answer(200)
        stream.send(stream.read_all(), end=True)

    def test_a_stock_server_sees_nothing_before_it_answered(self):
        self.server.on_stream = self.slow
        for _ in range(10):
            self.assertEqual(self.call(b"hello"), b"hello")
        self.assertEqual(set(self.early), {b""})

    def test_a_version_that_is_not_known(self):
        self.server.settings = {**self.server.settings, TAKES_EARLY: 2}
        self.server.on_stream = self.slow
        for _ in range(10):
            self.assertEqual(self.call(b"hello"), b"hello")
        self.assertEqual(set(self.early), {b""})

    def test_a_server_that_announces_it(self):
        self.server.settings = {**self.server.settings, TAKES_EARLY: 1}
        self.server.on_stream = self.slow
        for size in [5] * 20 + [3 * MOST] * 20:  # whether the bytes are there in time is up to the machine
            data = bytes(range(256)) * (size // 256 + 1)
            self.assertEqual(self.call(data[:size]), data[:size])
        self.assertTrue(all(len(bytes_) <= MOST for bytes_ in self.early))
        self.assertIn(5, {len(bytes_) for bytes_ in self.early})
        self.assertIn(MOST, {len(bytes_) for bytes_ in self.early})

    def test_a_refusal(self):
        self.server.settings = {**self.server.settings, TAKES_EARLY: 1}
        self.call(b"first")  # makes the tunnel
        self.server.on_stream = lambda stream: stream.answer(503, end=True)
        for _ in range(5):
            self.assertFalse(self.call(b"hello"))
        self.server.on_stream = self.slow
        self.assertEqual(self.call(b"hello"), b"hello")


class AsClient(Case):
    """This peer's request and first bytes come in one record."""

    @classmethod
    def setUpClass(cls):
        bed = cls.bed = Bed(pods=("server",))
        cls.addClassCleanup(bed.down)
        cls.pod, cls.peer = bed.pods["server"], bed.peer()
        bed.ads.resources[ADDRESS] = dict([workload("peer", "far", "peer", cls.peer), workload("server", "near", "server", cls.pod)])
        cls.app = App(cls.pod.name, "0.0.0.0", 8080, echo)
        bed.closers.append(cls.app)
        cls.context = tls.client_context(bed.root.cert, *bed.root.issue("peer", [PEER]))
        bed.start().enrol("server")
        until("the server has its certificate", lambda: cls.tunnel().h2.ping() is None)

    @classmethod
    def tunnel(cls):
        client = Client(cls.peer.name, cls.pod.ip, cls.context)
        cls.bed.closers.append(client)
        return client

    def test_it_is_announced(self):
        tunnel = self.tunnel()
        tunnel.h2.ping()
        self.assertEqual(tunnel.h2.theirs.get(TAKES_EARLY), 1)

    def test_they_reach_the_application(self):
        tunnel = self.tunnel()
        tunnel.h2.ping()
        stream = tunnel.connect(f"{self.pod.ip}:8080")
        stream.send(b"hello")
        self.assertEqual(stream.status(), 200)
        self.assertEqual(stream.read_exactly(5), b"hello")
        stream.finish()
        self.assertEqual(stream.read_all(), b"")

    def test_a_refusal_drops_them_and_nothing_else(self):
        tunnel = self.tunnel()
        tunnel.h2.ping()
        before = len(self.app.sockets)
        for _ in range(20):
            stream = tunnel.connect(f"{self.pod.ip}:9999")
            stream.send(b"x" * MOST)
            self.assertEqual(stream.status(), 503)
        self.assertEqual(len(self.app.sockets), before)
        stream = tunnel.connect(f"{self.pod.ip}:8080")
        stream.send(b"hello")
        self.assertEqual(stream.read_exactly(5), b"hello")


if __name__ == "__main__":
    unittest.main()
