# SPDX-License-Identifier: Apache-2.0
"""A stock Envoy serves the shop on what the translator (controlplane/envoy) says, given to it as a
static bootstrap. Usage: shop_test.py BOOTSTRAP_PROGRAM [unittest arguments]. Needs root."""

import os
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bed import OVERLAY, TREE, VIPS, Bed, Caller, shop_files
from shop_checks import BackendChecks, check_canary

PROGRAM = None
TESTDATA = os.path.join(TREE, "controlplane/envoy/testdata")


def write_bootstrap(bed, gateway, overlay, files):
    path = os.path.join(bed.directory, "waypoint.pb")
    subprocess.run([PROGRAM, path, gateway, bed.authority.dir, overlay, *files], check=True)
    return path


class Validate(unittest.TestCase):
    """Every golden world is a configuration that Envoy takes."""

    def test_goldens(self):
        bed = Bed("validate", "waypoint")
        self.addCleanup(bed.close)
        bed.certificates()
        base = os.path.join(TESTDATA, "base.yaml")
        worlds = [("shop/waypoint", OVERLAY, shop_files()), ("shop/payments-waypoint", OVERLAY, shop_files()),
                  ("app/waypoint", "-", [os.path.join(TESTDATA, "empty.yaml")])]
        for file in sorted(os.listdir(TESTDATA)):
            if file.endswith(".yaml") and file not in ("base.yaml", "empty.yaml", "shop.overlay.yaml"):
                worlds.append(("app/waypoint", "-", [base, os.path.join(TESTDATA, file)]))
        self.assertGreaterEqual(len(worlds), 7)
        for gateway, overlay, files in worlds:
            with self.subTest(gateway=gateway, file=os.path.basename(files[-1])):
                path = write_bootstrap(bed, gateway, overlay, files)
                result = subprocess.run([bed.envoy, "--mode", "validate", "-c", path, "-l", "error"],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                self.assertEqual(result.returncode, 0, result.stdout)


class Backend(BackendChecks, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bed = Bed("backend", "waypoint")
        cls.bed.certificates()
        cls.add_clients(cls.bed)
        cls.bed.start_peers()
        cls.bed.start_waypoint(write_bootstrap(cls.bed, "shop/waypoint", OVERLAY, shop_files()))
        cls.bed.wait_ready()

    @classmethod
    def tearDownClass(cls):
        cls.bed.close()


class Payments(unittest.TestCase):
    """The other waypoint: an HTTPRoute over Services that are not bound to it."""

    @classmethod
    def setUpClass(cls):
        cls.bed = Bed("payments", "payments-waypoint")
        cls.bed.certificates()
        cls.bed.client(9001, "backend", VIPS["payments"] + ":80")
        cls.bed.client(9002, "frontend", VIPS["payments"] + ":80")
        cls.bed.start_peers()
        cls.bed.start_waypoint(write_bootstrap(cls.bed, "shop/payments-waypoint", OVERLAY, shop_files()))
        cls.bed.wait_ready()

    @classmethod
    def tearDownClass(cls):
        cls.bed.close()

    def test_canary_is_ten_percent(self):
        check_canary(self, lambda: Caller(9001, "payments"), "/api/ping")

    def test_policy(self):
        backend, frontend = Caller(9001, "payments"), Caller(9002, "payments")
        self.assertEqual(backend("/api/ping")[0], 200)
        self.assertEqual(backend("/admin")[0], 403)
        self.assertEqual(backend("/admin/x")[0], 403)
        self.assertEqual(frontend("/api/ping")[0], 403)


class Tcp(unittest.TestCase):
    """Policy on identities alone, for a protocol that is not HTTP."""

    def test_policy(self):
        bed = Bed("tcp", "waypoint")
        self.addCleanup(bed.close)
        bed.pods = {"db-0": ("database", "backend", "v1", "10.91.1.5")}
        bed.certificates()
        bed.client(9001, "frontend", "10.96.0.50:5432")
        bed.client(9002, "loadgen", "10.96.0.50:5432")
        world = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tcp.yaml")
        bed.start_peers()
        bed.start_waypoint(write_bootstrap(bed, "shop/waypoint", "-", [world]))
        bed.wait_ready()
        with socket.create_connection(("127.0.0.1", 9001), 60) as allowed:
            self.assertTrue(allowed.recv(100).startswith(b"220 "))
            allowed.sendall(b"INCR key\n")
            self.assertEqual(allowed.recv(100), b"250 1\r\n")
        # A stock Envoy asks the policy at the client's first bytes: the greeting may have come by
        # then, an answer never does.
        with socket.create_connection(("127.0.0.1", 9002), 60) as denied:
            denied.sendall(b"INCR key\n")
            answer = b""
            try:
                while data := denied.recv(100):
                    answer += data
            except ConnectionResetError:
                pass
            self.assertNotIn(b"250", answer)
        with socket.create_connection(("127.0.0.1", 9001), 60) as allowed:
            allowed.recv(100)
            allowed.sendall(b"GET key\n")
            self.assertEqual(allowed.recv(100), b"250 1\r\n")


class WrongIdentity(unittest.TestCase):
    """A pod's address answers with somebody else's certificate: nothing is sent to it."""

    def test_it_gets_no_request(self):
        bed = Bed("identity", "waypoint")
        self.addCleanup(bed.close)
        bed.certificates()
        bed.client(9001, "frontend", VIPS["backend"] + ":80")
        bed.start_peers(wrong_identity=("backend-v2-a",))
        bed.start_waypoint(write_bootstrap(bed, "shop/waypoint", OVERLAY, shop_files()))
        bed.wait_ready()
        ask = Caller(9001, "backend")
        for _ in range(5):
            self.assertEqual(ask(headers={"canary": "true"})[0], 503)
        # Those who are who they should be still serve.
        self.assertEqual(ask("/api/slow?seconds=0")[0], 200)


if __name__ == "__main__":
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2, warnings="ignore")
