# SPDX-License-Identifier: Apache-2.0
"""The node proxy against a control plane written from the reference, section 3."""
import time
import unittest

import netns
from ads import ADDRESS, AUTHORIZATION, policy, service, workload
from bed import Bed, Case, until
from certs import Authority

NODE = "ztunnel~10.77.0.1~ztunnel-abcde.mesh-system~mesh-system.svc.cluster.local"


class Xds(Case):
    def setUp(self):
        self.use(Bed(pods=("server",), auto=False))

    def begin(self):
        self.bed.start()
        return self.bed.ads.stream()

    def names(self, kind):
        dump = self.bed.dump()
        if kind == "services":
            return {f"{s['namespace']}/{s['hostname']}" for s in dump["services"]}
        return {w["uid"] if kind == "workloads" else f"{w['namespace']}/{w['name']}" for w in dump[kind]}

    def workload(self, name, **more):
        uid, body = workload(name, "near", "server", self.bed.pods["server"], **more)
        body["workload"]["addresses"] = more.get("addresses", [])
        return uid, body

    def answered(self, stream, url, resources=(), removed=()):
        return stream.wait_answer(stream.respond(url, resources, removed))

    def assertAck(self, answer, url):
        self.assertEqual(answer.get("type_url"), url)
        self.assertNotIn("error_detail", answer)
        # Nothing is subscribed to or let go by an ACK of the wildcard.
        self.assertEqual((answer.get("subscribe"), answer.get("unsubscribe"), answer.get("initial_resource_versions")), (None, None, None))

    def test_first_messages(self):
        stream = self.begin()
        for url in (ADDRESS, AUTHORIZATION):
            with self.subTest(url):
                first = stream.first(url)
                self.assertEqual(first["node"]["id"], NODE)
                metadata = {name: value for name, value in self.struct(first["node"]["metadata"]).items()}
                for name, value in {"NAME": "ztunnel-abcde", "NAMESPACE": "mesh-system", "INSTANCE_IPS": "10.77.0.1", "NODE_NAME": "node-1",
                                    "CLUSTER_ID": "Kubernetes", "COLOUR": "blue", "NESTED": {"a": {"b": [1, True, "c"]}}}.items():
                    self.assertEqual(metadata.get(name), value, name)
                for absent in ("subscribe", "unsubscribe", "initial_resource_versions", "error_detail"):
                    self.assertNotIn(absent, first)
                self.assertEqual(first.get("response_nonce", ""), "")
        kept = netns.run(["ip", "netns", "exec", self.bed.node, "ss", "-Htno", "state", "established", "dport", "=", f":{self.bed.xds_server.port}"])
        self.assertIn("keepalive,4min", kept, "a control plane that is gone without a word: 300 s")
        fields = stream.call.fields
        self.assertEqual(fields.get("authorization"), "Bearer first-token")
        self.assertEqual(fields.get("clusterid"), "Kubernetes")
        self.assertEqual(fields.get(":authority"), f"localhost:{self.bed.xds_server.port}")

    @staticmethod
    def struct(message):
        from proto import from_struct
        return from_struct(message)

    def test_zds_begins_after_both_types(self):
        stream = self.begin()
        for url in (ADDRESS, AUTHORIZATION):
            stream.first(url)
            with self.assertRaises(TimeoutError):
                self.bed.agent.accept(timeout=1.5)
            self.assertAck(self.answered(stream, url), url)
        self.assertEqual(self.bed.agent.accept().hello(), {"version": 1})

    def test_good_ones_beside_bad_ones(self):
        stream = self.begin()
        good, more = self.workload("good"), self.workload("more")
        legacy, broken = self.workload("legacy", tunnel_protocol=2), "Kubernetes//Pod/near/broken"
        answer = self.answered(stream, ADDRESS, [(*self.at(good), good[1]), (*self.at(legacy), legacy[1]), (broken, "1", b"\x0a\xff\xff"),
                                                 (*self.at(more), more[1])])
        self.assertEqual(answer.get("type_url"), ADDRESS)
        detail = answer.get("error_detail", {})
        self.assertEqual(detail.get("code", 0), 0, "the reference sends none")
        for name in (legacy[0], broken):
            self.assertIn(f"{name}: ", detail.get("message", ""))
        for name in (good[0], more[0]):
            self.assertNotIn(name, detail.get("message", ""))
        self.assertEqual(self.names("workloads"), {good[0], more[0]})
        # The next response stands by itself.
        self.assertAck(self.answered(stream, ADDRESS, [(*self.at(legacy), {"workload": {**legacy[1]["workload"], "tunnel_protocol": 0}})]), ADDRESS)
        self.assertEqual(self.names("workloads"), {good[0], more[0], legacy[0]})

    @staticmethod
    def at(resource, version="1"):
        return resource[0], version

    def test_refused_ones_are_not_among_the_versions(self):
        stream = self.begin()
        good, legacy = self.workload("good"), self.workload("legacy", tunnel_protocol=2)
        self.answered(stream, ADDRESS, [(good[0], "g7", good[1]), (legacy[0], "l7", legacy[1])])
        name, body = policy("deny", "near", 1, {"destination_ports": [1]})
        self.assertAck(self.answered(stream, AUTHORIZATION, [(name, "p1", body)]), AUTHORIZATION)
        stream.call.finish(14, "going away")
        again = self.bed.ads.stream(1)
        first = again.first(ADDRESS)
        self.assertEqual(first.get("initial_resource_versions"), {good[0]: "g7"})
        self.assertEqual(first["node"]["id"], NODE)
        self.assertEqual(again.first(AUTHORIZATION).get("initial_resource_versions"), {name: "p1"})
        self.assertEqual(self.names("workloads"), {good[0]}, "kept meanwhile")

    def test_a_bad_update_of_a_good_one(self):
        """The last good one stays in force, and is what is named after a reconnect: so a newer one is sent again."""
        stream = self.begin()
        name, body = self.workload("changing")
        self.assertAck(self.answered(stream, ADDRESS, [(name, "1", body)]), ADDRESS)
        bad = {"workload": {**body["workload"], "tunnel_protocol": 2}}
        self.assertIn("error_detail", self.answered(stream, ADDRESS, [(name, "2", bad)]))
        stream.call.finish(0)
        versions = self.bed.ads.stream(1).first(ADDRESS).get("initial_resource_versions", {})
        self.assertEqual(versions, {name: "1"})
        self.assertEqual(self.names("workloads"), {name})

    def test_versions_and_removed(self):
        stream = self.begin()
        one, two = self.workload("one"), self.workload("two")
        svc = service("shop", "near", "10.96.0.9", {80: 8080})
        self.assertAck(self.answered(stream, ADDRESS, [(one[0], "1", one[1]), (two[0], "1", two[1]), (svc[0], "1", svc[1])]), ADDRESS)
        self.assertEqual(self.names("services"), {svc[0]})
        self.assertAck(self.answered(stream, ADDRESS, [(two[0], "2", two[1])], [one[0], "Kubernetes//Pod/near/never-was"]), ADDRESS)
        self.assertEqual(self.names("workloads"), {two[0]})
        self.assertAck(self.answered(stream, ADDRESS, (), [svc[0]]), ADDRESS)
        self.assertEqual(self.names("services"), set())
        rule = policy("deny", "near", 1, {"destination_ports": [1]})
        self.assertAck(self.answered(stream, AUTHORIZATION, [(rule[0], "1", rule[1])]), AUTHORIZATION)
        self.assertEqual(self.names("policies"), {rule[0]})
        self.assertAck(self.answered(stream, AUTHORIZATION, (), [rule[0]]), AUTHORIZATION)
        self.assertEqual(self.names("policies"), set())
        self.bed.xds_server.connections[-1].close(reset=True)  # the hard way
        again = self.bed.ads.stream(1)
        self.assertEqual(again.first(ADDRESS).get("initial_resource_versions"), {two[0]: "2"})
        self.assertNotIn("initial_resource_versions", again.first(AUTHORIZATION))

    def test_versions_go_out_once_per_stream(self):
        stream = self.begin()
        one = self.workload("one")
        for version in ("1", "2", "3"):
            self.assertAck(self.answered(stream, ADDRESS, [(one[0], version, one[1])]), ADDRESS)
        nonces = [r["response_nonce"] for r in stream.requests if r.get("type_url") == ADDRESS and r.get("response_nonce")]
        self.assertEqual(nonces, ["nonce-1", "nonce-2", "nonce-3"], "each answered once, in order")

    def test_workload_before_its_service(self):
        stream = self.begin()
        svc = service("shop", "near", "10.96.0.9", {80: 8080})
        pod = self.workload("one", services={svc[0]: {"ports": [{"service_port": 80, "target_port": 8081}]}})
        self.assertAck(self.answered(stream, ADDRESS, [(pod[0], "1", pod[1])]), ADDRESS)
        self.assertAck(self.answered(stream, ADDRESS, [(svc[0], "1", svc[1])]), ADDRESS)
        endpoints = self.bed.dump()["services"][0]["endpoints"]
        self.assertEqual([e["workloadUid"] for e in endpoints.values()], [pod[0]])

    def test_token_is_read_for_each_call(self):
        stream = self.begin()
        stream.first(ADDRESS)
        Authority.write(self.bed.token, "second-token\n")
        stream.call.finish(0)
        self.assertEqual(self.bed.ads.stream(1).call.fields.get("authorization"), "Bearer second-token")

    def test_a_stream_that_ends_well_begins_again_at_once(self):
        stream = self.begin()
        self.assertAck(self.answered(stream, ADDRESS), ADDRESS)
        gaps = []
        for number in range(1, 8):
            started = time.monotonic()
            stream.call.finish(0)
            stream = self.bed.ads.stream(number)
            gaps.append(time.monotonic() - started)
            self.assertAck(self.answered(stream, ADDRESS), ADDRESS)
        # After an error it would be a second at the least. A busy machine may hold up some of them, not most.
        self.assertLess(sorted(gaps)[3], 0.8, gaps)
        counted = self.bed.get(15020, "/metrics")[1]
        self.assertIn('istio_xds_connection_terminations_total{reason="Complete"} 7\n', counted)
        self.assertIn(f'istio_xds_message_total{{url="{ADDRESS}"}} 8\n', counted)
        self.assertIn(f'istio_xds_message_bytes_total{{url="{ADDRESS}"}} {self.bed.ads.bytes[ADDRESS]}\n', counted)

    def test_unauthenticated_then_well(self):
        """Errors that come instead of a stream: tried again, with the state of the file by then."""
        self.bed.xds_server.methods.clear()  # UNIMPLEMENTED
        self.bed.start()
        until("several attempts", lambda: len(self.bed.xds_server.calls) >= 3)
        from ads import PATH
        self.bed.xds_server.methods[PATH] = self.bed.ads.serve
        stream = self.bed.ads.stream()
        self.assertAck(self.answered(stream, ADDRESS), ADDRESS)

    def test_control_plane_restart(self):
        stream = self.begin()
        one = self.workload("one")
        self.assertAck(self.answered(stream, ADDRESS, [(one[0], "1", one[1])]), ADDRESS)
        self.assertAck(self.answered(stream, AUTHORIZATION), AUTHORIZATION)
        self.bed.enrol()
        until("ready", self.bed.ready)
        self.bed.xds_server.close()
        time.sleep(1.5)
        self.assertTrue(self.bed.ready(), "what is known holds without a control plane")
        self.assertEqual(self.names("workloads"), {one[0]})
        self.bed.xds_server.open()
        self.assertEqual(self.bed.ads.stream(1).first(ADDRESS).get("initial_resource_versions"), {one[0]: "1"})

    def test_goaway_of_the_control_plane(self):
        stream = self.begin()
        one = self.workload("one")
        self.assertAck(self.answered(stream, ADDRESS, [(one[0], "1", one[1])]), ADDRESS)
        connection = self.bed.xds_server.connections[-1]
        connection.goaway(stream.call.stream.id)
        # Graceful: what is open goes on.
        self.assertAck(self.answered(stream, ADDRESS, [(one[0], "2", one[1])]), ADDRESS)
        stream.call.finish(0)
        self.assertEqual(self.bed.ads.stream(1).first(ADDRESS).get("initial_resource_versions"), {one[0]: "2"})
        self.assertIsNot(self.bed.ads.stream(1).call.stream.connection, connection)

    def test_a_large_response_in_small_windows(self):
        """4,000 workloads in one message, cut by the peer's frames wherever it happens."""
        stream = self.begin()
        bodies = [self.workload(f"w{n}", canonical_name="x" * 400) for n in range(4000)]
        self.assertAck(self.answered(stream, ADDRESS, [(name, "1", body) for name, body in bodies]), ADDRESS)
        self.assertEqual(len(self.names("workloads")), 4000)
        stream.call.finish(0)  # versions of all of them come back in one message
        self.assertEqual(len(self.bed.ads.stream(1).first(ADDRESS)["initial_resource_versions"]), 4000)


if __name__ == "__main__":
    unittest.main(verbosity=2)
