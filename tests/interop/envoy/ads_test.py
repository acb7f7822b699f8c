# SPDX-License-Identifier: Apache-2.0
"""A stock Envoy in our waypoint's place, told everything by the running control plane over delta
xDS. Usage: ads_test.py QANAT_CONTROLPLANE [unittest arguments]. Needs root."""

import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bed import SHOP, TREE, VIPS, Bed, Caller, shop_files
from control_plane import ControlPlane
from shop_checks import BackendChecks

PROGRAM = None
TESTDATA = os.path.join(TREE, "controlplane/envoy/testdata")

DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: backend}]
  action: DENY
  rules: [{to: [{operation: {paths: ["/api/orders"]}}]}]
"""


def start(name, gateway, namespace, files, overlay=True, clients=()):
    bed = Bed(name, gateway)
    try:
        control = ControlPlane(bed, PROGRAM, files, namespace, overlay)
        control.start()
        bed.certificates(os.path.join(control.ca, "root-cert.pem"), os.path.join(control.ca, "root-key.pem"))
        for add in clients:
            add(bed)
        bed.start_peers()
        bed.start_waypoint(control.bootstrap())
        bed.wait_ready()
    except BaseException:
        bed.close()
        raise
    return bed, control


class Backend(BackendChecks, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bed, cls.control = start("ads", "waypoint", "shop", shop_files(), clients=[cls.add_clients])

    @classmethod
    def tearDownClass(cls):
        cls.bed.close()

    def until(self, what, seconds=60):
        end = time.monotonic() + seconds
        while not what():
            self.assertLess(time.monotonic(), end, "it did not happen in time")
            time.sleep(0.02)

    def test_nothing_was_rejected(self):
        self.assertEqual(self.control.rejected(), {})
        self.assertEqual(self.bed.stats("control_plane.connected_state"),
                         {"control_plane.connected_state": "1"})

    def test_policy_of_a_live_connection(self):
        ask = self.caller(self.FRONTEND)
        self.assertEqual(ask()[0], 200)
        kept = ask.connection
        self.control.write("90-closed.yaml", DENY)
        try:
            self.until(lambda: ask()[0] == 403)
            # It was the same connection all the time: the policy found it, not the other way round.
            self.assertIs(ask.connection, kept)
            self.assertEqual(ask("/api/other")[0], 200)
        finally:
            self.control.remove("90-closed.yaml")
        self.until(lambda: ask()[0] == 200)
        self.assertIs(ask.connection, kept)

    def test_weights_of_a_live_connection(self):
        ask = self.caller(self.FRONTEND)
        with open(os.path.join(SHOP, "42-backend-routes.yaml")) as file:
            routes = file.read()
        changed = routes.replace("weight: 90", "weight: 0").replace("weight: 10\n", "weight: 100\n")
        self.assertNotEqual(routes, changed)
        self.control.write("42-backend-routes.yaml", changed)
        try:
            self.until(lambda: all(ask()[1]["version"] == "v2" for _ in range(30)))
        finally:
            self.control.write("42-backend-routes.yaml", routes)
        self.until(lambda: ask()[1]["version"] == "v1")

    def test_a_pod_that_is_not_ready_gets_nothing(self):
        ask = self.caller(self.FRONTEND)
        path = os.path.join(self.control.overlay, "shop.overlay.yaml")
        with open(path) as file:
            overlay = file.read()
        begin = overlay.index("name: backend-v1-b")
        end = overlay.index("---", begin)
        unready = overlay[begin:end].replace('status: "True"', 'status: "False"')
        self.assertNotEqual(unready, overlay[begin:end])
        self.control.write("shop.overlay.yaml", overlay[:begin] + unready + overlay[end:], overlay=True)
        try:
            self.until(lambda: all(ask()[1]["pod"] != "backend-v1-b" for _ in range(40)))
        finally:
            self.control.write("shop.overlay.yaml", overlay, overlay=True)
        self.until(lambda: ask()[1]["pod"] == "backend-v1-b")

    def test_without_the_control_plane_things_stay(self):
        ask = self.caller(self.FRONTEND)
        self.control.kill()
        try:
            for _ in range(20):
                self.assertEqual(ask()[0], 200)
            self.assertEqual(ask("/admin")[0], 403)
        finally:
            self.control.start()
        self.until(lambda: self.bed.stats("control_plane.connected_state")
                   == {"control_plane.connected_state": "1"})
        self.assertEqual(ask()[0], 200)
        self.assertEqual(self.control.rejected(), {})


class EveryWorld(unittest.TestCase):
    """Whatever the translator can say, Envoy takes it over the wire, one world after the other."""

    def test_goldens(self):
        bed, control = start("worlds", "waypoint", "app", [os.path.join(TESTDATA, "base.yaml")], overlay=False)
        self.addCleanup(bed.close)
        worlds = [f for f in sorted(os.listdir(TESTDATA))
                  if f.endswith(".yaml") and f not in ("base.yaml", "empty.yaml", "shop.overlay.yaml")]
        self.assertGreaterEqual(len(worlds), 5)

        def messages():
            return {name: int(value) for name, value in bed.stats("update_(success|attempt)").items()}

        for file in worlds:
            with self.subTest(file=file):
                before = messages()
                with open(os.path.join(TESTDATA, file)) as text:
                    control.write(file, text.read())
                end = time.monotonic() + 60
                while messages() == before and time.monotonic() < end:
                    time.sleep(0.1)
                self.assertNotEqual(messages(), before, "Envoy was told nothing new")
                time.sleep(1)  # the rest of it
                self.assertEqual(control.rejected(), {}, bed.log("waypoint")[-3000:])
                control.remove(file)
                time.sleep(0.5)


if __name__ == "__main__":
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2, warnings="ignore")
