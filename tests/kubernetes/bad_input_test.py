#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What is wrong around the mesh is named, with the place and the remedy, and running traffic stays as it is."""
import contextlib
import json
import os
import subprocess
import time
import unittest

from harness import BIN, GATEWAY, SYSTEM, MeshBench
from bed import outcome
from scene import ALLOW_CLIENT, Scene
from testbed import control

# An istio-cni that does nothing: what counts is that the node's network plugin calls one.
ISTIO_CNI = """#!/usr/bin/python3
import json, os, sys
asked = json.load(sys.stdin)
if os.environ["CNI_COMMAND"] == "VERSION":
    print(json.dumps({"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}))
elif os.environ["CNI_COMMAND"] == "ADD":
    print(json.dumps(asked["prevResult"]))
"""
CHAIN = """
import json, os, sys
path = "/etc/cni/net.d/10-testbed.conflist"
with open(path) as f:
    chain = json.load(f)
plugins = [each for each in chain["plugins"] if each["type"] != "istio-cni"]
chain["plugins"] = plugins + [{"type": "istio-cni"}] * (sys.argv[1] == "in")
with open(path + ".new", "w") as f:
    json.dump(chain, f)
os.rename(path + ".new", path)
"""
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: far, namespace: mesh}
spec:
  parentRefs: [{group: "", kind: Service, name: far}]
  rules: [{backendRefs: [{name: far, port: 80}]}]
