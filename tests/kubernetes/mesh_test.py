#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a user gets: install, one label, and running pods are in the mesh; policy, probes, and back."""
import collections
import json
import os
import re
import socket
import ssl
import time
import unittest
import urllib.error
import urllib.request

from harness import SECURITY, SYSTEM, UNLABELLED, MeshBench
from bed import echo_once, http_get, outcome
from fixture import APPS, authorization, peer_authentication, pod
from prober import after

NODE_PORT = """
apiVersion: v1
kind: Service
metadata: {name: far-outside, namespace: mesh}
spec:
  type: NodePort
  selector: {app: far}
  ports: [{name: echo, port: 9000, targetPort: 9000, nodePort: 30900}]
---
apiVersion: v1
kind: Pod
metadata: {name: on-the-host, namespace: mesh}
spec:
  nodeName: node1
  hostNetwork: true
  containers:
  - {name: app, image: localhost/testbed/tests:1}
"""
# No kubelet connects to these, so that every connection their counters tell of is the test's own.
UNPROBED = """
    image: localhost/testbed/tests:1
    command: [python3, /app.py]"""
# All that a container does: one connection, at once, that nobody tries again.
FIRST_ACT = """
    image: localhost/testbed/tests:1
    command: [python3, -S, -c, "import socket; s = socket.create_connection(('%s', 9000), 15); s.sendall(b'x'); raise SystemExit(s.recv(1) != b'x')"]
  restartPolicy: Never"""
ONLY_CLIENT = """
  action: ALLOW
  selector: {matchLabels: {app: %s}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/client"%s]}}]
"""


def token():
    return "token" + os.urandom(12).hex()


def try_from(source, host, port):
    """A connection from an address that is put on the pod's interface first: that of somebody else."""
    os.system(f"ip addr add {source}/32 dev lo")
    try:
        with socket.socket() as sock:
            sock.settimeout(0.5)
            sock.bind((source, 0))
            sock.connect((host, port))
            sock.sendall(b"hello")
            return "ok" if sock.recv(5) else "closed"
    except OSError as error:
        return type(error).__name__
    finally:
        os.system(f"ip addr del {source}/32 dev lo")


