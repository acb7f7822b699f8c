# SPDX-License-Identifier: Apache-2.0
"""Calls into and out of another network: two tunnels, one in the other, through a gateway of this peer's that passes
bytes on, and what is believed of what the far side says. The reference, section 5."""
import re
import socket
import threading
import unittest

import h2
import netns
import tls
from ads import ADDRESS, AUTHORIZATION, policy, service, workload
from bed import TRUST, Bed, Case, until
from hbone import App, Client, Server, echo, outcome, serve

GATEWAY, FAR, DIRECT = (f"{TRUST}/ns/{name}" for name in ("mesh-system/sa/eastwest", "far/sa/shop", "near/sa/direct"))
HOST = "shop.far.svc.cluster.local"
INNER = 15108  # where the far end stands behind the gateway
SAYS = "k8s.cluster.name=other,k8s.namespace.name=far,k8s.deployment.name=shop-v2,service.name=shop,service.version=v2"


def pairs(baggage):
    return dict(pair.split("=") for pair in baggage.split(","))


def pass_on(namespace, port, fields=()):
    """What a gateway does with a stream: answers, and its bytes go on as they are."""
    def behave(stream):
        sock = netns.connect(namespace, "127.0.0.1", port)
        stream.answer(200, fields)

        def back():
            try:
                while data := sock.recv(1 << 16):
                    stream.send(data)
                stream.finish()
            except (OSError, h2.Reset):
                pass
        other_way = threading.Thread(target=back, daemon=True)
        other_way.start()
        try:
            while data := stream.read(timeout=600):
                sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except (OSError, h2.Reset):
            sock.close()
        other_way.join()
        sock.close()
    return behave


def serve_as(baggage):
    """An echo that says who it is."""
    def behave(stream):
        stream.answer(200, [("baggage", baggage)])
        while data := stream.read(timeout=120):
            stream.send(data)
        stream.finish()
    return behave


class Networks(Case):
    """The gateway of network "far" stands where the peer does."""
    pods = ("client",)

    @classmethod
    def setUpClass(cls):
        # One worker: workers do not share tunnels, and the tests count them.
        bed = cls.bed = Bed(pods=cls.pods, environment={"ZTUNNEL_WORKER_THREADS": "1", "NETWORK": "near"})
        cls.addClassCleanup(bed.down)
        cls.peer = bed.peer()
        cls.service = service("shop", "far", "10.96.0.9", {80: 7000})
        cls.service[1]["service"]["addresses"][0]["network"] = "near"
        far, shop = workload("shop", "far", "shop", cls.peer, network="far", addresses=[], workload_name="shop-endpoint",
                             services={cls.service[0]: {"ports": [{"service_port": 80, "target_port": 7000}]}},
                             network_gateway={"address": {"network": "far", "address": socket.inet_aton(cls.peer.ip)}, "hbone_mtls_port": 15008})
        bed.ads.resources[ADDRESS] = dict([
            cls.service, (far, shop), workload("eastwest", "mesh-system", "eastwest", cls.peer, network="far"),
            *(workload(name, "near", name, bed.pods[name], network="near") for name in cls.pods)])

    def sum_of(self, name, *with_):
        lines = self.bed.get(15020, "/metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{") and all(w in line for w in with_))


