# SPDX-License-Identifier: Apache-2.0
"""What the shop sample promises (deploy/samples/shop/README.md), asked of a stock Envoy that runs
on the control plane's resources. shop_test.py runs it with a static bootstrap, ads_test.py over
delta xDS from the control plane itself."""

import collections
import math
import time

from bed import Caller, VIPS, spiffe


def check_canary(test, make_caller, path, count=1000, share=0.1):
    """Counts versions over `count` requests: within three sigma of the wanted share. One sample in
    370 is outside by chance: then a second one must be inside."""
    for _ in range(2):
        ask, versions, pods = make_caller(), collections.Counter(), collections.Counter()
        for _ in range(count):
            status, body, _ = ask(path)
            test.assertEqual(status, 200, body)
            versions[body["version"]] += 1
            pods[body["pod"]] += 1
        sigma = math.sqrt(count * share * (1 - share))
        if abs(versions["v2"] - count * share) < 3 * sigma:
            return pods
    raise AssertionError(f"not {share:.0%} of v2: {versions}")


class BackendChecks:
    """For Gateway shop/waypoint. Needs self.bed and the ports below."""

    FRONTEND, LOADGEN, SCRAPER, BY_NAME, NO_SERVICE, PAYMENTS, FOREIGN = range(9001, 9008)

    @classmethod
    def add_clients(cls, bed):
        backend = VIPS["backend"] + ":80"
        bed.client(cls.FRONTEND, "frontend", backend, source="10.91.1.8")
        bed.client(cls.LOADGEN, "loadgen", backend)
        bed.client(cls.SCRAPER, "scraper", backend)
        bed.client(cls.BY_NAME, "frontend", "backend.shop.svc.cluster.local:80")
        bed.client(cls.NO_SERVICE, "frontend", "10.96.0.99:80")
        bed.client(cls.PAYMENTS, "frontend", VIPS["payments"] + ":80")
        bed.authority.issue("foreign", spiffe("frontend", trust_domain="elsewhere"))
        bed.client(cls.FOREIGN, "foreign", backend)

    def caller(self, port):
        return Caller(port, "backend")

    def test_canary_is_ten_percent(self):
        pods = check_canary(self, lambda: self.caller(self.FRONTEND), "/api/orders")
        # Both pods of v1 take part.
        self.assertGreater(min(pods["backend-v1-a"], pods["backend-v1-b"]), 200, pods)

    def test_testers_get_v2(self):
        ask = self.caller(self.FRONTEND)
        for headers in ({"canary": "true"}, {"user": "jason"}):
            for _ in range(30):
                status, body, _ = ask(headers=headers)
                self.assertEqual((status, body["version"]), (200, "v2"))
        versions = {ask(headers={"canary": "false"})[1]["version"] for _ in range(30)}
        self.assertIn("v1", versions)

    def test_policy_by_identity_method_and_path(self):
        frontend, loadgen = self.caller(self.FRONTEND), self.caller(self.LOADGEN)
        scraper = self.caller(self.SCRAPER)
        self.assertEqual(frontend("/api/orders")[0], 200)
        self.assertEqual(frontend("/api/orders?x=/admin")[0], 200)
        self.assertEqual(frontend("/api/orders", "DELETE")[0], 403)
        self.assertEqual(frontend("/admin")[0], 403)
        self.assertEqual(frontend("/")[0], 403)
        self.assertEqual(frontend("/metrics")[0], 403)
        self.assertEqual(loadgen("/api/orders")[0], 403)
        self.assertEqual(scraper("/metrics")[0], 200)
        self.assertEqual(scraper("/api/orders")[0], 403)
        self.assertEqual(scraper("/metrics", "POST", body=b"")[0], 403)

    def test_paths_and_headers_do_not_fool_the_policy(self):
        frontend, loadgen = self.caller(self.FRONTEND), self.caller(self.LOADGEN)
        for path in ("/api/../admin", "/api/%2e%2e/admin", "/API/orders", "//api/orders", "/api"):
            self.assertNotEqual(frontend(path)[0], 200, path)
        claims = {"x-forwarded-client-cert": "URI=" + spiffe("frontend"),
                  "x-forwarded-for": "10.91.1.8", "x-envoy-external-address": "10.91.1.8"}
        self.assertEqual(loadgen("/api/orders", headers=claims)[0], 403)
        # Nor may a caller change what the route says.
        start = time.monotonic()
        wishes = {"x-envoy-upstream-rq-timeout-ms": "9000", "x-envoy-max-retries": "9",
                  "x-envoy-retry-on": "5xx"}
        self.assertEqual(frontend("/api/slow?seconds=8", headers=wishes)[0], 504)
        self.assertLess(time.monotonic() - start, 8)

    def test_503_is_tried_again(self):
        status, body, headers = self.caller(self.FRONTEND)(f"/api/flaky?key={time.time()}")
        self.assertEqual(status, 200, body)
        self.assertGreater(int(body["headers"]["x-envoy-attempt-count"]), 1)

    def test_what_hangs_is_cut_off(self):
        start = time.monotonic()
        self.assertEqual(self.caller(self.FRONTEND)("/api/slow?seconds=20")[0], 504)
        self.assertLess(time.monotonic() - start, 15)

    def test_a_service_can_be_called_by_name(self):
        self.assertEqual(self.caller(self.BY_NAME)()[0], 200)
        self.assertEqual(self.caller(self.BY_NAME)("/admin")[0], 403)

    def test_what_the_waypoint_does_not_serve_is_refused(self):
        self.assertEqual(self.caller(self.NO_SERVICE)()[0], 0)
        # Another waypoint's service.
        self.assertEqual(self.caller(self.PAYMENTS)()[0], 0)

    def test_callers_of_another_trust_domain_are_refused(self):
        self.assertEqual(self.caller(self.FOREIGN)()[0], 0)

    def test_tunnels_to_pods_are_the_waypoints(self):
        self.caller(self.FRONTEND)()
        lines, deadline = set(), time.monotonic() + 60
        while not lines and time.monotonic() < deadline:  # Envoy writes its log in its own time
            time.sleep(0.1)
            with open(self.bed.directory + "/tunnels.log") as file:
                lines = {line.strip() for line in file if line.endswith("\n")}
        self.assertTrue(lines)
        for line in lines:
            pod, method, authority, peer = line.split()
            self.assertEqual((method, peer), ("CONNECT", spiffe("waypoint")))
            self.assertTrue(authority.endswith(":8080"), line)