class Story(unittest.TestCase):
    """The tests run in the order of their names and build on each other, as the user's day does."""

    @classmethod
    def setUpClass(cls):
        cls.bench = bench = MeshBench("mesh").up()
        bench.apply(UNLABELLED + "---\n" + APPS)
        bench.wait_ready(mesh=4, plain=2)
        cls.started, cls.took = bench.restarts("mesh"), collections.defaultdict(list)
        cls.in_the_clear = cls.tokens_between_nodes()
        cls.failures_before = bench.probe_failures("mesh", cls.started)
        start = time.monotonic()
        bench.install()
        print(f"installed in {time.monotonic() - start:.1f} s", flush=True)

    @classmethod
    def tearDownClass(cls):
        cls.bench.down()

    @classmethod
    def tokens_between_nodes(cls, capture="between.pcap"):
        """Sends secrets client -> far (other node) and client -> near (same node); what the wire showed of them."""
        bench, far, near = cls.bench, token(), token()
        with bench.capture(capture) as seen:
            for version in (4, 6):
                for payload, target in ((far, "mesh/far"), (near, "mesh/near")):
                    data = payload.encode() * 3
                    assert bench.call("mesh/client", echo_once, bench.ip(target, version), 9000, data) == data
            bench.call("mesh/client", http_get, "far.mesh", 80, "/", None, "POST", far)
        return seen, seen.holds(far), seen.holds(near)

    def reaches(self, pod="mesh/near", target="mesh/far"):
        return self.bench.call(pod, outcome, self.bench.ip(target), 9000, b"hello", 15)

    def within_a_second(self, change, source, target, allowed):
        """From the end of `kubectl apply` to the first connection with the new outcome."""
        what = f"{source} {'is let in' if allowed else 'is refused'} by {target}"
        took = after(self.bench, change, source, what, lambda seen: (seen == "ok") == allowed,
                     outcome, self.bench.ip(target), 9000, b"hello", 15)
        self.assertLess(took, 15, what)
        self.took[allowed].append(took)

    def was_within_a_second(self):
        """Each direction of the changes so far. A machine that stands still may hold up any one of them, but not all."""
        for allowed in (False, True):
            self.assertGreaterEqual(len(self.took[allowed]), 2)
            self.assertLess(min(self.took[allowed]), 1.0, f"allowed: {allowed}: {self.took[allowed]}")
        self.took.clear()

    def is_accepted(self, path, said=""):
        """The object's status says that node proxies carry out what it says now."""
        self.bench.wait(f"{path} has a status", lambda: (found := self.bench.condition(path, "ZtunnelAccepted")) and
                        found[0] == "True" and said in found[2] and self.is_current(path), 10)

    def is_current(self, path):
        found = self.bench.get(path)
        return found["metadata"]["generation"] == next(
            c["observedGeneration"] for c in found["status"]["conditions"] if c["type"] == "ZtunnelAccepted")

    def test_01_without_the_mesh_the_wire_shows_everything(self):
        _, far, near = self.in_the_clear
        self.assertGreater(far, 0, "the search finds nothing even where it must")
        self.assertEqual(near, 0)

    def test_02_install_alone_changes_nothing_for_pods(self):
        self.assertEqual(self.bench.restarts("mesh"), self.started)
        _, far, _ = self.tokens_between_nodes()
        self.assertGreater(far, 0)
        self.assertIn("all is well", self.bench.ctl("verify").stdout)

    def test_03_a_label_meshes_running_pods(self):
        start = time.monotonic()
        self.bench.label("mesh")
        self.bench.wait("all pods enrolled", lambda: self.bench.enrolled("mesh"))
        print(f"four running pods enrolled in {time.monotonic() - start:.1f} s", flush=True)
        self.assertEqual(self.bench.restarts("mesh"), self.started, "a pod was restarted")
        self.bench.wait("an event says it", lambda: "QanatEnrolled" in self.bench.kubectl(
            "get", "events", "-n", "mesh", "-o", "jsonpath={.items[*].reason}").stdout)

    def test_04_between_nodes_is_tls(self):
        seen, far, near = self.tokens_between_nodes("meshed.pcap")
        self.assertEqual((far, near), (0, 0), "payload in the clear between nodes")
        self.assertGreater(seen.count("tcp port 15008 and tcp[((tcp[12] & 0xf0) >> 2):2] = 0x1703"), 0, "no TLS records")
        pods = "src net 10.244.0.0/16 and dst net 10.244.0.0/16 and tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn"
        self.assertEqual(seen.count(f"{pods} and not dst port 15008 and not port 53 and not host {self.dns_pod()}"), 0)

    def dns_pod(self):
        return self.bench.pods("kube-system", "k8s-app=kube-dns")[0]["status"]["podIP"]

    def test_05_everybody_still_reaches_everybody(self):
        for source in ("mesh/client", "mesh/far", "plain/outsider"):
            for target in ("mesh/near", "mesh/far", "plain/bystander"):
                self.assertEqual(self.reaches(source, target), "ok", f"{source} -> {target}")
        status, headers, _ = self.bench.call("mesh/client", http_get, "far.mesh.svc.cluster.local", 80)
        self.assertEqual((status, headers["x-served-by"]), (200, "far"))

    def test_06_policy_between_nodes_and_on_one_node(self):
        for target, other in (("far", "near"), ("near", "far")):  # each other -> target crosses the nodes
            path = f"{SECURITY}/mesh/authorizationpolicies/only-client-{target}"
            policy = authorization(f"only-client-{target}", ONLY_CLIENT % (target, ""))
            both = authorization(f"only-client-{target}", ONLY_CLIENT % (target, ', "cluster.local/ns/mesh/sa/server"'))
            for change, allowed in ((policy, False), (both, True), (policy, False)):
                self.within_a_second(lambda: self.bench.apply(change), f"mesh/{other}", f"mesh/{target}", allowed)
                self.is_accepted(path)
            self.assertEqual(self.reaches("mesh/client", f"mesh/{target}"), "ok")
        # near and client share node1: refused and allowed without a packet between the nodes
        nobody = authorization("only-client-near", (ONLY_CLIENT % ("near", "")).replace("sa/client", "sa/nobody"))
        with self.bench.capture("same-node.pcap") as seen:
            self.within_a_second(lambda: self.bench.apply(nobody), "mesh/client", "mesh/near", False)
        self.assertEqual(seen.count(f"host {self.bench.ip('mesh/near')} and port 9000"), 0)
        for target, other in (("far", "near"), ("near", "far")):
            self.within_a_second(lambda: self.bench.kubectl(
                "delete", "authorizationpolicy", "-n", "mesh", f"only-client-{target}"), f"mesh/{other}", f"mesh/{target}", True)
        self.was_within_a_second()

    def test_07_a_policy_with_a_mistake_says_so_and_stays_strict(self):
        self.bench.apply(authorization("mistake", """
  action: ALLOW
  selector: {matchLabels: {app: far}}
  rules:
  - from: [{source: {notPrincipels: ["x"]}}]
"""))
        path = f"{SECURITY}/mesh/authorizationpolicies/mistake"
        self.bench.wait("nobody is let in", lambda: self.reaches() != "ok")
        said = self.bench.wait("its status names the field", lambda: "notPrincipels" in json.dumps(
            (self.bench.get(path) or {}).get("status", {})), 10)
        self.assertIsNotNone(said)
        self.is_refused_at_once(path)
        self.bench.kubectl("delete", "authorizationpolicy", "-n", "mesh", "mistake")
        self.bench.wait("near is let in again", lambda: self.reaches() == "ok")

    def is_refused_at_once(self, path):
        """What our CRDs know the type or the values of: the API server names it, and what it has stays."""
        before = self.bench.get(path)["spec"]
        policy = lambda text: authorization("mistake", text)
        for bad, field, why in (
                (policy("\n  action: ALOW\n"), "spec.action", 'Unsupported value: "ALOW": supported values: .*"ALLOW"'),
                (policy("\n  rules: all\n"), "spec.rules", "must be of type array"),
                (policy("\n  selector: {matchLabels: {app: [far]}}\n"), "spec.selector.matchLabels.app", "must be of type string"),
                (peer_authentication("STRICTER"), "spec.mtls.mode", 'Unsupported value: "STRICTER": supported values: .*"STRICT"')):
            done = self.bench.kubectl("apply", "-f", "-", input=bad, check=False)
            self.assertNotEqual(done.returncode, 0, done.stdout)
            self.assertRegex(done.stderr, f" is invalid: (?s:.*){re.escape(field)}: .*{why}")
        self.assertEqual(self.bench.get(path)["spec"], before)

    def seen_from_outside(self):
        """(who, to what): outcome, of callers that a node's address may be seen of."""
        bench = self.bench
        seen = {(f"outside -> NodePort of node{index}"): bench.call_outside(outcome, f"10.99.0.1{index}", 30900, b"hello", 3)
                for index in (1, 2)}
        for target in ("mesh/far", "mesh/near", "plain/bystander"):
            seen[f"on-the-host -> {target}"] = bench.call("mesh/on-the-host", outcome, bench.ip(target), 9000, b"hello", 3)
        return seen

    def test_08_strict_refuses_who_is_not_in_the_mesh(self):
        self.bench.apply(NODE_PORT)
        self.bench.wait("the pod on the host is ready", lambda: self.bench.ready("mesh", count=5))
        self.assertIsNone(self.bench.redirection("mesh/on-the-host"), "pods of the host network are left alone")
        self.bench.wait("all are let in before", lambda: set(self.seen_from_outside().values()) == {"ok"})
        path, call = f"{SECURITY}/istio-system/peerauthentications/default", ("plain/outsider", "mesh/far")
        apply = lambda mode: lambda: self.bench.apply(peer_authentication(mode))
        delete = lambda: self.bench.kubectl("delete", "peerauthentication", "-n", "istio-system", "default")
        for mode, change in (("STRICT", apply), ("PERMISSIVE", apply), ("STRICT", apply), ("", lambda _: delete), ("STRICT", apply)):
            self.within_a_second(change(mode), *call, mode != "STRICT")
            if mode:
                self.is_accepted(path, f"{mode} for the whole mesh")
        self.assertEqual(self.reaches(), "ok")
        self.assertEqual(self.reaches("mesh/near", "plain/bystander"), "ok", "out of the mesh is not refused")
        self.was_within_a_second()

    def test_09_strict_holds_for_nodeport_and_host_network(self):
        """A node's address is no identity: what it had before STRICT (see above) it has no more."""
        for who, how in self.seen_from_outside().items():
            self.assertEqual(how == "ok", who.endswith("bystander"), f"{who}: {how}")

    def test_09b_a_borrowed_address_is_policed(self):
        """A pod that takes the address of a node or of another pod gets no answer, mesh or not: it goes to the owner. So it
        is counted where its connection ended. A node drops packets that come in with its own address: here it may not."""
        bench, lenient = self.bench, ("net.ipv4.conf.all.accept_local=1", "net.ipv4.conf.all.rp_filter=0")
        bench.apply(pod("mesh", "target1", "server", "node1", container=UNPROBED) +
                    pod("mesh", "target2", "server", "node2", container=UNPROBED))
        bench.wait("targets enrolled", lambda: bench.ready("mesh", count=7) and bench.enrolled("mesh"))
        for index in (1, 2):
            bench.on_node(index, "sysctl", "-qw", *lenient)
        for target in ("mesh/target1", "mesh/target2"):
            bench.wait("app.py listens", lambda: self.reaches("mesh/near", target) == "ok")
            for source in ("10.244.1.1", "10.244.2.1", "10.99.0.11", "10.99.0.12", bench.ip("mesh/client")):
                before = bench.counters(target)
                self.assertNotEqual(bench.call("plain/outsider", try_from, source, bench.ip(target), 9000), "ok", source)
                grown = {event: now - before[event] for event, now in bench.counters(target).items() if now != before[event]}
                self.assertGreaterEqual(grown.get("to_inbound", 0), 1, f"{source} -> {target}: {grown}")
                self.assertEqual(grown.get("grant_used", 0), 0, f"{source} -> {target}: {grown}")
        for index in (1, 2):
            bench.on_node(index, "sysctl", "-qw", lenient[0].replace("=1", "=0"))

    def test_10_probes_stayed_green(self):
        time.sleep(3)
        now = self.bench.restarts("mesh")
        self.assertEqual({name: now.get(name) for name in self.started}, self.started)
        for each in self.bench.pods("mesh"):
            for condition in each["status"]["conditions"]:
                if condition["type"] == "Ready":
                    self.assertEqual(condition["status"], "True", each["metadata"]["name"])
        self.probes_stayed_green()

    def probes_stayed_green(self):
        self.assertEqual(self.bench.probe_failures("mesh", self.started), self.failures_before, "a probe failed since the mesh is there")

    def test_11_qanatctl_from_outside_and_on_the_node(self):
        said = self.bench.ctl("status").stdout
        for name in ("node1", "node2"):
            self.assertIn(name, said)
        allowed = self.bench.ctl("why", "mesh/client", "far.mesh:9000").stdout
        self.assertRegex(allowed, re.compile("allowed|passes|ok", re.I))
        refused = self.bench.ctl("why", "plain/outsider", "far.mesh:9000", check=False)
        self.assertEqual(refused.returncode, 3, refused.stdout + refused.stderr)
        self.assertIn("node2", self.bench.ctl_on_node(1, "status"))
        asked = ("why", "mesh/client", "far.mesh:9000", "-o", "json")
        there, outside = (json.loads(said) for said in (self.bench.ctl_on_node(1, *asked), self.bench.ctl(*asked).stdout))
        self.assertEqual(there["verdict"], "allow", there)
        self.assertEqual(*([(step["where"], step["verdict"]) for step in each["steps"]] for each in (there, outside)))

    def test_12_a_new_pod_is_in_the_mesh_before_it_runs(self):
        self.bench.apply(pod("mesh", "late", "client", "node2"))
        self.bench.wait("late is ready", lambda: self.bench.ready("mesh", "app=late"))
        self.assertEqual(self.bench.redirection("mesh/late"), "enabled")
        self.assertEqual(self.reaches("mesh/late", "mesh/near"), "ok")  # STRICT: only from inside the mesh

    def test_12a_a_new_pods_first_act_is_policed(self):
        """Its only container connects once, at once, and ends: well, if the pod was in the mesh by then."""
        acts = {f"mesh/first{i}": (f"node{1 + i % 2}", "mesh/near" if i % 3 else "mesh/far") for i in range(5)}
        acts["plain/first"] = ("node1", "mesh/near")
        self.bench.apply("".join(pod(*name.split("/"), name.split("/")[1], node, container=FIRST_ACT % self.bench.ip(target))
                                 for name, (node, target) in acts.items()))
        phases = lambda: {name: self.bench.pod(name)["status"]["phase"] for name in acts}
        self.bench.wait("all have ended", lambda: set(phases().values()) <= {"Succeeded", "Failed"})
        self.assertEqual(phases(), {name: "Failed" if name == "plain/first" else "Succeeded" for name in acts})
        for namespace in ("mesh", "plain"):
            self.bench.kubectl("delete", "pod", "-n", namespace, *(n.split("/")[1] for n in acts if n.startswith(namespace)))

    def test_12b_an_agent_writes_annotations_on_its_own_node_only(self):
        bench = self.bench
        node = bench.pod("mesh/far")["spec"]["nodeName"]
        agents = {p["spec"]["nodeName"]: p["metadata"]["name"] for p in bench.pods(SYSTEM, "app=qanat-agent")}
        server, ca = (bench.kubectl("config", "view", "--raw", "-o", f"jsonpath={{.clusters[0].cluster.{key}}}").stdout
                      for key in ("server", "certificate-authority"))

        def patch(agent, what):
            token = bench.kubectl("create", "token", "qanat-agent", "-n", SYSTEM, "--bound-object-kind", "Pod",
                                  "--bound-object-name", agent).stdout.strip()
            request = urllib.request.Request(f"{server}/api/v1/namespaces/mesh/pods/far/status", what.encode(), {
                "Content-Type": "application/merge-patch+json", "Authorization": f"Bearer {token}"}, method="PATCH")
            try:
                with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=ca), timeout=10):
                    return "patched"
            except urllib.error.HTTPError as error:
                return error.read().decode()

        mark = '{"metadata":{"annotations":{"example.org/mark":"x"}}}'
        self.assertIn("patched", patch(agents[node], mark))
        stranger = next(agent for name, agent in agents.items() if name != node)
        self.assertIn("its own node only", patch(stranger, mark))
        self.assertIn("no status", patch(agents[node], '{"status":{"podIP":"10.9.9.9","podIPs":[{"ip":"10.9.9.9"}]}}'))
        self.assertIn("no labels", patch(agents[node], '{"metadata":{"labels":{"app":"near"}}}'))

    def test_13_without_the_label_it_is_plain_again(self):
        self.bench.kubectl("delete", "peerauthentication", "-n", "istio-system", "default")
        self.bench.label("mesh", None)
        gone = lambda: not any(self.bench.redirection(f"mesh/{name}") for name in self.started)
        self.bench.wait("nobody is enrolled", gone)
        self.assertEqual(self.reaches("plain/outsider"), "ok")
        _, far, _ = self.tokens_between_nodes("plain-again.pcap")
        self.assertGreater(far, 0)
        self.assertEqual({name: self.bench.restarts("mesh")[name] for name in self.started}, self.started)
        self.probes_stayed_green()


if __name__ == "__main__":
    unittest.main(verbosity=2)
