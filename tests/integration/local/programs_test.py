# SPDX-License-Identifier: Apache-2.0
"""The supervisor and the mesh's programs, which are stand-ins here (standin/)."""
import json
import os
import signal
import subprocess
import time
import unittest

from support import Local

STANDIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "standin")

BASE = """
    apiVersion: v1
    kind: Namespace
    metadata: {name: mesh, labels: {istio.io/dataplane-mode: ambient}}
    ---
    apiVersion: v1
    kind: Namespace
    metadata: {name: plain}
    ---
    apiVersion: v1
    kind: Pod
    metadata: {name: a, namespace: mesh, labels: {app: a}}
    spec: {nodeName: node1, serviceAccountName: sa-a, containers: [{name: c, command: [sleep, "9999"], ports: [{name: http, containerPort: 80}]}]}
    ---
    apiVersion: v1
    kind: Pod
    metadata: {name: b, namespace: plain}
    spec: {nodeName: node2, containers: [{name: c, command: [sleep, "9999"]}]}
    ---
    apiVersion: v1
    kind: Service
    metadata: {name: a, namespace: mesh}
    spec: {selector: {app: a}, ports: [{port: 80}]}
    ---
    apiVersion: gateway.networking.k8s.io/v1
    kind: Gateway
    metadata: {name: way, namespace: mesh}
    spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
"""


