# SPDX-License-Identifier: Apache-2.0
"""The bed in which the node proxy's tunnels end at a server of this peer: an application in the pod
"client" dials the peer's address, and what is captured comes to the peer as HBONE."""
import socket

import netns
import tls
from ads import ADDRESS, service, workload
from bed import PEER, TRUST, Bed, Case, until
from hbone import Server, outcome, read_all

CLIENT = f"{TRUST}/ns/near/sa/client"
PORT = 7000


class Outbound(Case):
    environment = {}

    @classmethod
    def setUpClass(cls):
        # One worker: workers do not share tunnels, and the tests count them.
        bed = cls.bed = Bed(pods=("client",), environment={"ZTUNNEL_WORKER_THREADS": "1", **cls.environment})
        cls.addClassCleanup(bed.down)
        cls.pod, cls.peer = bed.pods["client"], bed.peer()
        svc = service("shop", "far", "10.96.0.9", {80: PORT})
        bed.ads.resources[ADDRESS] = dict([svc, workload("client", "near", "client", cls.pod), workload(
            "peer", "far", "peer", cls.peer, services={svc[0]: {"ports": [{"service_port": 80, "target_port": PORT}]}})])
        cls.context = tls.server_context(*bed.root.issue("peer", [PEER]), bed.root.cert)
        cls.server = Server(cls.peer.name, cls.context)
        bed.closers.append(cls.server)
        bed.start().enrol()
        until("the client has its certificate", lambda: cls.echo(b"ready") == b"ready")

    def setUp(self):
        self.server.forget()
        self.server.context = self.context

    @classmethod
    def dial(cls, port=PORT, address=None):
        return netns.connect(cls.pod.name, address or cls.peer.ip, port)

    @classmethod
    def echo(cls, data=b"hello", sock=None, **where):
        sock = sock or cls.dial(**where)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        got = read_all(sock)
        sock.close()
        return got

    def outcome(self, on_stream=None, data=b"hello"):
        """What the application sees, which does not end its direction."""
        if on_stream:
            self.server.on_stream = on_stream
        return outcome(self.pod.name, self.peer.ip, PORT, data, end=False)

    def only_stream(self):
        self.server.connection(0)
        return until("a stream", lambda: self.server.streams())[0]

    def open_streams(self, count):
        """Connections of the application, each proven by an echo of one byte."""
        socks = [self.dial() for _ in range(count)]
        for sock in socks:
            sock.sendall(b"1")
        for sock in socks:
            self.assertEqual(sock.recv(1), b"1")
        return socks

    def finish(self, socks):
        for number, sock in enumerate(socks):
            self.assertEqual(self.echo(b"%d" % number, sock), b"%d" % number)
