#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`why` is the truth: 300 random questions, each asked of `qanatctl why` and of a real connection.

Random policies (seeded: $QANAT_SEED), random ends, ports, methods and paths. The verdict must be
what the connection gets, and the reason one that a proxy wrote for that very connection.
"""
import json
import os
import random
import re
import socket
import time
import unittest

from bed import MeshCase, http_get
from fixture import APPS, NAMESPACES, WEB, authorization, peer_authentication

SOURCES = ["mesh/client", "mesh/client2", "mesh/near", "mesh/far", "plain/outsider"]
TARGETS = ["mesh/near", "mesh/far", "mesh/client", "mesh/client2", "plain/bystander"]
ACCOUNTS = ["client", "server", "web", "waypoint", "nobody"]
SETS, QUESTIONS = 15, 20


def attempt(host, port):
    """("ok" or how it failed, local port): the local port finds the line in the access log."""
    sock = None
    local = 0
    try:
        sock = socket.create_connection((host, port), timeout=10)
        local = sock.getsockname()[1]
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")  # echoed, answered, or after a greeting
        got = sock.recv(5)
        return ("ok" if got else "closed"), local
    except OSError as error:
        return type(error).__name__, local
    finally:
        if sock is not None:
            sock.close()


def source(rng):
    kind = rng.randrange(4)
    if kind == 0:
        return f'principals: ["cluster.local/ns/mesh/sa/{rng.choice(ACCOUNTS)}"]'
    if kind == 1:
        return f'namespaces: ["{rng.choice(["mesh", "plain", "other"])}"]'
    if kind == 2:
        return f'notPrincipals: ["cluster.local/ns/mesh/sa/{rng.choice(ACCOUNTS)}"]'
    return f'ipBlocks: ["{rng.choice(["10.91.1.0/24", "10.91.2.0/24", "10.91.0.0/16", "192.0.2.0/24"])}"]'


def l4_policy(rng, number):
    rules = []
    for _ in range(rng.randrange(3)):
        rule = f"\n  - from: [{{source: {{{source(rng)}}}}}]"
        if rng.random() < 0.5:
            rule += f'\n    to: [{{operation: {{{rng.choice(["ports", "notPorts"])}: ["{rng.choice([9000, 9001, 8080])}"]}}}}]'
        rules.append(rule)
    action = rng.choice(["ALLOW", "ALLOW", "DENY"])
    text = f"\n  action: {action}"
    if rng.random() < 0.7:
        text += f"\n  selector: {{matchLabels: {{app: {rng.choice(['near', 'far', 'client', 'client2'])}}}}}"
    if rules:
        text += "\n  rules:" + "".join(rules)
    elif action == "DENY":
        text += "\n  rules: [{}]"
    return authorization(f"random-{number}", text + "\n")


def l7_policy(rng, number):
    rules = []
    for _ in range(1 + rng.randrange(2)):
        operation = rng.choice([
            'methods: ["GET"]', 'paths: ["/api/*"]', 'methods: ["GET", "POST"], paths: ["/public*"]',
            'notMethods: ["POST"]', 'paths: ["*/items"]', 'notPaths: ["/admin*"]'])
        rules.append(f"\n  - from: [{{source: {{{source(rng)}}}}}]\n    to: [{{operation: {{{operation}}}}}]")
    return authorization(f"random-l7-{number}", f"""
  targetRefs: [{{group: "", kind: Service, name: web}}]
  action: {rng.choice(["ALLOW", "ALLOW", "DENY"])}
  rules:{"".join(rules)}
""")


def marker(number):
    """Two policies that change nothing and tell when a set has arrived: at ztunnels and waypoint. The first
    selects pods, as their list of policies comes with them and not with the policies."""
    return authorization(f"marker-{number}", f"""
  selector: {{matchLabels: {{version: v1}}}}
  action: DENY
  rules:
  - from: [{{source: {{ipBlocks: ["198.51.100.1/32"]}}}}]
""") + "---" + authorization(f"marker-l7-{number}", f"""
  targetRefs: [{{group: "", kind: Service, name: web}}]
  action: DENY
  rules:
  - to: [{{operation: {{paths: ["/marker-{number}"]}}}}]
