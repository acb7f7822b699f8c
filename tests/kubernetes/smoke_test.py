#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The test bed itself, without the product: what the other tests and users' pods lean on."""
import json
import os
import subprocess
import sys
import unittest

from harness import HERE, Bench
from bed import http_get, outcome
from fixture import APPS, NAMESPACES
from testbed import cgroups, control, life
from testbed.names import Cluster
from testbed.tools import read, wait_for

TOKEN_POD = """
apiVersion: v1
kind: Pod
metadata: {name: token, namespace: plain}
spec:
  serviceAccountName: outsider
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: localhost/testbed/tests:1
    volumeMounts: [{name: token, mountPath: /var/run/secrets/tokens}]
  volumes:
  - name: token
    projected:
      sources: [{serviceAccountToken: {audience: istio-ca, expirationSeconds: 3600, path: istio-token}}]
"""


class Smoke(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bench = Bench("smoke").up()
        cls.bench.apply(NAMESPACES + "---\n" + APPS)
        cls.bench.apply(TOKEN_POD)
        cls.bench.wait_ready(mesh=4, plain=2)  # as the kubelets' HTTP probes say

    @classmethod
    def tearDownClass(cls):
        cls.bench.down()

    def test_pods_reach_each_other(self):
        for target in ("mesh/near", "mesh/far"):
            for version in (4, 6):
                self.assertEqual(self.bench.call("mesh/client", outcome, self.bench.ip(target, version), 9000), "ok")

    def test_services_and_names(self):
        for host in ("near", "far.mesh", "bystander.plain.svc.cluster.local"):
            self.bench.wait(f"{host} answers", lambda: self.bench.call("mesh/client", http_get, host, 80)[0] == 200)

    def test_exec_and_logs(self):
        said = self.bench.kubectl("exec", "-n", "mesh", "far", "--", "python3", "-c", "print(6 * 7)").stdout
        self.assertEqual(said.strip(), "42")
        self.assertIn("far v1 serves", self.bench.kubectl("logs", "-n", "mesh", "far").stdout)

    def test_token_of_a_service_account(self):
        token = self.bench.kubectl("exec", "-n", "plain", "token", "--", "cat", "/var/run/secrets/tokens/istio-token").stdout
        self.assertEqual(token.count("."), 2)
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                  "spec": {"token": token, "audiences": ["istio-ca"]}}
        said = json.loads(self.bench.kubectl("create", "-o", "json", "-f", "-", input=json.dumps(review)).stdout)
        self.assertTrue(said["status"]["authenticated"], said)
        self.assertEqual(said["status"]["user"]["username"], "system:serviceaccount:plain:outsider")

    def test_capture_sees_what_is_in_the_clear(self):
        with self.bench.capture() as capture:
            self.bench.call("mesh/client", outcome, self.bench.ip("mesh/far"), 9000, b"a secret of many bytes")
            self.bench.call("mesh/client", outcome, self.bench.ip("mesh/near"), 9000, b"that stays on its node")
        self.assertGreater(capture.holds("a secret of many bytes"), 0)
        self.assertEqual(capture.holds("that stays on its node"), 0)

    def test_our_client_against_a_real_api_server(self):
        """tests/integration/kube: that what the fake API server of the unit tests says is what this one says."""
        done = subprocess.run([os.environ["QANAT_KUBE_LIVE_TEST"]], capture_output=True, text=True, timeout=300,
                              env={**os.environ, "KUBECONFIG": self.bench.kubeconfig})
        self.assertEqual(done.returncode, 0, done.stdout[-5000:] + done.stderr[-2000:])

    def test_node_loses_power(self):
        uid = self.bench.pod("mesh/far")["metadata"]["uid"]
        self.bench.on_node(2, "sh", "-c", "mkdir -p /var/lib/kept && touch /var/lib/kept/x /run/gone /etc/cni/kept")
        life.reboot(self.bench.cluster, 2)
        self.bench.wait("far answers again", lambda: self.bench.call(
            "mesh/client", outcome, self.bench.ip("mesh/far"), 9000, b"x", 1) == "ok", 60)
        self.assertEqual(self.bench.pod("mesh/far")["metadata"]["uid"], uid)
        kept = self.bench.on_node(2, "sh", "-c", "ls -d /var/lib/kept/x /etc/cni/kept /run/gone 2>/dev/null || true")
        self.assertEqual(kept.split(), ["/etc/cni/kept", "/var/lib/kept/x"])

    def test_api_server_goes_away_and_comes_back(self):
        control.stop(self.bench.cluster, "kube-apiserver")
        self.assertIsNone(self.bench.get("/readyz"))
        self.assertEqual(self.bench.call_outside(api_port, timeout=5), "refused")
        control.start(self.bench.cluster, "kube-apiserver")
        control.wait_until_ready(self.bench.cluster)


def api_port():
    return outcome("10.99.0.1", 6443)


def commands_of(cluster):
    return [read(f"/proc/{pid}/cmdline") for pid in cgroups.members(cluster.owns)]


class Traces(unittest.TestCase):
    def test_killed_in_the_middle_and_taken_down(self):
        cluster = Cluster("test-gone")
        for stage in ("/run/netns/qk-test-gone-cp", "kube-apiserver", "containerd"):
            process = subprocess.Popen([sys.executable, "-B", os.path.join(HERE, "cluster.py"), "up", "--name", "test-gone"],
                                       stderr=subprocess.DEVNULL)
            reached = lambda: any(stage in found for found in [*life.leftovers(cluster), *commands_of(cluster)])
            wait_for(stage, reached, 60)
            process.kill()
            process.wait()
            self.assertTrue(life.leftovers(cluster), "the search must be able to find something")
            life.down(cluster)
            self.assertEqual(life.leftovers(cluster), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
