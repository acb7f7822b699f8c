# SPDX-License-Identifier: Apache-2.0
"""Tunnels that the pods of an identity share are the node proxy's own extension (common/hbone/README.md):
a peer that does not know it never sees it, and one that lies in it is refused."""
import re
import socket
import unittest
from types import SimpleNamespace

import h2
import netns
import tls
from ads import ADDRESS, workload
from bed import PEER, TRUST, Bed, Case, until
from hbone import App, Client, Server, echo, read_all

FRONT = f"{TRUST}/ns/near/sa/front"
PORT = 7000
TAKES_SOURCE, SOURCE = 0xF515, "x-qanat-source"
PROXY = SimpleNamespace(ip="10.77.0.1", ip6="fd77::1")  # where the node proxy's own namespace is


class AsServer(Case):
    """Two pods of one account call this peer."""

    @classmethod
    def setUpClass(cls):
        bed = cls.bed = Bed(pods=("one", "two"), environment={"ZTUNNEL_WORKER_THREADS": "1"})
        cls.addClassCleanup(bed.down)
        cls.peer = bed.peer()
        more = {"workload_type": 0, "workload_name": "front"}
        bed.ads.resources[ADDRESS] = dict([
            workload("one", "near", "front", bed.pods["one"], **more), workload("two", "near", "front", bed.pods["two"], **more),
            workload("peer", "far", "peer", cls.peer)])
        cls.server = Server(cls.peer.name, tls.server_context(*bed.root.issue("peer", [PEER]), bed.root.cert))
        bed.closers.append(cls.server)
        session = bed.start().agent.accept()
        session.hello()
        for name in ("one", "two"):
            assert not session.add(f"uid-{name}", name, "near", "front", bed.pods[name].name)
        assert not session.snapshot()
        until("the pods have their certificate", lambda: cls.echo("one") == b"hello")

    def setUp(self):
        self.server.forget()

    @classmethod
    def echo(cls, pod):
        sock = netns.connect(cls.bed.pods[pod].name, cls.peer.ip, PORT)
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        got = read_all(sock)
        sock.close()
        return got

    def calls(self, count=3):
        for _ in range(count):
            for pod in ("one", "two"):
                self.assertEqual(self.echo(pod), b"hello")

    def assertStock(self):
        """Each pod on a tunnel of its own that comes from the pod, and no word about sources."""
        self.assertEqual(len(self.server.connections), 2)
        for connection in self.server.connections:
            for stream in connection.streams.values():
                self.assertNotIn(SOURCE, [name for name, _ in stream.headers])
                self.assertIn(f'for="{connection.peer[0]}:', stream.fields()["forwarded"])
            self.assertNotIn(TAKES_SOURCE, connection.theirs, "a client has nothing to announce")
        self.assertEqual({c.peer[0] for c in self.server.connections}, {self.bed.pods[n].ip for n in ("one", "two")})

    def test_a_stock_server_never_sees_it(self):
        self.calls()
        self.assertStock()

    def test_a_version_that_is_not_known(self):
        self.server.settings = {**self.server.settings, TAKES_SOURCE: 2}
        self.calls()
        self.assertStock()

    def test_a_server_that_announces_it(self):
        self.server.settings = {**self.server.settings, TAKES_SOURCE: 1}
        self.assertEqual(self.echo("one"), b"hello")
        shared = until("a shared tunnel", lambda: next((c for c in self.server.connections if c.peer[0] == PROXY.ip), None))

        def sources():
            self.echo("two")
            return {s.fields()[SOURCE].rsplit(":", 1)[0] for s in shared.streams.values()}
        self.assertEqual(until("a stream on it", sources), {self.bed.pods["two"].ip})
        self.assertEqual(shared.pipe.peer_uris(), [FRONT])
        for connection in self.server.connections:
            for stream in connection.streams.values():
                self.assertEqual(SOURCE in stream.fields(), connection is shared)
        # Refused there, a stream goes on over the pod's own tunnel; and that pod's others at once.
        served, self.server.on_stream = self.server.on_stream, lambda s: (
            s.answer(421, end=True) if SOURCE in s.fields() else served(s))
        refused = len(shared.streams)
        self.calls()
        self.assertEqual(len(shared.streams), refused + 2)