""")


class Why(MeshCase):
    files = {"base.yaml": NAMESPACES + "---\n" + APPS + "\n---\n" + WEB}

    def apply(self, rng, number):
        parts = [marker(number)]
        parts += [l4_policy(rng, i) for i in range(rng.randrange(4))]
        if rng.random() < 0.6:
            parts.append(l7_policy(rng, 0))
        if rng.random() < 0.5:
            parts.append(peer_authentication(rng.choice(["STRICT", "PERMISSIVE"])))
        self.mesh.write("policies.yaml", "\n---\n".join(parts))
        for node in ("node1", "node2"):
            self.mesh.wait(f"set {number} at {node}", lambda node=node: self.arrived(node, f"marker-{number}"))
        self.mesh.wait(f"set {number} at the waypoint", lambda: f"policy[marker-l7-{number}]" in self.mesh.call(
            "mesh/waypoint", http_get, "127.0.0.1", 15000, "/config_dump")[2].decode())

    def arrived(self, node, name):
        dump = json.loads(self.mesh.admin(node, "/config_dump")[2])
        pods = [w for w in dump["workloads"] if w["namespace"] == "mesh" and w["name"] in ("client", "client2", "near", "far")]
        return (any(p["name"] == name for p in dump["policies"]) and len(pods) == 4
                and all(f"mesh/{name}" in w["authorizationPolicies"] for w in pods))

    def log_positions(self):
        logs = f"{self.mesh.run}/logs"
        return {f: os.path.getsize(f"{logs}/{f}") for f in os.listdir(logs) if f.startswith(("ztunnel", "waypoint"))}

    def reasons_since(self, positions, *source_ips):
        """Reasons that proxies wrote about connections of these addresses since then."""
        found = set()
        for file, start in positions.items():
            with open(f"{self.mesh.run}/logs/{file}", errors="replace") as f:
                f.seek(start)
                for line in f:
                    if file.startswith("waypoint") or any(ip + ":" in line for ip in source_ips):
                        found.update(re.findall(r'reason="?:?"?([a-z0-9_]+)', line))
        return found

    def waypoint_refusals(self):
        text = self.mesh.call("mesh/waypoint", http_get, "127.0.0.1", 15020, "/stats/prometheus")[2].decode()
        return {m[0]: float(m[1]) for m in re.findall(r'qanat_waypoint_refusals_total\{reason="(\w+)"\} (\S+)', text)}

    def ask(self, *arguments):
        done = self.mesh.ctl("why", *arguments, "--name", self.mesh.name, "-o", "json", check=False)
        self.assertIn(done.returncode, (0, 3), done.stdout + done.stderr)
        answer = json.loads(done.stdout)
        self.assertEqual(answer["verdict"] == "allow", done.returncode == 0)
        return answer

    def l4(self, source_pod, target_pod, port):
        ip = self.mesh.ip(target_pod)
        answer = self.ask(source_pod, f"{ip}:{port}")
        before = self.log_positions()
        how, _ = self.mesh.call(source_pod, attempt, ip, port)
        what = f"{source_pod} -> {target_pod}:{port}: why says {answer['verdict']} ({answer['reason']}), the connection got {how}"
        self.assertEqual(answer["verdict"] == "allow", how == "ok", what)
        if answer["verdict"] == "deny":
            self.mesh.until(what + "; reason in a log", lambda: self.reasons_since(before, self.mesh.ip(source_pod)),
                            lambda reasons: answer["reason"] in reasons)
        return answer["verdict"]

    def l7(self, source_pod, method, path):
        answer = self.ask(source_pod, "web.mesh:80", "--method", method, "--path", path)
        before, refused = self.log_positions(), self.waypoint_refusals()
        try:
            status = self.mesh.call(source_pod, http_get, "web.mesh.svc.cluster.local", 80, path, None, method)[0]
        except Exception as error:
            status = f"{getattr(error, 'kind', error)}"
        what = f"{source_pod} {method} {path}: why says {answer['verdict']} ({answer['reason']}), the request got {status}"
        self.assertEqual(answer["verdict"] == "allow", status == 200, what)
        if answer["verdict"] == "deny":
            def written():
                counted = {r for r, n in self.waypoint_refusals().items() if n > refused.get(r, 0)}
                # What refuses may be the pod's node, and what it refuses is then the waypoint.
                sources = self.mesh.ip(source_pod), self.mesh.ip("mesh/waypoint")
                return counted | self.reasons_since(before, *sources)
            self.mesh.until(what + "; reason written", written, lambda reasons: answer["reason"] in reasons)
        return answer["verdict"]

    def test_why_says_what_a_connection_gets(self):
        seed = int(os.environ.get("QANAT_SEED", "20261122"))
        rng = random.Random(seed)
        counts = {"allow": 0, "deny": 0}
        for number in range(SETS):
            self.apply(rng, number)
            for question in range(QUESTIONS):
                with self.subTest(seed=seed, set=number, question=question):
                    source_pod = rng.choice(SOURCES)
                    if rng.random() < 0.35:
                        # The waypoint is asked by pods of the mesh; others reach pods past it.
                        source_pod = rng.choice(SOURCES[:4])
                        verdict = self.l7(source_pod, rng.choice(["GET", "POST"]),
                                          rng.choice(["/api/items", "/public/x", "/admin/x", "/other"]))
                    else:
                        target = rng.choice([t for t in TARGETS if t != source_pod])
                        verdict = self.l4(source_pod, target, rng.choice([9000, 9001, 8080]))
                    counts[verdict] += 1
        self.assertEqual(sum(counts.values()), SETS * QUESTIONS)
        # Both answers must really occur, or the test shows nothing.
        self.assertGreater(min(counts.values()), SETS * QUESTIONS // 10, counts)


if __name__ == "__main__":
    unittest.main(verbosity=2)
