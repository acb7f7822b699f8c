# SPDX-License-Identifier: Apache-2.0
"""What variables of the environment change on the wire and at the proxy's own endpoints: the reference,
section 9. What they are read as is config_test.cc's; those that other tests set are not repeated."""
import http.client
import json
import signal
import ssl
import time
import unittest

import h2
import netns
import tls
from ads import ADDRESS, workload
from bed import PEER, TRUST, Bed, Case, until
from inbound import Inbound
from proto import from_struct

GREASE = 0x0a0a
ADMIN, STATS = 15900, 15920
OWN = f"{TRUST}/ns/mesh-system/sa/ztunnel"


class Settings(Inbound):
    environment = {
        "HTTP2_STREAM_WINDOW_SIZE": "131072", "HTTP2_CONNECTION_WINDOW_SIZE": "1048576", "HTTP2_FRAME_SIZE": "65536",
        "TLS12_ENABLED": "true", "IPV6_ENABLED": "false", "AUTHZ_POLICY_INFO_LOGGING": "true", "LOG_FORMAT": "json", "RUST_LOG": "info,inbound=debug",
        "KEEPALIVE_TIME": "77s", "TERMINATION_GRACE_PERIOD_SECONDS": "3", "XDS_HEADER_X-Tenant": "blue", "CA_HEADER_X-Tenant": "green",
        "SERVICE_ACCOUNT": "ztunnel", "TRUST_DOMAIN": "other.example",
        "PROXY_CONFIG": f"proxyAdminPort: {ADMIN}\nstatsPort: {STATS}\nproxyMetadata: {{SHADE: dark, COLOUR: red}}\n",
    }

    def lines(self):
        text = self.bed.logged()
        return [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]

    def ask(self, path, method="GET"):
        connection = http.client.HTTPConnection("127.0.0.1", ADMIN, timeout=10)
        connection.sock = netns.connect(self.bed.node, "127.0.0.1", ADMIN)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def test_windows_and_frames(self):
        connection = self.tunnel().h2
        connection.wait(lambda: connection.settings_acked, "the ACK of SETTINGS")
        self.assertEqual((connection.their(h2.INITIAL_WINDOW), connection.their(h2.MAX_FRAME)), (131072, 65536))
        until("the connection's window", lambda: connection.send_window == 1048576)

    def test_older_tls_where_it_is_wanted(self):
        context = tls.client_context(self.bed.root.cert, *self.bed.root.issue("visitor", [PEER]))
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.assertEcho(self.tunnel(context).connect(self.to()))
        self.assertEcho(self.tunnel().connect(self.to()))

    def test_one_family(self):
        self.assertTrue(self.bed.listens("server"))
        out = netns.run(["ip", "netns", "exec", self.pod.name, "cat", "/proc/net/tcp6"])
        self.assertNotIn(f":{15008:04X} ", out)

    def test_keepalive_of_what_peers_open(self):
        tunnel = self.tunnel()
        self.assertEcho(tunnel.connect(self.to()))
        until("probes after 77 s", lambda: "keepalive,1min1" in netns.run(
            ["ip", "netns", "exec", self.pod.name, "ss", "-Htno", "state", "established", "sport", "=", ":15008"]))

    def test_headers_and_metadata_of_the_control_plane(self):
        stream = self.bed.ads.stream()
        self.assertEqual(stream.call.fields.get("x-tenant"), "blue")
        self.assertEqual(self.bed.ca.wait(f"{TRUST}/ns/near/sa/server")[0].fields.get("x-tenant"), "green")
        metadata = from_struct(stream.first(ADDRESS)["node"]["metadata"])
        self.assertEqual((metadata["SHADE"], metadata["COLOUR"]), ("dark", "blue"), "the environment goes above PROXY_CONFIG")

    def test_ports_of_the_proxy_config(self):
        self.assertEqual(self.bed.get(ADMIN, "/config_dump")[0], 200)
        for path in ("/metrics", "/stats/prometheus"):
            self.assertIn("istio_build", self.bed.get(STATS, path)[1])
        self.assertEqual(self.bed.get(15021, "/healthz/ready")[0], 200)
        for port in (15000, 15020):
            with self.assertRaises(ConnectionRefusedError):
                self.bed.get(port, "/")

    def test_log(self):
        """JSON with the reference's order of fields; each decision of a policy, as AUTHZ_POLICY_INFO_LOGGING asks."""
        stream = self.tunnel().connect(self.to())
        self.assertEcho(stream, b"12345")
        stream.send(b"", end=True)
        stream.read_all()
        line = until("the line of that connection", lambda: next((l for l in self.lines() if l["scope"] == "access" and l.get("bytes_recv") == 5), None))
        self.assertEqual(list(line), ["level", "time", "scope", "message", "src.addr", "src.workload", "src.namespace", "src.identity", "src.cluster",
                                      "dst.addr", "dst.hbone_addr", "dst.workload", "dst.namespace", "dst.identity", "dst.cluster",
                                      "direction", "bytes_sent", "bytes_recv", "duration"])
        self.assertEqual((line["level"], line["message"], line["direction"], line["bytes_sent"]), ("info", "connection complete", "inbound", 5))
        self.assertEqual((line["dst.addr"], line["dst.hbone_addr"]), (f"{self.pod.ip}:15008", self.to()))
        trace = "0af7651916cd43dd8448eb211c80319c"
        self.assertEqual(self.status(self.to(8099), ("traceparent", f"00-{trace}-b7ad6b7169203331-00")), 401)
        until("the trace's id", lambda: any(l["scope"] == "inbound" and l["message"].endswith(trace) for l in self.lines()))
        line = until("the refusal", lambda: next((l for l in self.lines() if l["scope"] == "access" and l.get("reason") == "policy_denied"), None))
        self.assertEqual((line["level"], line["message"]), ("error", "connection complete"))
        self.assertEqual(self.status("nobody.far.svc.cluster.local:80"), 503)
        line = until("the early denial", lambda: next((l for l in self.lines() if l["scope"] == "access" and l.get("reason") == "destination_unknown"), None))
        self.assertEqual((line["level"], line["message"]), ("warn", "connection failed"))
        said = until("the decision", lambda: [l for l in self.lines() if l["scope"] == "authz" and "denied" in l["message"]])
        self.assertEqual(said[0]["level"], "info")
        self.assertIn("no-8099", said[0]["message"])

    def test_another_trust_domain_than_was_set(self):
        """The control plane's holds, and the log says it."""
        uid, body = workload("ztunnel-abcde", "mesh-system", "ztunnel", self.pod)
        body["workload"]["addresses"] = []
        self.bed.ads.push(ADDRESS, {uid: body})
        self.bed.ca.wait(OWN)
        said = until("said", lambda: [l for l in self.lines() if "TRUST_DOMAIN" in l["message"]])
        self.assertEqual((len(said), said[0]["level"]), (1, "warn"))
        self.assertIn(OWN, said[0]["message"])

    def test_heap_profile(self):
        status, profile = self.ask("/debug/pprof/heap")
        self.assertEqual(status, 200)
        for text in (b"inuse_space", b"inuse_objects", b"bin/qanat-ztunnel"):
            self.assertIn(text, profile)
        self.assertEqual(self.ask("/debug/pprof/heap/profiling?activate=false", "POST"), (200, b"off\n"))
        self.assertEqual(self.ask("/debug/pprof/heap")[0], 409)
        self.assertEqual(self.ask("/debug/pprof/heap/profiling?activate=yes", "POST")[0], 400)
        self.assertEqual(self.ask("/debug/pprof/heap/profiling?activate=true", "POST"), (200, b"on\n"))
        self.assertEqual(self.ask("/debug/pprof/heap")[0], 200)

    def test_zz_drain_as_long_as_the_pod_has(self):
        """Last: a second less than the grace period of three."""
        stream = self.tunnel().connect(self.to())
        self.assertEcho(stream)
        begin = time.monotonic()
        self.bed.program.send_signal(signal.SIGTERM)
        self.assertEqual(self.bed.program.wait(60), 0)
        self.assertGreater(time.monotonic() - begin, 1.9)
        self.assertTrue(any("the others have 2000 ms" in l["message"] for l in self.lines()))


