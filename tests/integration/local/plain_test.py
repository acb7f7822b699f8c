# SPDX-License-Identifier: Apache-2.0
"""The local mode without the mesh: what nodes, pods, DNS, ClusterIPs and probes are made of."""
import os
import signal
import time
import unittest

from support import Local

BASE = """
    apiVersion: v1
    kind: Namespace
    metadata: {name: demo}
    ---
    apiVersion: v1
    kind: ConfigMap
    metadata: {name: page, namespace: demo}
    data:
      index.html: "hello from the config map\\n"
    ---
    apiVersion: apps/v1
    kind: Deployment
    metadata: {name: web, namespace: demo}
    spec:
      replicas: 2
      selector: {matchLabels: {app: web}}
      template:
        metadata: {labels: {app: web}}
        spec:
          serviceAccountName: web
          containers:
          - name: web
            command: ["python3", "-u", "-m", "http.server", "--bind", "::", "$(PORT)"]
            workingDir: /srv/www
            env:
            - {name: PORT, value: "8080"}
            - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
            ports: [{name: http, containerPort: 8080}]
            readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
            volumeMounts: [{name: page, mountPath: /srv/www}]
          volumes:
          - {name: page, configMap: {name: page}}
    ---
    apiVersion: v1
    kind: Service
    metadata: {name: web, namespace: demo}
    spec:
      ipFamilyPolicy: PreferDualStack
      selector: {app: web}
      ports: [{name: http, port: 80, targetPort: http}]
    ---
    apiVersion: v1
    kind: Service
    metadata: {name: webs, namespace: demo}
    spec:
      clusterIP: None
      selector: {app: web}
      ports: [{name: http, port: 8080}]
    ---
    apiVersion: v1
    kind: Service
    metadata: {name: nobody, namespace: demo}
    spec:
      selector: {app: nobody}
      ports: [{name: http, port: 80}]
    ---
    apiVersion: v1
    kind: Pod
    metadata: {name: client, namespace: demo, labels: {app: client}}
    spec:
      nodeName: node1
      initContainers:
      - name: first
        command: [sh, -c, "echo made-by-init > /var/scratch/x"]
        volumeMounts: [{name: scratch, mountPath: /var/scratch}]
      containers:
      - name: client
        command: [sleep, "100000"]
        readinessProbe: {exec: {command: [cat, /var/scratch/x]}, periodSeconds: 1}
        volumeMounts: [{name: scratch, mountPath: /var/scratch}]
      volumes: [{name: scratch, emptyDir: {}}]
"""