class Out(Networks):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        bed, cls.pod = cls.bed, cls.bed.pods["client"]
        # Another server in our own network, with whom one tunnel is enough.
        cls.direct_pod = bed.pods["direct"] = netns.Pod(bed.node, "direct", 10)
        bed.ads.resources[ADDRESS].update([workload("direct", "near", "direct", cls.direct_pod, network="near")])
        context = lambda name, uri: tls.server_context(*bed.root.issue(name, [uri]), bed.root.cert)
        cls.gateway = Server(cls.peer.name, context("gateway", GATEWAY))
        cls.far_context = context("far", FAR)
        cls.far = Server(cls.peer.name, cls.far_context, address="127.0.0.1", port=INNER)
        cls.direct = Server(cls.direct_pod.name, context("direct", DIRECT))
        bed.closers += [cls.gateway, cls.far, cls.direct]
        cls.gateway.on_stream = pass_on(cls.peer.name, INNER)
        bed.start().enrol("client")
        until("the client has its certificate", lambda: cls.echo(b"ready") == b"ready")

    def setUp(self):
        for server in (self.far, self.gateway, self.direct):
            server.forget()
        # It hears of an inner tunnel's end by way of the outer one.
        until("the proxy has no tunnel left", lambda: self.sum_of("qanat_pool_tunnels") == 0)
        self.gateway.on_stream = pass_on(self.peer.name, INNER)
        self.far.context = self.far_context

    @classmethod
    def echo(cls, data=b"hello", address="10.96.0.9", port=80):
        return outcome(cls.pod.name, address, port, data)

    def test_what_each_of_the_two_is_asked(self):
        self.assertEqual(self.echo(), b"hello")
        outer, inner = self.gateway.streams()[0], self.far.streams()[0]
        for stream, more in ((outer, []), (inner, ["x-forwarded-network"])):
            self.assertEqual(stream.headers[:2], [(":method", "CONNECT"), (":authority", f"{HOST}:80")])
            self.assertEqual([name for name, _ in stream.headers[2:]], ["baggage", "forwarded", "traceparent", *more])
            fields = stream.fields()
            self.assertEqual(pairs(fields["baggage"]), {"k8s.cluster.name": "Kubernetes", "k8s.namespace.name": "near", "k8s.pod.name": "client",
                                                        "service.name": "client", "service.version": "v1"})
            self.assertRegex(fields["forwarded"], rf'^for="{re.escape(self.pod.ip)}:\d+";host={re.escape(HOST)}$')
            self.assertRegex(fields["traceparent"], r"^00-[0-9a-f]{32}-[0-9a-f]{16}-00$")
        self.assertEqual(inner.fields()["x-forwarded-network"], "near")
        # Both are the client's own: the gateway's word is asked for by nobody.
        for connection in (self.gateway.connections[0], self.far.connections[0]):
            self.assertEqual(connection.pipe.peer_uris(), [f"{TRUST}/ns/near/sa/client"])

    def test_calls_share_the_inner_tunnel(self):
        for number in range(5):
            self.assertEqual(self.echo(b"%d" % number), b"%d" % number)
        self.assertEqual(len(self.gateway.streams()), 1)
        self.assertEqual((len(self.far.connections), len(self.far.streams())), (1, 5))

    def test_the_far_end_says_who_took_the_call(self):
        """Its word is for labels. The gateway's own answer carries none of it."""
        self.gateway.on_stream = pass_on(self.peer.name, INNER, [("baggage", "k8s.deployment.name=liar,k8s.namespace.name=liar")])
        self.far.on_stream = serve_as(SAYS)
        self.assertEqual(self.echo(), b"hello")
        until("counted", lambda: self.sum_of(
            "istio_tcp_connections_closed_total", 'destination_workload="shop-v2"', 'destination_workload_namespace="far"',
            'destination_canonical_service="shop"', 'destination_version="v2"', 'destination_cluster="other"',
            f'destination_principal="{FAR}"', f'destination_service="{HOST}"') == 1)
        self.assertNotIn("liar", self.bed.get(15020, "/metrics")[1])
        until("logged", lambda: "dst.workload=\"shop-v2\"" in self.bed.logged())

    def test_a_far_end_that_says_nothing_or_nonsense(self):
        for baggage in ("", "=,,;;%%", "k8s.deployment.name=" + "x" * 5000):
            self.far.on_stream = serve_as(baggage) if baggage else serve
            with self.subTest(baggage[:30]):
                self.assertEqual(self.echo(), b"hello")
        self.assertNotIn("xxxx", self.bed.get(15020, "/metrics")[1])

    def test_in_our_own_network_nobody_is_asked(self):
        """The control plane has said who the endpoint is."""
        self.direct.on_stream = serve_as("k8s.deployment.name=impostor,k8s.namespace.name=impostor")
        self.assertEqual(self.echo(address=self.direct_pod.ip, port=7000), b"hello")
        until("counted", lambda: self.sum_of("istio_tcp_connections_closed_total", 'destination_workload="direct"') >= 1)
        self.assertNotIn("impostor", self.bed.get(15020, "/metrics")[1])

    def test_a_far_end_with_another_identity(self):
        self.far.context = tls.server_context(*self.bed.root.issue("stranger", [f"{TRUST}/ns/far/sa/stranger"]), self.bed.root.cert)
        self.far.on_stream = serve_as("k8s.deployment.name=stranger")
        self.assertEqual(self.echo(), "reset")
        self.assertEqual(self.far.streams(), [])
        until("counted", lambda: self.sum_of("qanat_connections_refused_total", "peer_identity_mismatch") >= 1)
        self.assertNotIn("stranger", self.bed.get(15020, "/metrics")[1])

    def test_a_gateway_that_refuses(self):
        self.gateway.on_stream = lambda stream: stream.answer(503, end=True)
        self.assertEqual(self.echo(), "reset")
        self.assertEqual(self.far.connections, [])