class Compliance(Case):
    def test_only_the_hybrid_group_is_offered(self):
        """COMPLIANCE_POLICY=pqc, on the wire to another proxy."""
        bed = self.use(Bed(pods=("client",), environment={"COMPLIANCE_POLICY": "pqc"}))
        peer = bed.peer()
        bed.ads.resources[ADDRESS] = dict([workload("client", "near", "client", bed.pods["client"]), workload("peer", "far", "peer", peer)])
        listener = netns.listen(peer.name, "0.0.0.0", 15008)
        self.addCleanup(listener.close)
        listener.settimeout(20)
        bed.start().enrol()
        app = netns.connect(bed.pods["client"].name, peer.ip, 7000)
        self.addCleanup(app.close)
        sock, _ = listener.accept()
        self.addCleanup(sock.close)
        sock.settimeout(20)
        first = b""
        while len(first) < 5 or len(first) < 5 + int.from_bytes(first[3:5], "big"):
            self.assertTrue(more := sock.recv(4096), "a whole ClientHello")
            first += more
        hello = tls.client_hello(first)
        self.assertEqual([g for g in hello["groups"] if g & 0x0f0f != GREASE], [0x11ec])
        self.assertEqual([v for v in hello["versions"] if v & 0x0f0f != GREASE], [0x0304])


if __name__ == "__main__":
    unittest.main(verbosity=2)