class AsClient(Case):
    """This peer's tunnel says on whose behalf it is; it stands where a node proxy could be."""
    environment = {}

    @classmethod
    def setUpClass(cls):
        bed = cls.bed = Bed(pods=("server", "sibling"), environment=cls.environment)
        cls.addClassCleanup(bed.down)
        cls.pod, cls.peer, cls.sibling = bed.pods["server"], bed.peer(), bed.pods["sibling"]
        cls.other, cls.stranger = (bed.pods.setdefault(n, netns.Pod(bed.node, n, i)) for n, i in (("other", 10), ("stranger", 11)))
        bed.ads.resources[ADDRESS] = dict([
            workload("proxy", "mesh-system", "ztunnel", cls.peer, tunnel_protocol=0), workload("sibling", "far", "peer", cls.sibling),
            workload("other", "far", "peer", cls.other), workload("stranger", "far", "stranger", cls.stranger),
            workload("server", "near", "server", cls.pod),
            workload("away", "far", "peer", SimpleNamespace(ip="10.77.0.40", ip6="fd77::40"), node="node-2")])
        cls.app = App(cls.pod.name, "0.0.0.0", 8080, echo)
        bed.closers.append(cls.app)
        cls.context = tls.client_context(bed.root.cert, *bed.root.issue("peer", [PEER]))
        bed.start().enrol("server")
        until("the server has its certificate", lambda: cls.tunnel().h2.ping() is None)

    @classmethod
    def tunnel(cls, via=None):
        client = Client((via or cls.peer).name, cls.pod.ip, cls.context)
        cls.bed.closers.append(client)
        return client

    def said(self, *sources, via=None):
        """The status, and whom the application saw."""
        tunnel = self.tunnel(via)
        stream = tunnel.connect(f"{self.pod.ip}:8080", *((SOURCE, s) for s in sources))
        if (status := stream.status()) != 200:
            return status, None
        stream.send(b"hello")
        self.assertEqual(stream.read_exactly(5), b"hello")
        tunnel.close()
        return status, self.app.sources[-1][0]


class Believed(AsClient):
    def test_it_is_announced(self):
        tunnel = self.tunnel()
        tunnel.h2.ping()
        self.assertEqual(tunnel.h2.theirs.get(TAKES_SOURCE), 1)

    def test_a_pod_of_the_identity_on_the_node(self):
        self.assertEqual(self.said(f"{self.sibling.ip}:4711"), (200, self.sibling.ip))
        line = rf"\ssrc.addr={self.sibling.ip}:4711 src.workload=\"sibling\" .* src.tunnel={self.peer.ip}:"
        until("it in the log", lambda: re.search(line, self.bed.logged()))

    def test_without_it_the_tunnel_counts(self):
        self.assertEqual(self.said(), (200, self.peer.ip))

    def test_only_from_a_node_proxy(self):
        """Whoever runs as the account can have its certificate; so can whom he gives it to."""
        for via in (self.other, self.stranger):
            self.assertEqual(self.said(f"{self.sibling.ip}:4711", via=via), (421, None))
            self.assertEqual(self.said(f"{via.ip}:4711", via=via), (200, via.ip))

    def test_lies(self):
        own = f"{self.sibling.ip}:4711"
        for lie in ([f"{self.pod.ip}:4711"], ["10.77.0.40:4711"], ["10.77.0.99:4711"], ["127.0.0.1:4711"], [f"{self.sibling.ip}"],
                    [""], ["nonsense"], [own, own]):
            with self.subTest(lie):
                self.assertEqual(self.said(*lie), (421, None))
        until("counted", lambda: "source_unproven" in self.bed.get(15020, "/metrics")[1])
        self.assertNotIn("source_unproven", self.bed.logged(), "at info it is no event")


class SwitchedOff(AsClient):
    environment = {"QANAT_SHARED_TUNNELS": "false"}

    def test_it_is_neither_announced_nor_believed(self):
        tunnel = self.tunnel()
        tunnel.h2.ping()
        self.assertNotIn(TAKES_SOURCE, tunnel.h2.theirs)
        # Whoever says so all the same knows of it from a process before this one, and has another way.
        self.assertEqual(self.said(f"{self.sibling.ip}:4711"), (421, None))
        self.assertEqual(self.said(), (200, self.peer.ip))


del AsClient  # a base of the two above

if __name__ == "__main__":
    unittest.main()