class Plain(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.mesh = Local("plain", options=["--no-mesh", "--timeout", "60"])
        cls.addClassCleanup(cls.mesh.close)
        cls.mesh.write("base.yaml", BASE)
        cls.mesh.up()

    def curl(self, *args, pod="demo/client", check=True):
        return self.mesh.exec(pod, "curl", "-sS", "-m", "5", *args, check=check)

    def test_names_and_cluster_ips_of_both_families(self):
        for url in ("http://web/", "http://web.demo/", "http://web.demo.svc.cluster.local/"):
            for family in ("-4", "-6"):
                self.assertEqual(self.curl(family, url).stdout, "hello from the config map\n")

    def test_every_endpoint_gets_its_share(self):
        pods = [p for p in self.mesh.pods() if "/web-" in p]
        self.assertEqual(len(pods), 2)
        self.assertEqual({self.mesh.pods()[p]["node"] for p in pods}, {"node1", "node2"})
        for _ in range(30):
            self.curl("-4", "http://web/")
        for pod in pods:
            log = self.mesh.ctl("local", "logs", pod, "--name", self.mesh.name).stdout
            self.assertIn("10.91.1.", log, "a request of the client, whose address is on node1")

    def test_headless_service_resolves_to_the_pods(self):
        ips = {p["ips"][0] for name, p in self.mesh.pods().items() if "/web-" in name}
        out = self.mesh.exec("demo/client", "python3", "-c",
                             "import socket; print(' '.join({a[4][0] for a in socket.getaddrinfo('webs', 8080)}))").stdout
        self.assertEqual(set(out.split()), ips)

    def test_unknown_name_and_service_without_pods(self):
        self.assertEqual(self.curl("http://unknown/", check=False).returncode, 6, "does not resolve")
        start = time.monotonic()
        self.assertEqual(self.curl("http://nobody/", check=False).returncode, 7, "refused, as by kube-proxy")
        self.assertLess(time.monotonic() - start, 10)

    def test_a_pod_reaches_itself_through_its_service(self):
        for _ in range(8):
            self.assertIn("hello", self.curl("http://web/", pod="demo/deploy/web").stdout)

    def test_inside_a_container(self):
        script = "hostname; cat /etc/resolv.conf; cat /var/scratch/x; ls /run/qanat /run/netns; echo $POD_NAME; grep CapEff /proc/self/status"
        out = self.mesh.exec("demo/client", "sh", "-c", script, check=False).stdout
        self.assertIn("client\n", out)
        self.assertIn("nameserver 10.96.0.10", out)
        self.assertIn("made-by-init", out)
        pod = next(p for p in self.mesh.pods().values() if p["name"] == "client")
        pid = pod["containers"][-1]["pid"]
        self.assertEqual(os.listdir(f"/proc/{pid}/root/run"), ["secrets"], "keys and sockets of the mesh are out of sight")
        caps = next(l for l in open(f"/proc/{pid}/status") if l.startswith("CapEff"))
        self.assertEqual(int(caps.split()[1], 16) >> 12 & 1, 0, "no NET_ADMIN")
        account = f"/proc/{pid}/root/run/secrets/kubernetes.io/serviceaccount/namespace"
        self.assertEqual(open(account).read(), "demo")
        self.mesh.exec("demo/client", "touch", "/etc/only-here", "/only-here")
        self.assertFalse(os.path.exists("/etc/only-here") or os.path.exists("/only-here"))

    def test_a_killed_container_comes_back(self):
        name = next(p for p in self.mesh.pods() if "/web-" in p)
        before = self.mesh.pods()[name]
        os.kill(before["containers"][0]["pid"], signal.SIGKILL)
        self.mesh.wait("it runs again", lambda: self.mesh.pods()[name]["ready"] and self.mesh.pods()[name]["restarts"] > before["restarts"])
        self.assertEqual(self.mesh.pods()[name]["uid"], before["uid"], "the same pod")

    def test_a_crashing_pod_says_why_and_backs_off(self):
        self.mesh.write("crash.yaml", """
            apiVersion: v1
            kind: Pod
            metadata: {name: crash, namespace: demo}
            spec: {containers: [{name: c, command: [sh, -c, "echo oh no >&2; exit 7"]}]}
            """)
        self.addCleanup(lambda: self.mesh.wait("gone", lambda: "demo/crash" not in self.mesh.pods()))
        self.addCleanup(self.mesh.remove, "crash.yaml")
        self.mesh.wait("it crashes", lambda: self.mesh.pods()["demo/crash"]["restarts"] >= 2)
        status = self.mesh.ctl("local", "status", "--name", self.mesh.name, check=False)
        self.assertEqual(status.returncode, 4)
        self.assertIn("exit code 7", status.stdout)
        time.sleep(2)
        self.assertLess(self.mesh.pods()["demo/crash"]["restarts"], 6)
        self.assertIn("oh no", self.mesh.ctl("local", "logs", "demo/crash", "--name", self.mesh.name).stdout)

    def test_an_unready_pod_leaves_the_service(self):
        self.mesh.write("flip.yaml", """
            apiVersion: v1
            kind: Pod
            metadata: {name: flip, namespace: demo, labels: {app: flip}}
            spec:
              containers:
              - name: c
                command: [python3, -m, http.server, "8081"]
                readinessProbe: {exec: {command: [test, "!", -e, /tmp/down]}, periodSeconds: 1, failureThreshold: 1}
            ---
            apiVersion: v1
            kind: Service
            metadata: {name: flip, namespace: demo}
            spec: {selector: {app: flip}, ports: [{port: 80, targetPort: 8081}]}
            """)
        self.addCleanup(lambda: self.mesh.wait("gone", lambda: "demo/flip" not in self.mesh.pods()))
        self.addCleanup(self.mesh.remove, "flip.yaml")
        works = lambda: self.curl("-o", "/dev/null", "http://flip/", check=False).returncode == 0
        self.mesh.wait("it serves", works)
        self.mesh.exec("demo/flip", "touch", "/tmp/down")
        self.mesh.wait("it is taken out", lambda: not works())
        self.mesh.exec("demo/flip", "rm", "/tmp/down")
        self.mesh.wait("it is back", works)

    def test_changes_apply_live(self):
        pod = """
            apiVersion: v1
            kind: Pod
            metadata: {name: extra, namespace: demo, labels: {v: "%s"}}
            spec: {containers: [{name: c, command: [sleep, "%s"]}]}
            """
        self.mesh.write("extra.yaml", pod % ("1", "1000"))
        self.mesh.wait("added", lambda: self.mesh.pods()["demo/extra"]["ready"])
        first = self.mesh.pods()["demo/extra"]
        self.mesh.write("extra.yaml", pod % ("2", "1000"))
        self.mesh.wait("relabelled", lambda: self.mesh.pods()["demo/extra"]["labels"]["v"] == "2")
        self.assertEqual(self.mesh.pods()["demo/extra"]["uid"], first["uid"], "a label is no reason for another pod")
        self.mesh.write("extra.yaml", "this: [is not: yaml\n")
        self.mesh.wait("reported", lambda: any("extra.yaml" in p["file"] for p in self.mesh.state()["problems"]))
        self.assertEqual(self.mesh.pods()["demo/extra"]["uid"], first["uid"], "the last good state stays")
        self.mesh.write("extra.yaml", pod % ("2", "2000"))
        self.mesh.wait("replaced", lambda: self.mesh.pods()["demo/extra"]["uid"] != first["uid"] and self.mesh.pods()["demo/extra"]["ready"])
        self.assertFalse(any("extra.yaml" in p["file"] for p in self.mesh.state()["problems"]))
        self.mesh.remove("extra.yaml")
        self.mesh.wait("removed", lambda: "demo/extra" not in self.mesh.pods())
        self.assertFalse(os.path.exists(f"/run/netns/qanat-{self.mesh.name}-pod-demo-extra"))

    def test_a_deployment_rolls_without_a_gap(self):
        text = """
            apiVersion: apps/v1
            kind: Deployment
            metadata: {name: roll, namespace: demo}
            spec:
              replicas: 2
              selector: {matchLabels: {app: roll}}
              template:
                metadata: {labels: {app: roll, v: "%s"}}
                spec:
                  containers:
                  - name: c
                    command: [python3, -m, http.server, "8082"]
                    readinessProbe: {tcpSocket: {port: 8082}, periodSeconds: 1}
            ---
            apiVersion: v1
            kind: Service
            metadata: {name: roll, namespace: demo}
            spec: {selector: {app: roll}, ports: [{port: 80, targetPort: 8082}]}
            """
        versions = lambda: {p["labels"]["v"] for n, p in self.mesh.pods().items() if "/roll-" in n}
        self.mesh.write("roll.yaml", text % "1")
        self.addCleanup(lambda: self.mesh.wait("gone", lambda: not versions()))
        self.addCleanup(self.mesh.remove, "roll.yaml")
        self.mesh.wait("first generation", lambda: sum("/roll-" in n and p["ready"] for n, p in self.mesh.pods().items()) == 2)
        self.mesh.write("roll.yaml", text % "2")
        failures = 0
        deadline = time.monotonic() + 20
        while versions() != {"2"} and time.monotonic() < deadline:
            failures += self.curl("-o", "/dev/null", "http://roll/", check=False).returncode != 0
        self.assertEqual(versions(), {"2"})
        self.assertEqual(failures, 0)

    def test_a_second_up_says_that_it_is_up(self):
        done = self.mesh.up(check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("is up already", done.stderr)


class Teardown(unittest.TestCase):
    def setUp(self):
        self.mesh = Local("torn", options=["--no-mesh", "--timeout", "60"])
        self.addCleanup(self.mesh.close)
        self.mesh.write("base.yaml", BASE)

    def test_down_leaves_nothing(self):
        self.mesh.up()
        self.assertTrue(self.mesh.leftovers(), "the check must be able to find something")
        self.mesh.down()
        self.assertEqual(self.mesh.leftovers(), [])

    def test_down_after_the_supervisor_was_killed(self):
        self.mesh.up()
        os.kill(int(open(self.mesh.run + "/supervisor.pid").read()), signal.SIGKILL)
        status = lambda: self.mesh.ctl("local", "status", "--name", self.mesh.name, check=False)
        self.mesh.wait("it is missed", lambda: status().returncode == 4, 5)
        self.assertIn("supervisor is gone", status().stdout)
        self.mesh.down()
        self.assertEqual(self.mesh.leftovers(), [])

    def test_up_cleans_what_a_crash_left(self):
        self.mesh.up()
        os.kill(int(open(self.mesh.run + "/supervisor.pid").read()), signal.SIGKILL)
        time.sleep(0.1)
        self.mesh.up()
        self.assertTrue(self.mesh.pods()["demo/client"]["ready"])
        self.mesh.down()
        self.assertEqual(self.mesh.leftovers(), [])

    def test_a_bring_up_that_fails_says_why_and_cleans_up(self):
        self.mesh.write("bad.yaml", """
            apiVersion: v1
            kind: Pod
            metadata: {name: bad, namespace: demo}
            spec: {containers: [{name: c, command: [/does/not/exist]}]}
            """)
        done = self.mesh.up("--timeout", "10", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("pod demo/bad: container c: cannot start: exec /does/not/exist", done.stderr)
        self.assertEqual(self.mesh.leftovers(), [])

    def test_mistakes_are_told_before_anything_is_made(self):
        done = self.mesh.ctl("local", "up", "/nowhere", "--name", self.mesh.name, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("/nowhere: no such folder", done.stderr)
        done = self.mesh.ctl("local", "up", self.mesh.folder, "--name", "no-dashes", check=False)
        self.assertIn("mesh name", done.stderr)
        self.assertEqual(self.mesh.leftovers(), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
