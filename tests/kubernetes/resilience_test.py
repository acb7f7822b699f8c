#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Parts of ours deleted under load, a rolling restart, a node without power: nothing opens, all recovers."""
import concurrent.futures
import contextlib
import http.client
import os
import signal
import threading
import time
import unittest

from harness import SYSTEM, MeshBench
from bed import connect, outcome
from fixture import APPS, NAMESPACES, authorization, pod
from prober import Prober
from testbed import control, life, node

ALLOW_CLIENT = authorization("only-client", """
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/client"]}}]
""")
# Who may call whom, and who may not: between the nodes, and by node what that node's own proxy alone has to
# allow and to refuse, a caller without the mesh among them.
FRIEND, STRANGER = ("mesh/client", "mesh/far"), ("mesh/near", "mesh/far")
FRIENDS = {1: ("mesh/client", "mesh/near"), 2: ("mesh/client2", "mesh/far")}
STRANGERS = {1: [("mesh/near", "mesh/client"), ("plain/outsider", "mesh/near")],
             2: [("mesh/far", "mesh/client2"), ("plain/bystander", "mesh/far")]}
ROLLING = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: rolling, namespace: mesh}
spec:
  replicas: 3
  selector: {matchLabels: {app: rolling}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: rolling}}
    spec:
      terminationGracePeriodSeconds: 30
      containers:
      - name: app
        image: localhost/testbed/tests:1
        command: [python3, -u, /drain_app.py]
        env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: rolling, namespace: mesh}
spec:
  selector: {app: rolling}
  ports: [{port: 80, targetPort: 8080}]