"""


class BadInput(Scene):
    @classmethod
    def setUpClass(cls):
        cls.bench = MeshBench("badinput").up()
        cls.addClassCleanup(cls.bench.down)

    def as_stranger(self, *args):
        """qanatctl as a service account that may do nothing."""
        self.bench.kubectl("create", "serviceaccount", "stranger", "-n", "default", check=False)
        token = self.bench.kubectl("create", "token", "stranger", "-n", "default").stdout.strip()
        path = os.path.join(self.bench.folder, "stranger")
        with open(path, "w") as f:
            f.write(self.bench.kubectl("config", "view", "--raw", "--minify", "-o", "yaml").stdout)
        self.bench.kubectl("--kubeconfig", path, "config", "set-credentials", "testbed", f"--token={token}")
        for file in ("client-certificate", "client-key"):
            self.bench.kubectl("--kubeconfig", path, "config", "unset", f"users.testbed.{file}")
        return subprocess.run([os.path.join(BIN, "qanatctl"), *args], capture_output=True, text=True, timeout=60,
                              env={**os.environ, "KUBECONFIG": path})

    def test_1_install_without_permission(self):
        done = self.as_stranger("install")
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stdout + done.stderr, "may not|forbidden")
        self.assertRegex(done.stdout + done.stderr, "cluster-admin|ClusterRole")
        self.assertIsNone(self.bench.get(f"/api/v1/namespaces/{SYSTEM}"))

    @contextlib.contextmanager
    def without_kind(self, crd):
        definition = json.loads(self.bench.kubectl("get", "crd", crd, "-o", "json").stdout)
        self.bench.kubectl("delete", "crd", crd)
        try:
            yield
        finally:
            definition["metadata"] = {k: definition["metadata"][k] for k in ("name", "annotations", "labels") if k in definition["metadata"]}
            definition.pop("status")
            self.bench.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(definition))

    def test_2_install_without_the_gateway_api(self):
        with self.without_kind("gateways.gateway.networking.k8s.io"):
            self.assertRegex(self.said("install"), "(?s)gateways.*kubectl apply")

    def test_3_install_with_an_image_that_no_node_has(self):
        text = self.said("install", "--image-tag", "0.0.0-none", "--timeout", "25")
        self.assertRegex(text, "0.0.0-none")
        self.assertRegex(text, "ctr -n k8s.io images import|--image-prefix")

    def test_4_and_then_the_right_one(self):
        self.bench.install()
        self.add_applications()

    def test_5_the_api_server_goes_away(self):
        far, client, near = self.bench.ip("mesh/far"), *map(self.bench.container, ("mesh/client", "mesh/near"))
        control.stop(self.bench.cluster, "kube-apiserver")
        try:
            self.assertRegex(self.said("status", timeout=60), "127.0.0.1")
            for _ in range(20):
                self.assertEqual(self.bench.call_at(client, outcome, far, 9000, b"x", 15), "ok")
                self.assertNotEqual(self.bench.call_at(near, outcome, far, 9000, b"x", 3), "ok")
        finally:
            control.start(self.bench.cluster, "kube-apiserver")
            control.wait_until_ready(self.bench.cluster)
        self.traffic_is_as_it_was()
        # and changes arrive again
        self.bench.kubectl("delete", "authorizationpolicy", "-n", "mesh", "only-client")
        self.bench.wait("the change arrives", lambda: self.bench.call(
            "mesh/near", outcome, self.bench.ip("mesh/far"), 9000, b"x", 3) == "ok", 30)
        self.bench.apply(ALLOW_CLIENT)
        self.bench.wait("the change arrives", self.is_as_it_was)

    def test_6_the_control_plane_loses_its_permissions(self):
        name = "qanat-controlplane"
        self.bench.kubectl("delete", "clusterrolebinding", name)
        for pod in self.bench.part(name):
            self.bench.kubectl("delete", "pod", "-n", SYSTEM, pod, "--grace-period=1", "--wait=false")
        try:
            self.wait_for_log(name, r"Pod: list pods: the API server answered 403 Forbidden: .*; give system:serviceaccount:qanat-system:"
                                    r'qanat-controlplane a ClusterRole with the rule apiGroups \[""\], resources \["pods"\], verbs \["list"\]'
                                    " - nobody is served before they have been read", 120)
            self.assertFalse(self.bench.ready(SYSTEM, f"app={name}", 2), "it must not be ready with a view that it could not read")
            self.traffic_is_as_it_was()
        finally:
            self.bench.install()
        self.traffic_is_as_it_was()

    def test_7_an_image_that_no_node_has_under_a_mesh_that_runs(self):
        none, missing = "0.0.0-none", "0.0.0-none.*(ctr -n k8s.io images import|--image-prefix)"
        with self.unharmed():
            self.assertRegex(self.said("install", "--image-tag", none, "--timeout", "10"), f"(?s){missing}")
            self.assertTrue(self.bench.part("ztunnel") and self.bench.ready(SYSTEM, "app=ztunnel", 2), "the nodes come after the control plane")
            # past the control plane: as who changes a DaemonSet by hand
            waiting = lambda app: [p["spec"]["nodeName"] for p in self.bench.pods(SYSTEM, f"app={app}") for s in
                                   p["status"].get("containerStatuses", []) if "Image" in s["state"].get("waiting", {}).get("reason", "")]
            parts = {"ztunnel": "ztunnel", "qanat-agent": "agent"}
            for name, part in parts.items():
                self.bench.kubectl("set", "image", f"daemonset/{name}", "-n", SYSTEM, f"{part}=localhost/qanat/{part}:{none}")
            self.bench.wait("both wait for their image", lambda: all(map(waiting, parts)))
            time.sleep(15)  # longer than the probes take to call a part unready, and Kubernetes to act on it
            self.assertEqual(len(waiting("qanat-agent")), 1, "one node at a time")
            # also where the agent is away: a proxy that serves stays ready, or Kubernetes would end it for one that cannot start
            proxies = [p for p in self.bench.pods(SYSTEM, "app=ztunnel") if not p["spec"]["containers"][0]["image"].endswith(none)]
            self.assertEqual(len({p["spec"]["nodeName"] for p in proxies}), 2, "a proxy stays until the next one is there")
            self.assertEqual([p["metadata"]["name"] for p in proxies if p["metadata"].get("deletionTimestamp")], [])
            verdict = self.said("verify")
            for name, part in parts.items():
                self.assertRegex(verdict, f"wrong +DaemonSet {name} .*localhost/qanat/{part}:{missing}")
            self.bench.install()
            self.bench.wait("all are ready", lambda: self.bench.ready(SYSTEM, count=6))
        self.traffic_is_as_it_was()

    def test_8_a_kind_goes_away_under_a_mesh_that_runs(self):
        kind = "httproutes.gateway.networking.k8s.io"
        self.bench.apply(ROUTE)
        status = lambda: (self.bench.condition(f"{GATEWAY}/mesh/httproutes/far", "Accepted") or [""])[0]
        self.bench.wait("the route has a status", status)
        with self.unharmed():
            with self.without_kind(kind):
                self.wait_for_log("qanat-controlplane", f"CustomResourceDefinition {kind}: is missing, so there are no objects of kind "
                                                        "HTTPRoute - kubectl apply .*looked for every 30 s")
                self.assertTrue(self.bench.ready(SYSTEM, "app=qanat-controlplane", 2))
                self.traffic_is_as_it_was()
            self.bench.wait("the kind is served", lambda: self.bench.get(f"{GATEWAY}/mesh/httproutes"))
            self.bench.apply(ROUTE)
            self.bench.wait("the route has a status again", status)

    def test_9_another_mesh_in_the_chain_of_a_node(self):
        """Its pods are left as they are and say why; those that are in the mesh stay so, and the other node is as ever."""
        bench = self.bench
        refused = lambda: bench.kubectl("get", "events", "-n", "plain", "-o", "jsonpath={range .items[?(@.reason==\"QanatRefused\")]}"
                                        "{.involvedObject.name} {.message}{end}").stdout
        bench.on_node(1, "sh", "-c", f"cat >/opt/cni/bin/istio-cni <<'END'\n{ISTIO_CNI}END\nchmod 755 /opt/cni/bin/istio-cni")
        with self.unharmed():
            bench.on_node(1, "python3", "-c", CHAIN, "in")
            try:
                agent, = bench.part("qanat-agent", 1)
                bench.wait("the agent says it", lambda: "no pod is enrolled on this node: istio-cni is in" in bench.events_of(agent, 1000))
                bench.label("plain")
                bench.wait("the other node's is enrolled", lambda: bench.redirection("plain/bystander") == "enabled")
                bench.wait("an event says why not", lambda: "outsider" in refused())
                self.assertRegex(refused(), r"istio-cni is in /etc/cni/net\.d/10-testbed\.conflist.*helm uninstall istio-cni")
                self.assertEqual(bench.redirection("plain/outsider"), "pending", "asked for, and not in it")
                self.assertNotIn("bystander", refused())
                self.assertEqual(bench.call("plain/outsider", outcome, bench.ip("plain/bystander"), 9000), "ok", "left as it was, open")
            finally:
                bench.on_node(1, "python3", "-c", CHAIN, "out")
            bench.wait("it is enrolled when the other is gone", lambda: bench.redirection("plain/outsider") == "enabled")
            bench.on_node(1, "rm", "/opt/cni/bin/istio-cni")
            bench.label("plain", None)
            bench.wait("they are out again", lambda: not any(map(bench.redirection, ("plain/outsider", "plain/bystander"))))


if __name__ == "__main__":
    unittest.main(verbosity=2)
