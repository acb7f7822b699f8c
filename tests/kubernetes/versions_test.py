#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Control planes of two versions side by side: it is said, one of them writes, the newer one first, nothing flaps and
traffic goes on; a second installation, and another mesh's control plane, are refused at install."""
import time
import unittest

import editions
from harness import SYSTEM
from bed import outcome
from prober import after
from scene import ALLOW_CLIENT, POLICY, Scene

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/qanat-controlplane-leader"
APP = "qanat-controlplane"
STRANGER = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: istiod, namespace: istio-system}
spec:
  replicas: 0
  selector: {matchLabels: {app: istiod}}
  template:
    metadata: {labels: {app: istiod}}
    spec: {containers: [{name: discovery, image: "localhost/testbed/tests:1"}]}
"""


class Versions(Scene):
    NAME = "versions"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.old, cls.new = editions.present(), editions.load_next(cls.bench, "controlplane")

    def run_version(self, version, pause=False):
        self.bench.kubectl("set", "image", f"deployment/{APP}", "-n", SYSTEM, f"controlplane=localhost/qanat/controlplane:{version}")
        if pause:
            self.bench.kubectl("rollout", "pause", f"deployment/{APP}", "-n", SYSTEM)

    def resume(self, version):
        self.bench.kubectl("rollout", "resume", f"deployment/{APP}", "-n", SYSTEM)
        self.bench.wait(f"all are of {version}", lambda: set(self.versions().values()) == {version} and
                        self.bench.ready(SYSTEM, f"app={APP}", 2), 120)

    def versions(self):
        """{pod: version} of the control planes."""
        return {p["metadata"]["name"]: p["spec"]["containers"][0]["image"].rpartition(":")[2]
                for p in self.bench.pods(SYSTEM, f"app={APP}")}

    def lease(self):
        """(holder, the version that it says)"""
        lease = self.bench.get(LEASE)
        return lease["spec"].get("holderIdentity"), lease["metadata"].get("annotations", {}).get("qanat.io/version")

    def led_by(self, version):
        holder, said = self.lease()
        return said == version and self.versions().get(holder) == version

    def test_1_a_second_installation_is_refused(self):
        before = self.bench.get("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/qanat-agent")
        self.assertRegex(self.said("install", "--namespace", "mesh-two"),
                         f"(?s)installed already, in namespace {SYSTEM}.*qanatctl uninstall --namespace {SYSTEM}")
        self.assertIsNone(self.bench.get("/api/v1/namespaces/mesh-two"))
        self.assertEqual(self.bench.get("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/qanat-agent"), before)
        self.traffic_is_as_it_was()

    def test_2_a_stock_control_plane_is_seen(self):
        self.bench.apply(STRANGER)
        self.assertRegex(self.said("install"), "(?s)Deployment istio-system/istiod.*istioctl uninstall")
        self.bench.delete(STRANGER)
        self.traffic_is_as_it_was()

    def test_3_two_versions_side_by_side(self):
        self.assertTrue(self.led_by(self.old), self.lease())
        status = self.bench.get(POLICY)["metadata"]["resourceVersion"]
        with self.unharmed():
            self.run_version(self.new, pause=True)
            self.bench.wait("one more is ready", lambda: self.bench.ready(SYSTEM, f"app={APP}", 3))
            self.assertEqual(sorted(self.versions().values()), [self.old, self.old, self.new])
            both = f"2 versions of the control plane run: {self.old} .*{self.new} .*kubectl rollout status"
            self.assertRegex(self.said("status"), both)
            self.assertRegex(self.said("verify"), both)
            # who led leads on, and the new one has nothing to write over
            for _ in range(30):
                self.assertTrue(self.led_by(self.old), self.lease())
                time.sleep(0.1)
            self.assertEqual(self.bench.get(POLICY)["metadata"]["resourceVersion"], status, "the status was written again")
            self.resume(self.new)
            self.bench.wait("the new version leads", lambda: self.led_by(self.new))
            time.sleep(3)
            self.assertEqual(self.bench.get(POLICY)["metadata"]["resourceVersion"], status, "the status was written again")
        self.assertIn(f"of version {self.new}", self.bench.ctl("verify").stdout)

    def test_4_configuration_arrives_whichever_serves(self):
        far = self.bench.ip("mesh/far")
        self.run_version(self.old, pause=True)  # one older beside two newer
        self.bench.wait("one more is ready", lambda: self.bench.ready(SYSTEM, f"app={APP}", 3))
        times = []
        for change, wanted in ((lambda: self.bench.kubectl("delete", "authorizationpolicy", "-n", "mesh", "only-client"), True),
                               (lambda: self.bench.apply(ALLOW_CLIENT), False)):
            took = after(self.bench, change, "mesh/near", f"near is {'let in' if wanted else 'refused'}",
                         lambda seen: (seen == "ok") == wanted, outcome, far, 9000, b"x", 15)
            times.append(took)
        # a machine that stands still may hold up one of them
        self.assertLess(min(times), 1.0, times)
        self.assertLess(max(times), 15, times)

    def test_5_the_older_one_does_not_write_while_a_newer_one_runs(self):
        self.assertEqual(sorted(self.versions().values()), [self.old, self.new, self.new])
        for _ in range(2):
            holder = self.lease()[0]
            self.bench.kubectl("delete", "pod", "-n", SYSTEM, holder, "--grace-period=5", "--wait=false")
            # the lease lies free or changes hands: at no time it is the older one's
            deadline = time.monotonic() + 60
            while (lease := self.lease())[0] in (holder, "", None):
                self.assertLess(time.monotonic(), deadline, lease)
                time.sleep(0.05)
            self.assertTrue(self.led_by(self.new), self.lease())
            self.bench.wait("it is replaced", lambda: self.bench.ready(SYSTEM, f"app={APP}", 3))
        self.traffic_is_as_it_was()

    def test_6_back_to_the_older_version(self):
        with self.unharmed():
            self.resume(self.old)
            taken = self.bench.wait("it leads", lambda: self.led_by(self.old))
            print(f"the older version leads {taken:.0f} s after the last newer one", flush=True)
            self.assertIn("all is well", self.bench.ctl("verify").stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
