#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""After uninstall nothing of ours is left, on the nodes and in the API, and what is others' is as it was; the search
finds what is planted. On the way: of all that our accounts may do nothing is unused."""
import json
import subprocess
import unittest

import audit
import inventory
from harness import GATEWAY, SECURITY, SYSTEM, UNLABELLED, MeshBench
from bed import http_get, outcome
from fixture import APPS, WEB, authorization, waypoint

GROUP = "$(findmnt -n -o TARGET -t cgroup2 | head -n 1)"
LINK = ("echo 'char _license[] __attribute__((section(\"license\"))) = \"GPL\";"
        "__attribute__((section(\"cgroup/connect4\"))) int planted(void* context) { return 1; }' |"
        " clang-19 -O2 -target bpf -x c -c - -o /tmp/planted.o && bpftool prog load /tmp/planted.o /sys/fs/bpf/planted && "
        f"bpftool cgroup attach {GROUP} connect4 pinned /sys/fs/bpf/planted && rm /sys/fs/bpf/planted /tmp/planted.o")
UNLINK = f"bpftool cgroup detach {GROUP} connect4 id $(bpftool prog show name planted | sed -n '1s/:.*//p')"
# Each of these is something an uninstall could forget. {name: (what is said of it, how to plant, how to take away)}
ON_A_NODE = {
    "a plugin binary": ("file /opt/cni/bin/qanat-cni", "touch /opt/cni/bin/qanat-cni", "rm /opt/cni/bin/qanat-cni"),
    "a file beside the CNI configuration": ("file /etc/cni/net.d/00-", "touch /etc/cni/net.d/00-qanat.conflist",
                                            "rm /etc/cni/net.d/00-qanat.conflist"),
    "an entry in the CNI chain": ('"type":"qanat-cni"', "sed -i 's/\"plugins\": \\[/&{\"type\": \"qanat-cni\"},/' /etc/cni/net.d/10-testbed.conflist",
                                  "sed -i 's/{\"type\": \"qanat-cni\"},//' /etc/cni/net.d/10-testbed.conflist"),
    "a pinned map": ("file /sys/fs/bpf/qanat/left",
                     "mkdir -p /sys/fs/bpf/qanat && bpftool map create /sys/fs/bpf/qanat/left type array key 4 value 4 entries 1 name left",
                     "rm -r /sys/fs/bpf/qanat"),
    "a program at the node's control group": ("bpf connect4 planted|bpf cgroup_inet4_connect planted", LINK, UNLINK),
    "a cache": ("file /var/lib/qanat/pods-cache", "mkdir -p /var/lib/qanat && touch /var/lib/qanat/pods-cache", "rm -r /var/lib/qanat"),
    "a socket's folder": ("file /run/ztunnel", "mkdir -p /run/ztunnel", "rmdir /run/ztunnel"),
    "a table of nftables": ("node network table inet qanat", "nft add table inet qanat", "nft delete table inet qanat"),
    "a rule": ("node network .*fwmark 0x539", "ip rule add fwmark 0x539 lookup 15001", "ip rule del fwmark 0x539 lookup 15001"),
    "a route": ("node network local default.*15001", "ip route add local 0.0.0.0/0 dev lo table 15001", "ip route flush table 15001"),
}
IN_A_POD = {
    "a rule": ("mesh/near network .*fwmark 0x111", "ip rule add pref 101 fwmark 0x111 lookup 101", "ip rule del pref 101"),
    "a rule of IPv6": ("mesh/near network .*fwmark 0x111", "ip -6 rule add pref 101 fwmark 0x111 lookup 101", "ip -6 rule del pref 101"),
    "a route": ("mesh/near network local default.* table 101", "ip route add local 0.0.0.0/0 dev lo table 101", "ip route flush table 101"),
    "a table of nftables": ("mesh/near network table inet left", "nft add table inet left", "nft delete table inet left"),
}
LEFT = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "left", "namespace": "default"}}
LEFT_CONDITION = {"type": "istio.io/WaypointBound", "status": "True", "reason": "WaypointAccepted", "message": ""}
BY_US = {"app.kubernetes.io/part-of": "qanat"}
IN_THE_API = {
    "a ConfigMap": LEFT,
    "a labelled ServiceAccount": {**LEFT, "kind": "ServiceAccount", "metadata": {**LEFT["metadata"], "labels": BY_US}},
    "a Lease": {**LEFT, "apiVersion": "coordination.k8s.io/v1", "kind": "Lease"},
    "a ServiceAccount": {**LEFT, "kind": "ServiceAccount"},
    "a ClusterRole": {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "left"}},
}
# Somebody else's definition of a kind that is ours too, and what a user has that outlives us.
CRD = "authorizationpolicies.security.istio.io"
CRD_PATH = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD}"
ROUTE = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: mesh}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules: [{backendRefs: [{name: web-v1, port: 80}]}]
"""
POLICY = authorization("some", "{action: ALLOW, selector: {matchLabels: {app: far}}, rules: [{}]}")
# One of each kind whose status is ours to write and that is not among the above. A ServiceEntry has one only
# if it cannot be understood.
OTHER_KINDS = """
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: each, namespace: mesh}, spec: {mtls: {mode: PERMISSIVE}}}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: each, namespace: mesh}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  jwtRules: [{issuer: someone, jwks: '{"keys": []}'}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: each, namespace: mesh}
spec: {hosts: [web-v2], http: [{route: [{destination: {host: web-v2}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: each, namespace: mesh}
spec: {host: web-v2, subsets: [{name: all, labels: {app: web}}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: each, namespace: mesh}
spec: {hosts: [far.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 10.244.9.9, weight: 2000000}]}
"""


