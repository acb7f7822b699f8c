#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Waypoints: a Gateway becomes a Deployment and a Service; routes and L7 policy hold; removal leaves nothing."""
import collections
import math
import unittest

from harness import GATEWAY, MeshBench
from bed import http_get
from fixture import APPS, NAMESPACES, WEB
from prober import after

OURS = WEB.replace("gatewayClassName: istio-waypoint", "gatewayClassName: qanat-waypoint")
CANARY = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary, namespace: mesh}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
  - matches: [{headers: [{name: canary, value: "true"}]}]
    backendRefs: [{name: web-v2, port: 80}]
  - backendRefs:
    - {name: web-v1, port: 80, weight: 90}
    - {name: web-v2, port: 80, weight: 10}
"""
READ_ONLY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: read-only, namespace: mesh}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/client"]}}]
    to: [{operation: {methods: [GET], notPaths: ["/admin*"]}}]
"""
WEB_HOST = "web.mesh.svc.cluster.local"


def versions(count, headers=None):
    import json
    seen = collections.Counter()
    for _ in range(count):
        status, _, body = http_get(WEB_HOST, 80, "/", headers)
        seen[json.loads(body)["version"] if status == 200 else status] += 1
    return dict(seen)


def post():
    return http_get(WEB_HOST, 80, "/", None, "POST")[0]


class Waypoint(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bench = bench = MeshBench("waypoint").up()
        cls.install_by_kubectl()
        bench.apply(NAMESPACES + "---\n" + APPS + "\n---\n" + OURS)
        bench.wait_ready(mesh=7, plain=2)  # six and the waypoint
        bench.wait("pods enrolled", lambda: bench.enrolled("mesh"))
        bench.wait("web answers", lambda: cls.status() == 200)
        # the waypoint's own pod is replaced and removed below
        cls.started = {name: of for name, of in bench.restarts("mesh").items() if not name.startswith("waypoint-")}
        cls.failures_before = bench.probe_failures("mesh", cls.started)

    @classmethod
    def install_by_kubectl(cls):
        """kubectl apply -f <(qanatctl manifests), once: nothing may lean on what only `qanatctl install` does."""
        cls.bench.apply(cls.bench.ctl("manifests").stdout)
        well = lambda: "all is well" in cls.bench.ctl("verify", check=False).stdout
        print(f"installed by kubectl in {cls.bench.wait('all is well', well):.1f} s", flush=True)

    @classmethod
    def tearDownClass(cls):
        cls.bench.down()

    @classmethod
    def status(cls, source="mesh/client", path="/", method="GET"):
        return cls.bench.call(source, http_get, WEB_HOST, 80, path, None, method)[0]

    def test_01_the_gateway_says_what_it_became(self):
        path = f"{GATEWAY}/mesh/gateways/waypoint"
        for kind in ("Accepted", "Programmed"):
            self.bench.wait(kind, lambda: (self.bench.condition(path, kind) or [""])[0] == "True")
        gateway = self.bench.get(path)
        service = self.bench.get("/api/v1/namespaces/mesh/services/waypoint")
        self.assertIn(service["spec"]["clusterIP"], [a["value"] for a in gateway["status"]["addresses"]])
        for kind in ("/apis/apps/v1/namespaces/mesh/deployments", "/api/v1/namespaces/mesh/services", "/api/v1/namespaces/mesh/serviceaccounts"):
            owners = self.bench.get(f"{kind}/waypoint")["metadata"]["ownerReferences"]
            self.assertEqual([o["uid"] for o in owners], [gateway["metadata"]["uid"]], kind)
        self.assertEqual(gateway["status"]["listeners"][0]["name"], "mesh")

    def test_01b_its_pods_keep_the_restricted_pod_security_standard(self):
        said = self.bench.kubectl("label", "--dry-run=server", "namespace", "mesh", "pod-security.kubernetes.io/enforce=restricted").stderr
        # of seven pods only the applications of this test do not: one line for all who have the same against them
        self.assertIn("Warning: client (and 5 other pods): ", said)
        self.assertEqual(len(said.splitlines()), 2, said)

    def test_02_canary_by_weight_and_by_header(self):
        self.bench.apply(CANARY)
        self.bench.wait("the header route holds", lambda: self.bench.call("mesh/client", versions, 5, {"canary": "true"}) == {"v2": 5})
        seen = self.bench.call("mesh/client", versions, 500)
        self.assertEqual(set(seen), {"v1", "v2"}, seen)
        self.assertLess(abs(seen["v2"] - 50), 4 * math.sqrt(500 * 0.1 * 0.9), seen)
        accepted = self.bench.condition(f"{GATEWAY}/mesh/httproutes/canary", "Accepted")
        self.assertEqual((accepted or [""])[0], "True", accepted)

    def test_03_methods_paths_and_identities(self):
        took = after(self.bench, lambda: self.bench.apply(READ_ONLY), "mesh/client", "POST is refused",
                     lambda status: status == 403, post)
        self.assertEqual(self.status(), 200)
        self.assertEqual(self.status(path="/admin/x"), 403)
        self.assertEqual(self.status("mesh/near"), 403)
        bound = self.bench.get("/apis/security.istio.io/v1/namespaces/mesh/authorizationpolicies/read-only")
        self.bench.wait("the policy has a status", lambda: (self.bench.get(
            "/apis/security.istio.io/v1/namespaces/mesh/authorizationpolicies/read-only").get("status")), 10)
        self.assertIsNotNone(bound)
        back = after(self.bench, lambda: self.bench.kubectl("delete", "authorizationpolicy", "-n", "mesh", "read-only"),
                     "mesh/client", "POST is let in", lambda status: status == 200, post)
        # a machine that stands still may hold up one of them
        self.assertLess(min(took, back), 1.0)
        self.assertLess(max(took, back), 15)

    def test_04_what_the_gateway_says_reaches_its_objects(self):
        self.bench.kubectl("patch", "gateway", "-n", "mesh", "waypoint", "--type=merge", "-p",
                           '{"spec": {"infrastructure": {"labels": {"team": "shop"}}}}')
        self.bench.wait("the pods carry the label", lambda: self.bench.ready("mesh", "team=shop"))
        self.assertEqual(self.status(), 200)
        # somebody's hand in the Deployment is put right
        self.bench.kubectl("delete", "service", "-n", "mesh", "waypoint")
        self.bench.wait("the Service is back", lambda: self.bench.get("/api/v1/namespaces/mesh/services/waypoint"))
        self.bench.wait("web answers", lambda: self.status() == 200)

    def test_05_removal(self):
        self.bench.kubectl("label", "service", "-n", "mesh", "web", "istio.io/use-waypoint-")
        self.bench.kubectl("delete", "gateway", "-n", "mesh", "waypoint")
        for kind in ("/apis/apps/v1/namespaces/mesh/deployments", "/api/v1/namespaces/mesh/services", "/api/v1/namespaces/mesh/serviceaccounts"):
            self.bench.wait(f"{kind} gone", lambda: self.bench.get(f"{kind}/waypoint") is None)
        self.bench.wait("web answers without it", lambda: self.status() == 200)

    def test_06_probes_stayed_green(self):
        self.assertEqual(len(self.started), 6)
        now = self.bench.restarts("mesh")
        self.assertEqual({name: now.get(name) for name in self.started}, self.started)
        self.assertEqual(self.bench.probe_failures("mesh", self.started), self.failures_before, "a probe failed meanwhile")


if __name__ == "__main__":
    unittest.main(verbosity=2)
