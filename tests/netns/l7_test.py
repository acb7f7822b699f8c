#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Through the waypoint: canary weights, header routes, retries, timeouts, L7 policy, live changes."""
import json
import math
import unittest

from bed import MeshCase, http_get
from fixture import APPS, NAMESPACES, WEB

HOST = "web.mesh.svc.cluster.local"

CANARY = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: mesh}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
  - backendRefs:
    - {name: web-v1, port: 80, weight: %d}
    - {name: web-v2, port: 80, weight: %d}
"""

VIRTUAL_SERVICE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: mesh}
spec:
  host: web
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: mesh}
spec:
  hosts: [web]
  http:
  - match: [{headers: {canary: {exact: "true"}}}]
    route: [{destination: {host: web, subset: v2}}]
  - match: [{uri: {prefix: /flaky}}]
    retries: {attempts: 3, perTryTimeout: 10s, retryOn: "5xx"}
    route: [{destination: {host: web, subset: v1}}]
  - match: [{uri: {prefix: /slow}}]
    timeout: 0.5s
    route: [{destination: {host: web, subset: v1}}]
  - route:
    - {destination: {host: web, subset: v1}, weight: 90}
    - {destination: {host: web, subset: v2}, weight: 10}
"""


def versions(host, path, count, headers=None):
    """`count` requests over a few keep-alive connections; how many each version answered."""
    import http.client
    counts = {}
    connection = http.client.HTTPConnection(host, 80, timeout=15)
    for i in range(count):
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        data = response.read()
        version = json.loads(data)["version"] if response.status == 200 else str(response.status)
        counts[version] = counts.get(version, 0) + 1
        if i % 100 == 99:
            connection.close()
    connection.close()
    return counts


class L7(MeshCase):
    files = {"base.yaml": NAMESPACES + "---\n" + APPS + "\n---\n" + WEB}

    def get(self, path="/", headers=None, method="GET", source="mesh/client"):
        return self.mesh.call(source, http_get, HOST, 80, path, headers, method)

    def within_three_sigma(self, share, total):
        """The second version's share of so many requests. One right sample in 370 lies outside; two after each
        other do not."""
        sigma = math.sqrt(total * share * (1 - share))
        outside = []
        for _ in range(2):
            counts = self.versions(total)
            self.assertEqual(sum(counts.values()), total, counts)
            self.assertLessEqual(set(counts), {"v1", "v2"}, f"not all requests were answered: {counts}")
            if abs(counts.get("v2", 0) - total * share) < 3 * sigma:
                return
            outside.append(counts)
        self.fail(f"{share} of {total} requests were to go to v2: {outside}")

    def versions(self, count, headers=None):
        return self.mesh.call("mesh/client", versions, HOST, "/", count, headers, timeout=120)

    def test_1_it_goes_through_the_waypoint(self):
        status, headers, body = self.get()
        self.assertEqual(status, 200, body)
        seen = json.loads(body)["headers"]
        self.assertIn("x-request-id", seen, "an L7 proxy was on the path")

    def test_2_canary_by_http_route(self):
        self.mesh.write("route.yaml", CANARY % (90, 10))
        try:
            self.mesh.until("90/10", lambda: self.versions(40), lambda seen: seen.get("v1", 0) > 28)
            self.within_three_sigma(0.1, 1000)
            self.mesh.write("route.yaml", CANARY % (0, 100))
            self.mesh.until("all to v2, live", lambda: self.versions(20), {"v2": 20})
        finally:
            self.mesh.remove("route.yaml")

    def test_3_virtual_service(self):
        self.mesh.write("route.yaml", VIRTUAL_SERVICE)
        try:
            self.mesh.until("90/10", lambda: self.versions(40), lambda seen: seen.get("v1", 0) > 28)
            self.mesh.until("header route", lambda: self.versions(20, {"canary": "true"}), {"v2": 20})
            self.within_three_sigma(0.1, 1000)
            self.assertEqual(self.versions(50, {"canary": "true"}), {"v2": 50})
            for i in range(5):
                status, _, body = self.get(f"/flaky/retry-{i}")
                self.assertEqual(status, 200, f"a 503 was not retried: {body}")
            status, _, body = self.get("/slow/2")
            self.assertEqual(status, 504, body)
        finally:
            self.mesh.remove("route.yaml")

    def test_4_policy_with_methods_and_paths(self):
        self.mesh.write("policy.yaml", """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web-api, namespace: mesh}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/client"]}}]
    to: [{operation: {methods: ["GET"], paths: ["/api/*"]}}]
""")
        try:
            self.mesh.until("the policy holds", lambda: self.get("/other")[0], 403)
            status, _, body = self.get("/api/items")
            self.assertEqual(status, 200, body)
            status, _, body = self.get("/api/items", method="POST")
            self.assertEqual((status, body), (403, b"RBAC: access denied"))
            self.assertEqual(self.get("/api/items", source="mesh/near")[0], 403, "another principal")
            for path in ("/api/../other", "/other/..%2fapi/x", "//api/x", "/API/items"):
                self.assertEqual(self.get(path)[0], 403, path)
        finally:
            self.mesh.remove("policy.yaml")
        self.mesh.until("the policy is gone", lambda: self.get("/other")[0], 200)

    def test_5_big_bodies(self):
        status, _, body = self.get("/bytes/20000000")
        self.assertEqual((status, len(body)), (200, 20000000), body[:200])
        self.assertSameBytes(body[:65536], bytes(range(256)) * 256, "the first 64 KiB")
        payload = bytes(range(256)) * 40000
        status, _, body = self.mesh.call("mesh/client", http_get, HOST, 80, "/up", None, "POST", payload)
        import hashlib
        self.assertEqual(status, 200, body)
        self.assertEqual(json.loads(body)["body_sha256"], hashlib.sha256(payload).hexdigest())

    def test_6_metrics_name_both_ends(self):
        self.get("/for-the-metrics")
        def lines():
            text = self.mesh.call("plain/outsider", http_get, self.mesh.ip("mesh/waypoint"), 15020, "/stats/prometheus")[2].decode()
            return [l for l in text.splitlines() if l.startswith("istio_requests_total{")]
        # Counted when the exchange is over, of which the client may know first.
        self.mesh.until("both ends are named", lines, lambda seen: any('reporter="waypoint"' in l and 'source_principal="spiffe://cluster.local/ns/mesh/sa/client"' in l
                            and 'destination_principal="spiffe://cluster.local/ns/mesh/sa/web"' in l
                            and 'destination_service="web.mesh.svc.cluster.local"' in l for l in seen))


if __name__ == "__main__":
    unittest.main(verbosity=2)
