# SPDX-License-Identifier: Apache-2.0
"""A pod that calls a service whose endpoint is itself, under the stock agent's rules. The reference, section 1.4:
HBONE to the own address over lo, and no borrowed source."""
import socket
import unittest

import netns
from ads import ADDRESS, AUTHORIZATION, policy, service, workload
from bed import TRUST, Bed, Case, until
from hbone import App, echo, outcome

SELF = f"{TRUST}/ns/near/sa/client"


class Hairpin(Case):
    def setUp(self):
        bed = self.use(Bed(pods=("client",)))
        self.pod = bed.pods["client"]
        own = service("own", "near", "10.96.0.8", {80: 7000})
        own[1]["service"]["addresses"].append({"address": socket.inet_pton(socket.AF_INET6, "fd96::8"), "length": 128})
        bed.ads.resources[ADDRESS] = dict([own, workload(
            "client", "near", "client", self.pod, services={own[0]: {"ports": [{"service_port": 80, "target_port": 7000}]}})])
        # It is itself, by its certificate, and may be let in or not like everybody.
        bed.ads.resources[AUTHORIZATION] = dict([policy("itself", "near", 0, {"principals": [{"exact": SELF.removeprefix("spiffe://")}]})])
        netns.run(["ip", "netns", "exec", self.pod.name, "sysctl", "-qw", "net.ipv6.bindv6only=1"])
        self.apps = {address: App(self.pod.name, address, 7000, echo) for address in ("0.0.0.0", "::")}
        bed.closers += self.apps.values()
        bed.start().enrol()
        until("the pod has its certificate", lambda: self.echo("10.96.0.8") == b"hello")

    def echo(self, address, data=b"hello", port=80):
        return outcome(self.pod.name, address, port, data)

    def closed(self, reporter):
        lines = self.bed.get(15020, "/metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("istio_tcp_connections_closed_total{")
                   and f'reporter="{reporter}"' in line and f'source_principal="{SELF}"' in line
                   and f'destination_principal="{SELF}"' in line and 'security_policy="mutual_tls"' in line)

    def test_its_own_service(self):
        big = bytes(range(256)) * 20000
        before = len(self.apps["0.0.0.0"].sources)
        for _ in range(20):
            self.assertEqual(self.echo("10.96.0.8"), b"hello")
        self.assertEqual(self.echo("10.96.0.8", big), big)
        self.assertEqual(self.echo("fd96::8", big), big)
        # The application sees the pod itself, as without a mesh.
        sources = self.apps["0.0.0.0"].sources
        self.assertEqual(len(sources) - before, 21)
        self.assertEqual({source[0] for source in sources}, {self.pod.ip})
        self.assertEqual({source[0] for source in self.apps["::"].sources}, {self.pod.ip6})
        for reporter in ("source", "destination"):
            until(f"counted by the {reporter}", lambda: self.closed(reporter) >= 22)

    def test_its_own_address_is_not_captured(self):
        self.assertEqual(self.echo(self.pod.ip, port=7000), b"hello")
        self.assertEqual(self.echo("127.0.0.1", port=7000), b"hello")

    def test_it_may_be_denied_to_itself(self):
        self.bed.ads.push(AUTHORIZATION, dict([policy("not-itself", "near", 1, {"principals": [{"exact": SELF.removeprefix("spiffe://")}]})]))
        self.assertEqual(self.echo("10.96.0.8"), "reset")

    def test_nobody_listens(self):
        for app in self.apps.values():
            app.close()
        self.bed.closers.clear()
        self.assertEqual(self.echo("10.96.0.8"), "reset")


if __name__ == "__main__":
    unittest.main(verbosity=2)
