#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a user gets: install, one label, and running pods are in the mesh; policy, probes, and back."""
import json
import os
import re
import socket
import ssl
import statistics
import time
import unittest
import urllib.error
import urllib.request

from harness import SECURITY, SYSTEM, UNLABELLED, MeshBench
from bed import echo_once, http_get, outcome
from fixture import APPS, authorization, peer_authentication
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
ONLY_CLIENT = """
  action: ALLOW
  selector: {matchLabels: {app: %s}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/client"]}}]
"""


def token():
    return "token" + os.urandom(12).hex()


def try_from(source, host, port):
    """A connection from an address that is put on the pod's interface first: that of somebody else."""
    os.system(f"ip addr add {source}/32 dev lo")
    try:
        with socket.socket() as sock:
            sock.settimeout(2)
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
        cls.started, cls.took = bench.restarts("mesh"), []
        cls.in_the_clear = cls.tokens_between_nodes()
        cls.failures_before = cls.probe_failures()
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

    def within_a_second(self, what, change, source, target, allowed):
        """From the end of `kubectl apply` to the first connection with the new outcome: within a second, as a rule.
        Each by itself may be held up by a machine that stands still."""
        took = after(self.bench, change, source, what, lambda seen: (seen == "ok") == allowed,
                     outcome, self.bench.ip(target), 9000, b"hello", 15)
        self.assertLess(took, 15, what)
        self.took.append(took)

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
        for target, other in (("far", "mesh/near"), ("near", "mesh/far")):  # each other -> target crosses the nodes
            policy = authorization(f"only-client-{target}", ONLY_CLIENT % target)
            self.within_a_second(f"{other} is refused", lambda: self.bench.apply(policy), other, f"mesh/{target}", False)
            self.assertEqual(self.reaches("mesh/client", f"mesh/{target}"), "ok")
        # near and client share node1: refused and allowed without a packet between the nodes
        nobody = authorization("only-client-near", (ONLY_CLIENT % "near").replace("sa/client", "sa/nobody"))
        with self.bench.capture("same-node.pcap") as seen:
            self.within_a_second("client is refused on its own node", lambda: self.bench.apply(nobody), "mesh/client", "mesh/near", False)
        self.assertEqual(seen.count(f"host {self.bench.ip('mesh/near')} and port 9000"), 0)
        path = f"{SECURITY}/mesh/authorizationpolicies/only-client-far"
        self.bench.wait("the policy has a status", lambda: (self.bench.get(path) or {}).get("status", {}).get("conditions"))
        for target, other in (("far", "mesh/near"), ("near", "mesh/far")):
            self.within_a_second(f"{other} is let in again", lambda: self.bench.kubectl(
                "delete", "authorizationpolicy", "-n", "mesh", f"only-client-{target}"), other, f"mesh/{target}", True)

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
        self.bench.kubectl("delete", "authorizationpolicy", "-n", "mesh", "mistake")
        self.bench.wait("near is let in again", lambda: self.reaches() == "ok")

    def test_08_strict_refuses_who_is_not_in_the_mesh(self):
        self.assertEqual(self.reaches("plain/outsider"), "ok")
        self.within_a_second("outsider is refused", lambda: self.bench.apply(peer_authentication("STRICT")),
                             "plain/outsider", "mesh/far", False)
        self.assertEqual(self.reaches(), "ok")
        self.assertEqual(self.reaches("mesh/near", "plain/bystander"), "ok", "out of the mesh is not refused")
        self.assertLess(statistics.median(self.took), 1.0, self.took)

    def test_09_strict_holds_for_nodeport_host_network_and_borrowed_addresses(self):
        self.bench.apply(NODE_PORT)
        self.bench.wait("the pod on the host is ready", lambda: self.bench.ready("mesh", count=5))
        self.assertIsNone(self.bench.redirection("mesh/on-the-host"), "pods of the host network are left alone")
        far, near = self.bench.ip("mesh/far"), self.bench.ip("mesh/near")
        for index in (1, 2):
            self.assertNotEqual(self.bench.call_outside(outcome, f"10.99.0.1{index}", 30900, b"hello", 3), "ok",
                                f"NodePort of node{index}: the node's address is not an identity")
        for target in (far, near):
            self.assertNotEqual(self.bench.call("mesh/on-the-host", outcome, target, 9000, b"hello", 3), "ok")
        for source in ("10.244.1.1", "10.244.2.1", "10.99.0.11", "10.99.0.12", self.bench.ip("mesh/client")):
            for target in (far, near):
                self.assertNotEqual(self.bench.call("plain/outsider", try_from, source, target, 9000), "ok", source)

    def test_10_probes_stayed_green(self):
        time.sleep(3)
        self.assertEqual(self.bench.restarts("mesh").keys() - {"on-the-host"}, self.started.keys())
        for pod in self.bench.pods("mesh"):
            for condition in pod["status"]["conditions"]:
                if condition["type"] == "Ready":
                    self.assertEqual(condition["status"], "True", pod["metadata"]["name"])
        self.assertEqual(self.probe_failures(), self.failures_before, "a probe failed since the mesh is there")

    @classmethod
    def probe_failures(cls):
        """What kubelets said of failed probes of the first pods, and how often."""
        events = json.loads(cls.bench.kubectl("get", "events", "-n", "mesh", "-o", "json").stdout)["items"]
        return sorted((e["involvedObject"]["name"], e["message"], e.get("count", 1)) for e in events
                      if e["reason"] == "Unhealthy" and e["involvedObject"]["name"] in cls.started)

    def test_11_qanatctl_from_outside_and_on_the_node(self):
        said = self.bench.ctl("status").stdout
        for name in ("node1", "node2"):
            self.assertIn(name, said)
        allowed = self.bench.ctl("why", "mesh/client", "far.mesh:9000").stdout
        self.assertRegex(allowed, re.compile("allowed|passes|ok", re.I))
        refused = self.bench.ctl("why", "plain/outsider", "far.mesh:9000", check=False)
        self.assertEqual(refused.returncode, 3, refused.stdout + refused.stderr)
        self.assertIn("node2", self.bench.ctl_on_node(1, "status"))

    def test_12_a_new_pod_is_in_the_mesh_before_it_runs(self):
        from fixture import pod
        self.bench.apply(pod("mesh", "late", "client", "node2"))
        self.bench.wait("late is ready", lambda: self.bench.ready("mesh", "app=late"))
        self.assertEqual(self.bench.redirection("mesh/late"), "enabled")
        self.assertEqual(self.reaches("mesh/late", "mesh/near"), "ok")  # STRICT: only from inside the mesh

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


if __name__ == "__main__":
    unittest.main(verbosity=2)
