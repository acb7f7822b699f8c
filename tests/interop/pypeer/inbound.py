# SPDX-License-Identifier: Apache-2.0
"""The bed in which a client of this peer dials the node proxy's 15008: the pod "server" with its
applications, the peer beside it. Shared by the tests of one file."""
import tls
from ads import ADDRESS, AUTHORIZATION, policy, service, workload
from bed import PEER, Bed, Case, until
from hbone import App, Client, echo

DENIED = 8099


class Inbound(Case):
    environment, limit = {}, None  # of open files

    @classmethod
    def setUpClass(cls):
        bed = cls.bed = Bed(pods=("server", "client"), environment=cls.environment, files=cls.limit)
        cls.addClassCleanup(bed.down)
        cls.pod, cls.peer = bed.pods["server"], bed.peer()
        svc = service("shop", "near", "10.96.0.9", {80: 8080})
        bed.ads.resources[ADDRESS] = dict([
            svc, workload("peer", "far", "peer", cls.peer), workload("client", "near", "client", bed.pods["client"]),
            workload("server", "near", "server", cls.pod, services={svc[0]: {"ports": [{"service_port": 80, "target_port": 8080}]}})])
        bed.ads.resources[AUTHORIZATION] = dict([policy("no-8099", "near", 1, {"destination_ports": [DENIED]})])
        cls.context = tls.client_context(bed.root.cert, *bed.root.issue("peer", [PEER]))
        cls.apps = {}
        cls.app(8080, echo)
        cls.app(DENIED, echo)
        cls.app(8081, echo, "::")
        bed.start().enrol()
        until("the server has its certificate", lambda: cls.tunnel().h2.ping() is None)

    @classmethod
    def app(cls, port, behave, address="0.0.0.0"):
        if port not in cls.apps:
            cls.apps[port] = App(cls.pod.name, address, port, behave)
            cls.bed.closers.append(cls.apps[port])
        cls.apps[port].behave = behave
        return cls.apps[port]

    @classmethod
    def tunnel(cls, context=None, address=None, **how):
        client = Client(cls.peer.name, address or cls.pod.ip, context or cls.context, **how)
        cls.bed.closers.append(client)
        return client

    def to(self, port=8080):
        return f"{self.pod.ip}:{port}"

    def assertEcho(self, stream, data=b"hello"):
        self.assertEqual(stream.status(), 200)
        stream.send(data)
        self.assertEqual(stream.read_exactly(len(data)), data)

    def status(self, *request, **how):
        stream = self.tunnel().connect(*request, **how)
        status = stream.status()
        self.assertEqual(stream.read_all(), b"", "refusals have no body")
        return status
