#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The /etc/resolv.conf that a real kubelet gave each pod beside what our agent and proxy say of it: pods with every
dnsPolicy, their own servers, search lists and options, and lists that are too long."""
import ipaddress
import json
import unittest

from harness import SYSTEM, MeshBench
from bed import http_get
from testbed.tools import read

# What the kubelet passes on of the node: not what it takes by itself.
NODE = """# nameserver 192.0.2.9
search corp.test lan.test.
nameserver 10.96.0.10
nameserver fd96:0:0::a
options timeout:3 ndots:2 rotate
"""
SERVERS = ["203.0.113.5", "2001:db8:0::5", "203.0.113.6"]
MANY = [f"d{i}.test" for i in range(31)]
LONG = [f"{letter * 50}.{letter * 50}.{letter * 50}.{letter * 50}.test" for letter in "abcdefghi"]
PODS = {
    "nothing": {},
    "first": {"dnsPolicy": "ClusterFirst"},
    "default": {"dnsPolicy": "Default"},
    "none": {"dnsPolicy": "None", "dnsConfig": {"nameservers": SERVERS[:2], "searches": ["a.test", "b.test"],
                                                "options": [{"name": "ndots", "value": "3"}, {"name": "edns0"}]}},
    "none-bare": {"dnsPolicy": "None", "dnsConfig": {"nameservers": SERVERS[1:2]}},
    "host-net-policy": {"dnsPolicy": "ClusterFirstWithHostNet"},
    "first-and-more": {"dnsPolicy": "ClusterFirst", "dnsConfig": {
        "nameservers": SERVERS[:1], "searches": ["a.test", "corp.test", "svc.cluster.local"],
        "options": [{"name": "ndots", "value": "1"}, {"name": "use-vc"}]}},
    "default-and-more": {"dnsPolicy": "Default", "dnsConfig": {
        "nameservers": SERVERS[:1], "searches": ["a.test."], "options": [{"name": "timeout", "value": "1"}, {"name": "ndots"}]}},
    "options-only": {"dnsConfig": {"options": [{"name": "ndots", "value": "99"}]}},
    "known-server": {"dnsConfig": {"nameservers": ["10.96.0.10", SERVERS[0]]}},
    "four-servers": {"dnsConfig": {"nameservers": SERVERS}},
    "five-servers": {"dnsPolicy": "Default", "dnsConfig": {"nameservers": SERVERS}},
    "many-domains": {"dnsConfig": {"searches": MANY}},
    "long-domains": {"dnsConfig": {"searches": LONG}},
    "root-domain": {"dnsConfig": {"searches": [".", "_tcp.test"]}},
}


def manifest():
    container = {"name": "app", "image": "localhost/testbed/tests:1", "command": ["python3", "-c", "import time; time.sleep(1e6)"]}
    common = {"terminationGracePeriodSeconds": 0, "nodeName": "node1", "containers": [container]}
    items = [{"apiVersion": "v1", "kind": "Namespace",
              "metadata": {"name": "mesh", "labels": {"istio.io/dataplane-mode": "ambient"}}}]
    items += [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "mesh"}, "spec": {**common, **spec}}
              for name, spec in PODS.items()]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def parse(text):
    """(servers, search list, ndots) of a resolv.conf, as the C library reads it."""
    servers, search, ndots = [], [], 1
    for key, *words in (line.split() for line in text.splitlines() if line.strip() and line[0] not in "#;"):
        if key == "nameserver":
            servers.append(words[0])
        elif key == "search":
            search = words
        elif key == "options":
            for word in words:
                name, _, value = word.partition(":")
                if name == "ndots":
                    ndots = min(int(value or 1), 15)
    return addresses(servers), search, ndots


def addresses(texts):
    return [str(ipaddress.ip_address(text)) for text in texts]


class Dns(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bench = bench = MeshBench("dns", nodes=1).up()
        cls.addClassCleanup(bench.down)
        bench.on_node(1, "sh", "-c", f"printf %s '{NODE}' >/testbed/own/resolv.conf")
        bench.install()
        bench.apply(manifest())
        bench.wait_ready(mesh=len(PODS))
        bench.wait("pods enrolled", lambda: bench.enrolled("mesh"))
        proxy, = bench.part("ztunnel", 1)
        status, _, body = bench.call(f"{SYSTEM}/{proxy}", http_get, "127.0.0.1", 15000, "/debug/dns")
        assert status == 200, body
        cls.held = {entry["name"]: entry for entry in json.loads(body) if entry["namespace"] == "mesh"}

    def test_the_proxy_knows_what_each_pod_was_given(self):
        self.assertEqual(set(self.held), set(PODS))
        for name in PODS:
            with self.subTest(name):
                about = self.bench.pod(f"mesh/{name}")
                text = read(f"/proc/{self.bench.container(f'mesh/{name}')[0]}/root/etc/resolv.conf")
                servers, search, ndots = parse(text)
                told = json.loads(self.bench.on_node(1, "cat", f"/var/run/ztunnel/dns/{about['metadata']['uid']}"))
                self.assertEqual(told["search"], search, text)
                self.assertEqual(told["ndots"], ndots, text)
                self.assertEqual([server["address"] for server in self.held[name]["nameservers"]],
                                 [f"[{ip}]:53" if ":" in ip else f"{ip}:53" for ip in servers], text)
                # a search for the root is no search, and a last dot says nothing
                self.assertEqual(self.held[name]["search"], [domain.removesuffix(".") for domain in search if domain != "."], text)

    def test_these_pods_are_as_different_as_they_should_be(self):
        """That the comparison has something to compare."""
        given = {name: parse(read(f"/proc/{self.bench.container(f'mesh/{name}')[0]}/root/etc/resolv.conf")) for name in PODS}
        self.assertEqual(given["default"], (["10.96.0.10", "fd96::a"], ["corp.test", "lan.test"], 2))
        self.assertEqual(given["nothing"][1][-2:], ["corp.test", "lan.test"])
        self.assertEqual(given["none-bare"], (["2001:db8::5"], [], 1))
        self.assertEqual(len(given["four-servers"][0]), 3)
        self.assertEqual(len(given["many-domains"][1]), 32)
        self.assertGreaterEqual(len({json.dumps(each) for each in given.values()}), 12)


if __name__ == "__main__":
    unittest.main(verbosity=2)