class Programs(unittest.TestCase):
    def setUp(self):
        self.mesh = Local("progs", options=["--bin-dir", STANDIN, "--timeout", "30"])
        self.addCleanup(self.mesh.close)
        self.mesh.write("base.yaml", BASE)

    def refuse(self, *names):
        with open(self.mesh.run + "/refuse", "w") as f:
            f.write(" ".join(names))

    def overlay(self, file):
        with open(f"{self.mesh.run}/overlay/{file}.yaml") as f:
            return json.load(f)

    def redirection(self, pod):
        return self.mesh.pods()[pod]["redirection"]

    def test_what_an_agent_keeps_comes_back(self):
        """Descriptors that it gave its supervisor, across kill -9; those of its node only."""
        self.mesh.up()
        log = f"{self.mesh.run}/logs/agent-node1.log"
        for restart in (1, 2):
            self.mesh.kill("agent-node1")

            def got_back():
                with open(log) as f:
                    return f.read().count("got back [('some-file', 'of node1')]")
            self.mesh.until("it has it again", got_back, restart)

    def test_the_contract(self):
        self.mesh.up()
        names = {p["name"] for p in self.mesh.state()["programs"]}
        self.assertLessEqual({"controlplane", "agent-node1", "agent-node2", "ztunnel-node1", "ztunnel-node2", "waypoint-mesh-way"}, names)
        pod = self.overlay("pod-mesh-a")
        self.assertEqual(pod["metadata"]["annotations"]["ambient.istio.io/redirection"], "enabled")
        self.assertEqual(pod["spec"]["nodeName"], "node1")
        self.assertEqual(pod["spec"]["serviceAccountName"], "sa-a")
        self.assertEqual({c["type"]: c["status"] for c in pod["status"]["conditions"]}["Ready"], "True")
        self.assertEqual([ip["ip"] for ip in pod["status"]["podIPs"]], self.mesh.pods()["mesh/a"]["ips"])
        self.assertNotIn("ambient.istio.io/redirection", self.overlay("pod-plain-b")["metadata"]["annotations"])
        self.assertEqual(self.overlay("pod-qanat-system-ztunnel-node1")["spec"]["serviceAccountName"], "ztunnel")
        vip = self.overlay("service-mesh-a")["spec"]["clusterIP"]
        self.assertTrue(vip.startswith("10.96."))
        gateway = self.overlay("gateway-mesh-way")["status"]["addresses"][0]["value"]
        self.assertEqual(gateway, self.overlay("service-mesh-way")["spec"]["clusterIP"])
        waypoint = next(p for p in self.mesh.pods().values() if p["gateway"] == "way")
        self.assertTrue(waypoint["ready"])
        with open(f"{self.mesh.run}/nodes/node1/pods/{pod['metadata']['uid']}.json") as f:
            told = json.load(f)
        self.assertEqual(told["namespaceLabels"]["istio.io/dataplane-mode"], "ambient")
        self.assertEqual(told["serviceAccount"], "sa-a")
        self.assertTrue(os.path.exists(told["netns"]))
        self.assertEqual(os.stat(f"{self.mesh.run}/tokens/issuer-key.pem").st_mode & 0o777, 0o600)
        # The token in a container is for the API server; only the mesh's own parts get the CA's.
        token = self.mesh.exec("mesh/a", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token").stdout
        self.assertNotIn("istio-ca", claims(token)["aud"])
        self.mesh.down()
        self.assertEqual(self.mesh.leftovers(), [])

    def test_a_new_pod_that_cannot_be_enrolled_does_not_start(self):
        self.mesh.up()
        self.refuse("late")
        self.mesh.write("late.yaml", """
            apiVersion: v1
            kind: Pod
            metadata: {name: late, namespace: mesh}
            spec: {nodeName: node1, containers: [{name: c, command: [sleep, "9999"]}]}
            """)
        self.mesh.wait("it is tried", lambda: "no proxy took the pod" in self.mesh.pods()["mesh/late"]["reason"])
        time.sleep(1)
        late = self.mesh.pods()["mesh/late"]
        self.assertEqual(late["containers"][0]["pid"], 0, "not started")
        self.assertFalse(late["ready"])
        self.refuse()
        self.mesh.wait("it is tried again", lambda: self.mesh.pods()["mesh/late"]["ready"])

    def test_labels_of_a_namespace_enrol_and_release_running_pods(self):
        self.mesh.up()
        before = self.mesh.pods()["plain/b"]
        self.assertFalse(before["mesh"])
        self.mesh.write("base.yaml", BASE.replace("{name: plain}", "{name: plain, labels: {istio.io/dataplane-mode: ambient}}"))
        self.mesh.wait("enrolled", lambda: self.redirection("plain/b") == "enabled")
        self.assertEqual(self.overlay("pod-plain-b")["metadata"]["annotations"]["ambient.istio.io/redirection"], "enabled")
        self.mesh.write("base.yaml", BASE)
        self.mesh.wait("released", lambda: self.redirection("plain/b") == "disabled")
        self.assertEqual(self.mesh.pods()["plain/b"]["containers"][0]["pid"], before["containers"][0]["pid"])

    def test_a_pending_pod_keeps_running_and_says_why(self):
        self.mesh.up()
        self.refuse("b")
        self.mesh.write("base.yaml", BASE.replace("{name: plain}", "{name: plain, labels: {istio.io/dataplane-mode: ambient}}"))
        self.mesh.wait("pending", lambda: self.redirection("plain/b") == "pending")
        status = self.mesh.ctl("local", "status", "--name", self.mesh.name, check=False)
        self.assertEqual(status.returncode, 4)
        self.assertIn("pod plain/b: not enrolled: told to refuse", status.stdout)
        self.assertTrue(self.mesh.pods()["plain/b"]["ready"])

    def test_programs_that_die_come_back_with_backoff(self):
        self.mesh.up()
        for name in ("agent-node1", "ztunnel-node2", "controlplane", "waypoint-mesh-way", "dns-node1"):
            old = self.mesh.program(name)["pid"]
            os.kill(old, signal.SIGKILL)
            self.mesh.wait(f"{name} runs again", lambda: self.mesh.program(name)["pid"] not in (0, old))
            self.assertEqual(self.mesh.program(name)["lastEnd"], "signal 9 (Killed)")
        self.mesh.wait("all is well", lambda: self.mesh.state()["settled"])

    def test_up_names_the_program_that_does_not_come_up(self):
        bad = self.mesh.folder + "/.bin"
        os.mkdir(bad)
        for file in os.listdir(STANDIN):
            os.symlink(os.path.join(STANDIN, file), os.path.join(bad, file))
        os.unlink(bad + "/qanat-ztunnel")
        with open(bad + "/qanat-ztunnel", "w") as f:
            f.write("#!/bin/sh\necho the certificate is sour >&2\nexit 5\n")
        os.chmod(bad + "/qanat-ztunnel", 0o755)
        done = self.mesh.up("--bin-dir", bad, "--timeout", "10", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("ztunnel-node1: exit code 5", done.stderr)
        self.assertIn("the certificate is sour", done.stderr)
        self.assertEqual(self.mesh.leftovers(), [])

    def test_interrupting_up_leaves_nothing(self):
        self.mesh.write("never.yaml", """
            apiVersion: v1
            kind: Pod
            metadata: {name: never, namespace: plain}
            spec: {containers: [{name: c, command: [sleep, "9999"], readinessProbe: {exec: {command: ["false"]}}}]}
            """)
        process = subprocess.Popen([os.path.join(os.environ.get("QANAT_BIN_DIR", ""), "qanatctl"), "local", "up", self.mesh.folder,
                                    "--name", self.mesh.name, *self.mesh.options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.mesh.wait("half way", lambda: "plain/never" in self.mesh.pods())
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 1)
        self.assertIn("interrupted", error)
        self.assertEqual(self.mesh.leftovers(), [])


def claims(token):
    import base64
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


if __name__ == "__main__":
    unittest.main(verbosity=2)
