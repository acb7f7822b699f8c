#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Network, mesh or application: what the kernel recorded of connections, in metrics and in `qanatctl health`, while packets
are lost, while a server is slow, and while nothing is wrong."""
import json
import subprocess
import threading
import unittest

from bed import MeshCase
from fixture import NAMESPACES, once, pod, service
from inside import http_get

PODS = once("".join(pod("mesh", name, name, "node1") + service("mesh", name, {"app": name})
                    for name in ("client", "fine", "slow", "lossy")))


def gets(host, path, times, side_by_side=8):
    """So many requests, each with a connection of its own; how many were answered."""
    answered, todo = [], list(range(times))

    def some():
        while todo:
            try:
                todo.pop()
            except IndexError:
                return
            answered.append(http_get(host, 8080, path, timeout=60)[0])
    threads = [threading.Thread(target=some) for _ in range(side_by_side)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answered.count(200)


def nft(rules):
    return subprocess.run(["nft", "-f", "-"], input=rules, text=True, capture_output=True, check=True).stdout


class Health(MeshCase):
    files = {"base.yaml": NAMESPACES + "---\n" + PODS}

    def health(self, to, source="mesh/client"):
        return json.loads(self.mesh.ctl("health", "--name", self.mesh.name, source, to, "-o", "json").stdout)

    def judged(self, to, samples):
        return self.mesh.until(f"records of {to}", lambda: self.health(to), lambda h: h["samples"] >= samples, 20)

    def test_a_few_connections_are_not_enough(self):
        self.assertEqual(self.mesh.call("mesh/client", gets, self.mesh.ip("mesh/fine"), "/status/200", 3), 3)
        told = self.judged("mesh/fine", 3)
        self.assertEqual(told["verdict"], "not enough")
        self.assertEqual(told["recordsLost"], 0)
        text = self.mesh.ctl("health", "--name", self.mesh.name, "mesh/client", "mesh/fine").stdout
        self.assertIn("not enough", text)

    def test_a_slow_server_is_the_application(self):
        self.assertEqual(self.mesh.call("mesh/client", gets, self.mesh.ip("mesh/slow"), "/slow/0.3", 24), 24)
        told = self.judged("mesh/slow", 24)
        self.assertEqual(told["verdict"], "application", told)
        self.assertGreater(told["applicationUs"], 250000)
        self.assertLess(told["applicationUs"], 2000000)
        metrics = self.mesh.admin("node1", "/metrics", 15030)[2].decode()
        pair = 'source_principal="spiffe://cluster.local/ns/mesh/sa/client",destination_principal="spiffe://cluster.local/ns/mesh/sa/slow"'
        told = [line for line in metrics.splitlines() if pair in line]
        for wanted in ('qanat_tcp_connections_total{reporter="source"', 'qanat_tcp_connections_total{reporter="destination"',
                       'qanat_tcp_response_seconds_bucket{reporter="destination"', 'qanat_tcp_retransmits_total{'):
            self.assertTrue([line for line in told if line.startswith(wanted)], (wanted, told))
        self.assertIn("\nqanat_tcp_records_lost_total 0\n", metrics)

    def test_lost_packets_are_the_network(self):
        # Of what the pod gets from there, on its way from the server's pod.
        self.mesh.call("mesh/client", nft, f"""
            table inet lossy {{
              chain incoming {{
                type filter hook input priority 0;
                iifname eth0 ip saddr {self.mesh.ip("mesh/lossy")} numgen random mod 6 == 0 drop;
              }}
            }}
            """)
        try:
            self.assertEqual(self.mesh.call("mesh/client", gets, self.mesh.ip("mesh/lossy"), "/bytes/300000", 40, timeout=150), 40)
        finally:
            self.mesh.call("mesh/client", nft, "delete table inet lossy")
        told = self.judged("mesh/lossy", 40)
        self.assertEqual(told["verdict"], "network", told)
        self.assertGreater(told["server"]["retransmits"], 10)

    def test_by_the_services_name(self):
        address = json.loads(self.mesh.ctl("services", "--name", self.mesh.name, "-o", "json").stdout)
        vip = next(a.split("/")[-1] for s in address if s["name"] == "fine" for a in s["vips"] if ":" not in a)
        before = self.health("fine.mesh")["samples"]

        def get(host):
            return http_get(host, 80, "/status/200")[0]
        for _ in range(21):
            self.assertEqual(self.mesh.call("mesh/client", get, vip), 200)
        told = self.judged("fine.mesh", before + 21)
        self.assertNotEqual(told["verdict"], "not enough")
        self.assertEqual(told["client"]["failed"], 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