class Uninstall(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bench = bench = MeshBench("uninstall").up()
        namespaces = UNLABELLED.split("\n---")
        # the root namespace is for the installation to make, and to take away
        bench.apply("\n---".join(each for each in namespaces if "istio-system" not in each) + "\n---\n" + APPS)
        bench.wait_ready(mesh=4, plain=2)

    @classmethod
    def tearDownClass(cls):
        cls.bench.down()

    def nothing_left(self, before, said=""):
        """Within some seconds: what others do about objects that are gone takes them a moment."""
        left = set()

        def look():
            nonlocal left
            left = inventory.take(self.bench) - before
            return not left
        try:
            self.bench.wait("nothing is left", look, 60)
        except AssertionError:
            self.fail("left behind:\n  " + "\n  ".join(sorted(left)) + f"\n{said}")

    def finds(self, before, what, said, plant, remove):
        plant()
        try:
            self.assertRegex("\n".join(inventory.take(self.bench) - before), said, f"{what} was not found")
        finally:
            remove()

    def test_1_the_search_finds_what_is_planted(self):
        bench, pid = self.bench, self.bench.container("mesh/near")[0]
        in_pod = ["nsenter", f"--net=/proc/{pid}/ns/net", "sh", "-c"]
        before = inventory.take(bench)
        for what, (said, plant, remove) in ON_A_NODE.items():
            self.finds(before, what, said, lambda: bench.on_node(1, "sh", "-c", plant), lambda: bench.on_node(1, "sh", "-c", remove))
        for what, (said, plant, remove) in IN_A_POD.items():
            self.finds(before, f"{what} in a pod", said, lambda: subprocess.run([*in_pod, plant], check=True),
                       lambda: subprocess.run([*in_pod, remove], check=True))
        for what, each in IN_THE_API.items():
            text = json.dumps(each)
            self.finds(before, what, f"{each['kind'].lower()}s .*left", lambda: bench.apply(text), lambda: bench.kubectl(
                "delete", "-f", "-", input=text))
        annotate = lambda change: bench.kubectl("annotate", "namespace", "default", f"qanat.io/left{change}")
        self.finds(before, "an annotation", "carries qanat.io/left", lambda: annotate("=1"), lambda: annotate("-"))
        field = lambda **labels: bench.kubectl(
            "apply", "--server-side", "--field-manager=qanat-controlplane", "-f", "-", input=json.dumps(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", **labels}}))
        self.finds(before, "a field that we own", "has fields of qanat-controlplane", lambda: field(labels={"left": "1"}), field)
        status = lambda conditions: bench.kubectl("patch", "service", "kubernetes", "--subresource=status", "--type=merge", "-p", json.dumps(
            {"status": {"conditions": conditions}}))
        self.finds(before, "a status that nobody owns", "services default/kubernetes has the status .*Bound", lambda: status(
            [{**LEFT_CONDITION, "lastTransitionTime": "2026-01-01T00:00:00Z"}]), lambda: status([]))
        self.assertEqual(inventory.take(bench) - before, set(), "still found")

    def make_others_crd(self):
        """A definition as an Istio's chart would have brought it: its own labels, and a mark."""
        ours = next(each for each in self.bench.ctl("manifests").stdout.split("\n---\n") if f"\n  name: {CRD}\n" in each)
        crd = json.loads(self.bench.kubectl("create", "--dry-run=client", "-o", "json", "-f", "-", input=ours).stdout)
        crd["metadata"].update(labels={"app": "istio-pilot"}, annotations={"example.org/mark": "theirs"})
        self.bench.kubectl("apply", "--server-side", "--field-manager=helm", "-f", "-", input=json.dumps(crd))
        self.bench.wait("the kind is served", lambda: self.bench.get(f"{SECURITY}/mesh/authorizationpolicies"))

    def our_accounts_use_what_they_may(self, rules):
        self.assertGreater(len(rules), 40, "the look at roles finds nothing")
        seen, refused = audit.asked(self.bench)
        self.assertEqual(refused, set(), "asked for what no role gives")
        self.assertEqual(audit.unused(rules, seen), set(), "a role gives what nobody has asked for")

    def use_everything(self):
        """What makes our accounts use each of their rights: a status of each kind, a Gateway that stops being
        a waypoint, an agent that is replaced."""
        bench = self.bench
        bench.apply(OTHER_KINDS)
        for path in (f"{SECURITY}/mesh/peerauthentications", f"{SECURITY}/mesh/requestauthentications", f"{SECURITY}/mesh/authorizationpolicies",
                     *(f"/apis/networking.istio.io/v1/namespaces/mesh/{kind}" for kind in
                       ("virtualservices", "destinationrules", "serviceentries")), f"{GATEWAY}/mesh/httproutes"):
            bench.wait(f"{path} has a status", lambda: all("status" in each for each in bench.get(path)["items"]), 30)
        second = waypoint("mesh", "qanat-waypoint").replace("name: waypoint", "name: second")
        bench.apply(second)
        deployment = lambda: bench.get("/apis/apps/v1/namespaces/mesh/deployments/second")
        bench.wait("a second waypoint", deployment)
        bench.apply(second.replace("qanat-waypoint", "somebody-elses"))
        bench.wait("it is none any more", lambda: deployment() is None)
        bench.delete(second)
        agent, = bench.part("qanat-agent", 1)
        bench.kubectl("delete", "pod", "-n", SYSTEM, agent)
        bench.wait("the next agent is ready", lambda: bench.part("qanat-agent", 1) and bench.ready(SYSTEM, "app=qanat-agent", 2))

    def test_2_uninstall_leaves_nothing(self):
        bench = self.bench
        self.make_others_crd()
        bench.apply(WEB + ROUTE + "---" + POLICY)
        bench.wait_ready(mesh=6)
        before, started, crd = inventory.take(bench), bench.restarts("mesh"), bench.get(CRD_PATH)
        failed_probes = bench.probe_failures("mesh", started)
        bench.install()
        bench.label("mesh")
        bench.wait("pods enrolled", lambda: bench.enrolled("mesh"))
        bench.wait("the waypoint runs", lambda: bench.ready("mesh", count=7))
        bench.wait("web answers", lambda: bench.call("mesh/client", http_get, "web.mesh", 80)[0] == 200)
        self.use_everything()
        found = "\n".join(inventory.take(bench) - before)
        for part in ("namespaces /istio-system$", "mesh/near network", "bpf .*qanat_connect4", "httproutes mesh/web has fields of qanat-controlplane",
                     "gateways mesh/waypoint has fields", "services mesh/web has fields", "authorizationpolicies mesh/some has fields",
                     "serviceentries mesh/each has the status .*Understood"):
            self.assertRegex(found, f"(?m){part}", "the search must find what is installed")
        self.assertEqual(bench.get(CRD_PATH), crd, "somebody else's definition was changed")
        rules = audit.granted(bench)

        bench.label("mesh", None)
        said = bench.ctl("uninstall", "--purge").stdout
        bench.wait("the namespace is gone", lambda: bench.get(f"/api/v1/namespaces/{SYSTEM}") is None)
        bench.wait("the waypoint is gone", lambda: len(bench.pods("mesh")) == 6)
        self.nothing_left(before, said)
        self.assertEqual(bench.get(CRD_PATH), crd, "somebody else's definition was changed")
        self.assertEqual(bench.restarts("mesh"), started, "a pod was restarted")
        self.assertEqual(bench.probe_failures("mesh", started), failed_probes)
        for target in ("mesh/near", "mesh/far"):
            self.assertEqual(bench.call("mesh/client", outcome, bench.ip(target), 9000), "ok")
        self.our_accounts_use_what_they_may(rules)

    def test_3_uninstall_with_pods_still_enrolled(self):
        """No unlabelling first: pods go on in the clear, as an uninstall must say, and not cut off. What a user has put
        into the root namespace keeps it."""
        bench = self.bench
        before, crd = inventory.take(bench), bench.get(CRD_PATH)
        bench.install()
        bench.apply(bench.ctl("manifests").stdout)  # the other way of an upgrade
        bench.label("mesh")
        bench.wait("pods enrolled", lambda: bench.enrolled("mesh"))
        bench.kubectl("create", "configmap", "team", "-n", "istio-system")
        done = bench.ctl("uninstall", "--purge", "--force", check=False)
        self.assertIn("Namespace istio-system stays, it is yours: ConfigMap team is in it", done.stdout)
        bench.label("mesh", None)
        bench.wait("the namespace is gone", lambda: bench.get(f"/api/v1/namespaces/{SYSTEM}") is None)
        bench.wait("client reaches far", lambda: bench.call("mesh/client", outcome, bench.ip("mesh/far"), 9000) == "ok")
        self.assertEqual(bench.get(CRD_PATH), crd, "somebody else's definition was changed")
        left = {line for line in inventory.objects(bench) - before if "istio-system" in line}
        kept = ("configmaps istio-system/team", "configmaps istio-system/kube-root-ca.crt", "serviceaccounts istio-system/default",
                "namespaces /istio-system")
        self.assertEqual(left, {f"object /api/v1/{each}" for each in kept})
        bench.kubectl("delete", "namespace", "istio-system")
        self.nothing_left(before)


if __name__ == "__main__":
    unittest.main(verbosity=2)