"""


def requests(host, seconds, workers):
    """HTTP load that repeats nothing: half on kept connections, half on new ones. (answered, failures)"""
    answered, failures, lock, end = 0, [], threading.Lock(), time.monotonic() + seconds

    def work(keep):
        nonlocal answered
        connection = None
        number = 0
        while time.monotonic() < end:
            number += 1
            try:
                connection = connection or http.client.HTTPConnection(host, 80, timeout=10)
                connection.request("GET", "/", headers={"x-id": str(number)})
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    raise OSError(f"status {answer.status}")
                with lock:
                    answered += 1
                if not keep or answer.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                with lock:
                    failures.append(f"{'kept' if keep else 'new'}: {type(error).__name__} {error}")
                connection = None
            time.sleep(0.01)

    threads = [threading.Thread(target=work, args=(i % 2 == 0,)) for i in range(workers)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return answered, failures[:10]


def hold(host, port, seconds):
    """One connection with a byte back and forth every tenth of a second: how long it lasted, how it ended."""
    start = time.monotonic()
    try:
        with connect(host, port, 30) as sock:
            while time.monotonic() - start < seconds:
                sock.sendall(b"x")
                if not sock.recv(1):
                    return time.monotonic() - start, "closed"
                time.sleep(0.1)
        return time.monotonic() - start, "ok"
    except OSError as error:
        return time.monotonic() - start, type(error).__name__


class Resilience(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bench = bench = MeshBench("resilience").up()
        bench.install()
        bench.apply(NAMESPACES + "---\n" + APPS)
        bench.apply(ALLOW_CLIENT)
        bench.wait_ready(mesh=4, plain=2)
        bench.wait("pods enrolled", lambda: bench.enrolled("mesh"))
        bench.wait("the policy holds", lambda: cls.reaches("mesh/near") != "ok")
        cls("all_is_well").all_is_well()

    @classmethod
    def tearDownClass(cls):
        cls.bench.down()

    @classmethod
    def reaches(cls, source, target="mesh/far"):
        return cls.bench.call(source, outcome, cls.bench.ip(target), 9000, b"hello", 15)

    def ready(self, app, count):
        return lambda: len(self.bench.part(app)) == count and self.bench.ready(SYSTEM, f"app={app}", count)

    def all_is_well(self):
        for call in (FRIEND, *FRIENDS.values()):
            self.assertEqual(self.reaches(*call), "ok", call)
        for call in (STRANGER, *STRANGERS[1], *STRANGERS[2]):
            self.assertNotEqual(self.reaches(*call), "ok", call)

    def load(self, calls, secret, stack):
        """Starts new connections all the time for each (source, target), until the stack ends."""
        return {call: stack.enter_context(Prober(self.bench, call[0], outcome, self.bench.ip(call[1]), 9000, secret, 10,
                                                 seconds=200, every=0.05)) for call in calls}

    def take_away(self, app, index, count, may_fail, hard=False):
        """Deletes (or kills) our pods under load from friends and strangers, which goes on until the new ones are ready
        and three seconds more; the wire is watched."""
        bench, secret = self.bench, "token" + os.urandom(12).hex()
        old, restarts = bench.part(app, index), bench.restarts(SYSTEM)

        def back():
            now = bench.restarts(SYSTEM)
            new = all(now[name] != restarts[name] for name in old) if hard else not set(old) & set(now)
            return new and self.ready(app, count)()
        with bench.capture(f"{app}.pcap") as seen, contextlib.ExitStack() as stack:
            good = self.load([FRIEND, FRIENDS[index or 1]], secret.encode(), stack)
            bad = self.load([STRANGER, *STRANGERS[index or 1]], secret.encode(), stack)
            time.sleep(1)
            for name in old:
                if hard:
                    os.kill(bench.container(f"{SYSTEM}/{name}")[0], signal.SIGKILL)
                else:
                    bench.kubectl("delete", "pod", "-n", SYSTEM, name, "--wait=false")
            taken = bench.wait(f"{app} is back", back)
            time.sleep(3)
        print(f"{app} on {index or 'all nodes'} {'killed' if hard else 'deleted'}, ready again after {taken:.1f} s", flush=True)
        for (source, target), load in {**good, **bad}.items():
            gap = f", longest gap {load.longest_gap():.1f} s" if (source, target) in good else ""
            print(f"  {source} -> {target}: {dict(load.counts())}{gap}", flush=True)
        for call, load in bad.items():
            self.assertNotIn("ok", load.counts(), f"a refused identity got through: {call}")
            self.assertGreater(len(load.seen()), 2, call)
        self.assertEqual(seen.holds(secret), 0, "payload in the clear between nodes")
        for call, load in good.items():
            if not may_fail:
                self.assertEqual(set(load.counts()), {"ok"}, f"the end of {app} cost a connection: {call}")
            self.assertLess(load.longest_gap(), 10, f"recovery takes too long: {call}")
        self.all_is_well()

    def test_10_agents_deleted(self):
        for index in (1, 2):
            self.take_away("qanat-agent", index, 2, may_fail=False)

    def test_11_control_planes_deleted(self):
        self.take_away("qanat-controlplane", None, 2, may_fail=False)

    def test_12_node_proxies_deleted(self):
        for index in (1, 2):
            self.take_away("ztunnel", index, 2, may_fail=True)

    def test_13_node_proxy_killed(self):
        self.take_away("ztunnel", 2, 2, may_fail=True, hard=True)

    def test_14_agent_killed(self):
        self.take_away("qanat-agent", 1, 2, may_fail=False, hard=True)

    def test_20_the_writer_changes_and_statuses_go_on(self):
        path = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/qanat-controlplane-leader"
        leader = self.bench.get(path)["spec"]["holderIdentity"]
        names = [n for n in self.bench.part("qanat-controlplane") if n in leader or leader in n]
        self.assertEqual(len(names), 1, leader)
        self.bench.kubectl("delete", "pod", "-n", SYSTEM, names[0], "--grace-period=0", "--force")
        taken = self.bench.wait("another leads", lambda: self.bench.get(path)["spec"]["holderIdentity"] not in ("", leader))
        print(f"another control plane leads after {taken:.1f} s", flush=True)
        self.bench.apply(authorization("later", '{action: DENY, selector: {matchLabels: {app: nobody}}, rules: [{}]}'))
        self.bench.wait("a new policy gets its status", lambda: self.bench.get(
            "/apis/security.istio.io/v1/namespaces/mesh/authorizationpolicies/later").get("status"), 20)
        self.bench.wait("two control planes", self.ready("qanat-controlplane", 2))

    def test_30_rolling_restart_without_a_failed_request(self):
        self.bench.apply(ROLLING)
        self.bench.wait("rolling is ready", lambda: self.bench.ready("mesh", "app=rolling", 3))
        before = {p["metadata"]["uid"] for p in self.bench.pods("mesh", "app=rolling")}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            load = pool.submit(self.bench.call, "mesh/client", requests, "rolling.mesh", 30, 6, timeout=120)
            time.sleep(2)
            self.bench.kubectl("rollout", "restart", "-n", "mesh", "deployment/rolling")
            self.bench.kubectl("rollout", "status", "-n", "mesh", "deployment/rolling", "--timeout=110s")
            answered, failures = load.result()
        self.bench.wait("the old ones are gone", lambda: not before & {
            p["metadata"]["uid"] for p in self.bench.pods("mesh", "app=rolling")}, 60)
        print(f"rolling restart: {answered} requests answered, failed: {failures}", flush=True)
        self.assertEqual(failures, [])
        self.assertGreater(answered, 500)

    def test_31_a_terminating_pod_is_served_until_its_containers_are_gone(self):
        self.bench.apply(pod("mesh", "leaving", "client", "node2"))
        self.bench.wait("leaving is ready", lambda: self.bench.ready("mesh", "app=leaving"))
        ip = self.bench.ip("mesh/leaving")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            held = pool.submit(self.bench.call, "mesh/client", hold, ip, 9000, 8, timeout=60)
            time.sleep(1)
            self.bench.kubectl("delete", "pod", "-n", "mesh", "leaving", "--wait=false", "--grace-period=25")
            time.sleep(3)
            # app.py leaves SIGTERM alone: its containers run for all of the grace period
            self.assertEqual(self.bench.call("mesh/client", outcome, ip, 9000, b"new one", 15), "ok")
            lasted, how = held.result()
        self.assertEqual(how, "ok", f"ended after {lasted:.1f} s")
        self.bench.wait("leaving is gone", lambda: "leaving" not in self.bench.restarts("mesh"))

    def agents(self, on):
        """Takes all agents away and gives them back, without touching anything else."""
        value = '"nowhere/at-all": null' if on else '"nowhere/at-all": "x"'
        self.bench.kubectl("patch", "daemonset", "-n", SYSTEM, "qanat-agent", "--type=merge", "-p",
                           '{"spec": {"template": {"spec": {"nodeSelector": {%s}}}}}' % value)
        if on:
            self.bench.wait("agents are back", self.ready("qanat-agent", 2))
        else:
            self.bench.wait("agents are gone", lambda: not self.bench.part("qanat-agent"))

    def why_held(self, name):
        """What the kubelet was told by the plugin when it could not make the pod's sandbox."""
        events = self.bench.kubectl("get", "events", "-n", "mesh", "-o", "jsonpath={.items[*].message}",
                                    f"--field-selector=involvedObject.name={name},reason=FailedCreatePodSandBox").stdout
        return events[events.find("qanat-cni"):][:500] if "qanat-cni" in events else ""

    def test_40_a_pod_that_starts_while_the_agent_is_down_is_not_open(self):
        self.agents(False)
        try:
            self.bench.apply(pod("mesh", "early", "client", "node1") + pod("plain", "free", "outsider", "node1"))
            self.bench.wait("a pod outside of the mesh starts", lambda: self.bench.ready("plain", "app=free"))
            self.bench.wait("the event says what holds it", lambda: self.why_held("early"))
            print(f"held: {self.why_held('early')}", flush=True)
            statuses = self.bench.pod("mesh/early")["status"].get("containerStatuses", [])
            self.assertFalse(any(s.get("started") for s in statuses), statuses)
            # and who was enrolled is as before
            self.assertEqual(self.reaches("mesh/client"), "ok")
            self.assertNotEqual(self.reaches("mesh/near"), "ok")
        finally:
            self.agents(True)
        self.bench.wait("early runs", lambda: self.bench.ready("mesh", "app=early"))
        self.assertEqual(self.bench.redirection("mesh/early"), "enabled")

    def test_50_a_node_starts_again_with_a_broken_agent(self):
        bench = self.bench
        bench.kubectl("scale", "-n", "kube-system", "deployment/coredns", "--replicas=2")
        bench.kubectl("patch", "deployment", "-n", "kube-system", "coredns", "--type=merge", "-p",
                      '{"spec": {"template": {"spec": {"nodeName": "node2"}}}}')  # DNS lives on the node that starts again
        bench.kubectl("rollout", "status", "-n", "kube-system", "deployment/coredns", "--timeout=110s")
        image = bench.get(f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/qanat-agent")["spec"]["template"]["spec"]["containers"][0]["image"]
        far = bench.ip("mesh/far")
        before = max(control.node_ready(bench.cluster, "node2"), default="")
        node.power_off(bench.cluster, 2)
        bench.kubectl("set", "image", "-n", SYSTEM, "daemonset/qanat-agent", "agent=localhost/qanat/agent:broken")
        bench.kubectl("delete", "pod", "-n", SYSTEM, *bench.part("qanat-agent", 2), "--grace-period=0", "--force")
        node.power_on(bench.cluster, 2)
        node.wait_until_ready(bench.cluster, 2, before)
        try:
            bench.wait("cluster DNS starts", lambda: life.dns_ready(bench.cluster))
            bench.wait("a pod outside of the mesh answers", lambda: bench.call_outside(
                outcome, bench.ip("plain/bystander"), 9000, b"x", 1) == "ok", 90)
            bench.wait("the event says what holds far", lambda: self.why_held("far"))
            print(f"held: {self.why_held('far')}", flush=True)
            for address in {far, *(each["ip"] for each in bench.pod("mesh/far")["status"].get("podIPs", []))}:
                self.assertNotEqual(bench.call_outside(outcome, address, 9000, b"x", 1), "ok", "an enrolled pod is open")
        finally:
            bench.kubectl("set", "image", "-n", SYSTEM, "daemonset/qanat-agent", f"agent={image}")
        bench.wait("agents are back", self.ready("qanat-agent", 2), 120)
        bench.wait("far is back in the mesh", lambda: self.reaches("mesh/client") == "ok")
        self.assertNotEqual(self.reaches("mesh/near"), "ok")

    def test_51_a_node_starts_again_with_all_parts_well(self):
        life.reboot(self.bench.cluster, 2)
        never_open = True

        def back():
            nonlocal never_open
            try:
                never_open = never_open and self.reaches("mesh/near") != "ok"
                return self.reaches("mesh/client") == "ok"
            except (KeyError, RuntimeError):
                return False
        taken = self.bench.wait("far is back in the mesh", back, 120)
        print(f"back in the mesh {taken:.1f} s after the node was ready", flush=True)
        self.assertTrue(never_open, "a refused identity got through while the node started")


if __name__ == "__main__":
    unittest.main(verbosity=2)
