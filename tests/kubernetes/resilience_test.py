#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Parts of ours deleted under load, a rolling restart, a node without power: nothing opens, all recovers."""
import collections
import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import signal
import threading
import time
import unittest

from harness import SYSTEM, MeshBench
from bed import connect, http_get, outcome
from fixture import APPS, NAMESPACES, authorization, pod
from knock import Knock, addresses_of, dns_answers
from prober import Prober
from testbed import control, node

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
    """HTTP load that repeats nothing, half on kept connections, half on new ones; each answer has to be the one to its
    request. (answered, failures)"""
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
                said = json.loads(answer.read())
                if answer.status != 200 or said["id"] != str(number):
                    raise OSError(f"status {answer.status}, answer to {said['id']} instead of {number}")
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
        if connection:
            connection.close()

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
        cls.started = bench.restarts("mesh")
        cls.failures_before = bench.probe_failures("mesh", cls.started)
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

    def take_away(self, app, index, count, cost=0, hard=False):
        """Deletes (or kills) our pods under load from friends and strangers, which goes on until the new ones are ready
        and three seconds more; the wire is watched. cost: how many connections of each friend may fail."""
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
            failed = [how for _, _, how in load.seen() if how != "ok"]
            self.assertLessEqual(len(failed), cost, f"what the end of {app} cost {call}: {failed}")
            self.assertLess(load.longest_gap(), 10, f"recovery takes too long: {call}")
        self.all_is_well()

    def test_10_agents_deleted(self):
        for index in (1, 2):
            self.take_away("qanat-agent", index, 2)

    def test_11_control_planes_deleted(self):
        self.take_away("qanat-controlplane", None, 2)

    def test_12_node_proxies_deleted(self):
        for index in (1, 2):
            self.take_away("ztunnel", index, 2)

    def test_13_node_proxy_killed(self):
        # a friend tries once at a time: what may end with the proxy is the one connection that it has just then
        self.take_away("ztunnel", 2, 2, cost=1, hard=True)
        # with the queues in which connections waited
        self.assertRegex(self.bench.events_of(self.bench.part("ztunnel", 2)[0], 3000), r"[1-9]\d* kept listeners came back")

    def test_14_agent_killed(self):
        self.take_away("qanat-agent", 1, 2, hard=True)

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

    def tried_again(self):
        """{what of which node proxy: how often it went on to another endpoint or sent a stream once more, unknown to the
        application}"""
        found = {}
        for name in self.bench.part("ztunnel"):
            said = self.bench.call_outside(http_get, self.bench.ip(f"{SYSTEM}/{name}"), 15020, "/metrics")[2].decode()
            for metric in ("qanat_connect_retries", "qanat_pool_streams_retried"):
                self.assertIn(f"# TYPE {metric}_total counter", said)
            found.update({(name, series): float(value) for series, value in re.findall(
                r"^(qanat_(?:connect_retries|pool_streams_retried)_total\S*) (\S+)", said, re.M) if float(value)})
        return found

    def test_30_rolling_restart_without_a_failed_request(self):
        self.bench.apply(ROLLING)
        self.bench.wait("rolling is ready", lambda: self.bench.ready("mesh", "app=rolling", 3))
        before = {p["metadata"]["uid"] for p in self.bench.pods("mesh", "app=rolling")}
        tried_again = self.tried_again()
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
        self.assertEqual(self.tried_again(), tried_again, "failures were hidden behind retries")

    def test_31_a_terminating_pod_is_served_until_its_containers_are_gone(self):
        self.bench.apply(pod("mesh", "leaving", "client", "node2"))
        self.bench.wait("leaving is ready", lambda: self.bench.ready("mesh", "app=leaving"))
        ip = self.bench.ip("mesh/leaving")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            held = pool.submit(self.bench.call, "mesh/client", hold, ip, 9000, 22, timeout=60)
            time.sleep(1)
            deleted = time.monotonic()
            self.bench.kubectl("delete", "pod", "-n", "mesh", "leaving", "--wait=false", "--grace-period=25")
            # app.py leaves SIGTERM alone: its containers run for all of the grace period
            for second in (3, 20):
                time.sleep(max(0.0, deleted + second - time.monotonic()))
                self.assertEqual(self.bench.call("mesh/client", outcome, ip, 9000, b"new one", 15), "ok", f"after {second} s")
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

    def test_45_probes_stayed_green(self):
        now = self.bench.restarts("mesh")
        self.assertEqual({name: now[name] for name in self.started}, self.started)
        self.assertEqual(self.bench.probe_failures("mesh", self.started), self.failures_before,
                         "a probe failed while parts of ours came and went")

    @contextlib.contextmanager
    def knocking(self, pod):
        """Meanwhile each 20 ms a friend and two strangers, who are there before, try every address that the pod has. Gives
        what the friend has got in by so far."""
        group = os.path.dirname(self.bench.container(pod)[1])
        greeting = f"220 {pod.split('/')[1]} ready"
        with contextlib.ExitStack() as stack:
            friend, *strangers = (stack.enter_context(Prober(self.bench, source, Knock(group), seconds=400))
                                  for source in ("mesh/client", "mesh/near", "plain/outsider"))

            def tried(prober, since=0.0):
                return [each for begin, _, ended in prober.seen() if begin >= since for each in ended]
            yield lambda since: {address for address, how in tried(friend, since) if how == greeting}
        for source, prober in (("a stranger", strangers[0]), ("one without the mesh", strangers[1]), ("a friend", friend)):
            counts = collections.Counter(how for _, how in tried(prober))
            print(f"{source} knocked at {sorted({address for address, _ in tried(prober)})}: {dict(counts)}", flush=True)
            if prober is not friend:
                self.assertFalse([how for how in counts if how.startswith("220")], f"open to {source}")
                since = len(tried(prober, self.powered_on))
                print(f"  {since} of them since power-on", flush=True)
                self.assertGreater(since, 20, "hardly anybody knocked when the node was back")

    def power_off(self):
        """Node 2, after cluster DNS has been moved there. Returns when it last became ready."""
        bench = self.bench
        bench.kubectl("patch", "deployment", "-n", "kube-system", "coredns", "--type=merge", "-p",
                      '{"spec": {"replicas": 2, "template": {"spec": {"nodeName": "node2"}}}}')
        bench.kubectl("rollout", "status", "-n", "kube-system", "deployment/coredns", "--timeout=110s")
        bench.wait("DNS is on node2 only", lambda: {p["spec"]["nodeName"] for p in bench.pods("kube-system", "k8s-app=kube-dns")} == {"node2"})
        bench.wait("cluster DNS answers", lambda: bench.call_node(1, dns_answers))
        before = max(control.node_ready(bench.cluster, "node2"), default="")
        node.power_off(bench.cluster, 2)
        self.assertFalse(bench.call_node(1, dns_answers), "who answers?")
        return before

    def power_on(self, before):
        """Returns when, as soon as cluster DNS answers."""
        start = self.powered_on = time.monotonic()
        node.power_on(self.bench.cluster, 2)
        dns = self.bench.wait("cluster DNS answers", lambda: self.bench.call_node(1, dns_answers), 240)
        node.wait_until_ready(self.bench.cluster, 2, before)
        print(f"cluster DNS answered {dns:.1f} s after power-on, node ready after {time.monotonic() - start:.1f} s", flush=True)
        return start

    def back_in_the_mesh(self, friend, start):
        """The friend gets in by both addresses, and nobody else for a while after that."""
        self.bench.wait("far is back in the mesh", lambda: len(friend(start)) == 2, 120)
        print(f"back in the mesh {time.monotonic() - start:.1f} s after power-on", flush=True)
        time.sleep(1)
        self.bench.wait("the API server knows its address", lambda: self.bench.ip("mesh/far") in friend(start))

    def test_50_a_node_starts_again_with_a_broken_agent(self):
        bench = self.bench
        image = bench.get(f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/qanat-agent")["spec"]["template"]["spec"]["containers"][0]["image"]
        group = os.path.dirname(bench.container("mesh/far")[1])
        self.assertEqual(addresses_of(group), {bench.ip("mesh/far", version) for version in (4, 6)})
        with self.knocking("mesh/far") as friend:
            before = self.power_off()
            bench.kubectl("set", "image", "-n", SYSTEM, "daemonset/qanat-agent", "agent=localhost/qanat/agent:broken")
            bench.kubectl("delete", "pod", "-n", SYSTEM, *bench.part("qanat-agent", 2), "--grace-period=0", "--force")
            start = self.power_on(before)
            try:
                bench.wait("a pod outside of the mesh answers", lambda: bench.call_outside(
                    outcome, bench.ip("plain/bystander"), 9000, b"x", 1) == "ok", 90)
                bench.wait("the event says what holds far", lambda: self.why_held("far"))
                print(f"held: {self.why_held('far')}", flush=True)
                self.assertEqual((friend(start), addresses_of(group)), (set(), set()), "an enrolled pod runs")
            finally:
                bench.kubectl("set", "image", "-n", SYSTEM, "daemonset/qanat-agent", f"agent={image}")
            bench.wait("agents are back", self.ready("qanat-agent", 2), 120)
            self.back_in_the_mesh(friend, start)
        self.bench.wait_ready(mesh=4, plain=2)
        self.all_is_well()

    def test_51_a_node_starts_again_with_all_parts_well(self):
        with self.knocking("mesh/far") as friend:
            self.back_in_the_mesh(friend, self.power_on(self.power_off()))
        # The network plugin wrote its file anew when the node started, and nobody of ours has touched it.
        lists = self.bench.on_node(2, "grep", "-c", "qanat-cni", "-r", "/etc/cni/net.d").split()
        self.assertEqual(sorted(lists), ["/etc/cni/net.d/00-qanat-cni.conflist:1", "/etc/cni/net.d/10-testbed.conflist:0"])
        self.bench.wait_ready(mesh=4, plain=2)
        self.all_is_well()


if __name__ == "__main__":
    unittest.main(verbosity=2)