class In(Networks):
    """What comes out of another network. The source is what was proven; what is only said is for labels, and
    believed of that network's gateway alone."""
    pods = ("server",)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        bed, cls.pod = cls.bed, cls.bed.pods["server"]
        bed.ads.resources[AUTHORIZATION] = dict([
            policy("only-trusted", "near", 0, {"namespaces": [{"exact": "trusted"}], "destination_ports": [8081]}, {"destination_ports": [8080]}),
            policy("no-evil", "near", 1, {"namespaces": [{"exact": "evil"}]}),
            policy("no-evil-principal", "near", 1, {"principals": [{"suffix": "/ns/evil/sa/shop"}]})])
        for port in (8080, 8081):
            bed.closers.append(App(cls.pod.name, "0.0.0.0", port, echo))
        context = lambda name, uri: tls.client_context(bed.root.cert, *bed.root.issue(name, [uri]))
        cls.gateway = context("gateway", GATEWAY)
        cls.shop = context("shop", FAR)
        bed.start().enrol("server")
        until("the server has its certificate", lambda: cls.ask(cls.gateway) == 200)

    @classmethod
    def ask(cls, context, *fields, port=8080):
        """The status; a stream that was accepted has brought a word there and back."""
        client = Client(cls.peer.name, cls.pod.ip, context)
        try:
            stream = client.connect(f"{cls.pod.ip}:{port}", *fields)
            if (status := stream.status()) == 200:
                stream.send(b"word", end=True)
                assert stream.read_all() == b"word"
            return status
        finally:
            client.close()

    def opened(self, *labels):
        return self.sum_of("istio_tcp_connections_opened_total", 'reporter="destination"', *labels)

    def ignored(self):
        text = self.bed.get(15020, "/metrics")[1]
        return sum(float(v) for v in re.findall(r"^qanat_forwarded_network_ignored_total(?:\{\})? (\S+)$", text, re.M))

    def test_the_gateway_of_that_network_is_believed(self):
        self.assertEqual(self.ask(self.gateway, ("baggage", SAYS), ("x-forwarded-network", "far")), 200)
        until("counted", lambda: self.opened('source_workload="shop-v2"', 'source_workload_namespace="far"', 'source_cluster="other"',
                                             'source_canonical_service="shop"', f'source_principal="{GATEWAY}"') == 1)

    def test_nobody_else_is(self):
        says = SAYS.replace("shop-v2", "invented")
        for context, network in ((self.shop, "far"), (self.gateway, "elsewhere"), (self.shop, "elsewhere"), (self.shop, "near"), (self.shop, "")):
            with self.subTest(network):
                before = self.ignored()
                self.assertEqual(self.ask(context, ("baggage", says), ("x-forwarded-network", network)), 200)
                if network not in ("near", ""):
                    until("counted", lambda: self.ignored() == before + 1)
        self.assertEqual(self.ask(self.gateway, ("baggage", says)), 200, "it spoke of no other network")
        self.assertNotIn("invented", self.bed.get(15020, "/metrics")[1])

    def test_who_is_proven_keeps_its_namespace(self):
        """A gateway that passes the inner tunnel on shows us the source's own certificate."""
        self.assertEqual(self.ask(self.shop, ("baggage", SAYS), ("x-forwarded-network", "far")), 200)
        until("counted", lambda: self.opened('source_workload="unknown"', 'source_workload_namespace="far"', f'source_principal="{FAR}"') >= 1)

    def test_policies_do_not_listen(self):
        for context in (self.gateway, self.shop):
            for namespace, port, wanted in (("trusted", 8081, 401), ("evil", 8080, 200), ("mesh-system", 8080, 200)):
                with self.subTest((namespace, port)):
                    said = f"k8s.cluster.name=other,k8s.namespace.name={namespace},k8s.deployment.name=shop,service.name=shop"
                    self.assertEqual(self.ask(context, ("baggage", said), ("x-forwarded-network", "far"), port=port), wanted)


if __name__ == "__main__":
    unittest.main(verbosity=2)
