#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each part killed alone: the mesh recovers, and never opens. Renewal and live changes under load."""
import concurrent.futures
import os
import shutil
import signal
import subprocess
import time
import unittest

from bed import Mesh, MeshCase, cgroup2, http_get, outcome, own_name
from fixture import APPS, NAMESPACES, WEB, authorization

ALLOW_CLIENT = authorization("only-client", """
  action: ALLOW
  selector: {matchLabels: {app: far}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/client"]}}]
""")


def keep_trying(host, port, seconds, pause):
    """New connections all the time, three at least; the outcomes, counted, and the longest wait."""
    counts, longest, begin = {}, 0.0, time.monotonic()
    while sum(counts.values()) < 3 or time.monotonic() - begin < seconds:
        start = time.monotonic()
        how = outcome(host, port, b"ping", 10)
        longest = max(longest, time.monotonic() - start)
        counts[how] = counts.get(how, 0) + 1
        time.sleep(pause)
    return counts, longest


class Resilience(MeshCase):
    files = {"base.yaml": NAMESPACES + "---\n" + APPS + "\n---\n" + WEB, "policy.yaml": ALLOW_CLIENT}
    # Certificates live for 20 s here, so that several renewals fall into the test.
    environment = {"SECRET_TTL": "20s"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.mesh.wait("the policy holds", lambda: cls.mesh.call("mesh/near", outcome, cls.mesh.ip("mesh/far"), 9000) != "ok")

    def load(self, pool, source="mesh/client", target="mesh/far", seconds=8.0):
        return pool.submit(self.mesh.call, source, keep_trying, self.mesh.ip(target), 9000, seconds, 0.01, timeout=90)

    def to_far(self, source):
        return self.mesh.call(source, outcome, self.mesh.ip("mesh/far"), 9000)

    def all_ok(self, future, what):
        counts, longest = future.result()
        self.assertEqual(set(counts), {"ok"}, f"{what}: {counts}, the longest took {longest:.1f} s")

    def recovered(self, program, old_pid):
        self.mesh.wait(f"{program} runs again", lambda: self.mesh.program_pid(program) != old_pid)
        self.mesh.until("client reaches far", lambda: self.to_far("mesh/client"), "ok")
        self.assertNotEqual(self.to_far("mesh/near"), "ok", "the policy does not let near in")

    def never_open(self, future):
        counts, _ = future.result()
        self.assertNotIn("ok", counts, f"a refused identity got through: {counts}")
        self.assertGreater(sum(counts.values()), 2, f"too few attempts to say anything: {counts}")

    def readiness(self):
        status, _, body = self.mesh.admin("node1", "/healthz/ready", 15021)
        return status, body.decode()

    def test_agent_killed(self):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            good, bad = self.load(pool), self.load(pool, "mesh/near")
            time.sleep(1)
            with self.mesh.supervisor_stopped():
                old = self.mesh.kill("agent-node1")
                status, text = self.mesh.until("its proxy tells", self.readiness, lambda seen: "away" in seen[1])
                self.assertEqual((status, text.partition("\n")[0]), (200, "ready"), "who serves stays ready")
            self.all_ok(good, "the death of the agent cost a connection")
            self.never_open(bad)
        self.recovered("agent-node1", old)
        self.mesh.until("its proxy tells no more", self.readiness, (200, "ready\n"))
        self.mesh.until("the agent counts it", lambda: "\nztunnel_connected 1\n" in self.mesh.admin("node1", "/metrics", 15030)[2].decode(), True)

    def test_ztunnel_killed(self):
        for program in ("ztunnel-node1", "ztunnel-node2"):
            with concurrent.futures.ThreadPoolExecutor() as pool:
                good, bad = self.load(pool), self.load(pool, "mesh/near")
                time.sleep(1)
                old = self.mesh.kill(program)
                self.never_open(bad)
                good.result()  # may fail while the proxy is away, must end
            self.recovered(program, old)

    def test_control_plane_killed(self):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            good, bad = self.load(pool), self.load(pool, "mesh/near")
            time.sleep(1)
            old = self.mesh.kill("controlplane")
            self.all_ok(good, "the death of the control plane cost a connection")
            self.never_open(bad)
        self.recovered("controlplane", old)
        # and changes arrive again
        self.mesh.write("policy.yaml", "# nothing\n")
        self.mesh.until("the change arrives", lambda: self.to_far("mesh/near"), "ok")
        self.mesh.write("policy.yaml", ALLOW_CLIENT)
        self.mesh.until("the change arrives", lambda: self.to_far("mesh/near"), lambda seen: seen != "ok")

    def test_waypoint_killed(self):
        old = self.mesh.kill("waypoint-mesh-waypoint")
        self.mesh.wait("the waypoint runs again", lambda: self.mesh.program_pid("waypoint-mesh-waypoint") != old)
        self.mesh.until("web answers", lambda: self.mesh.call("mesh/client", http_get, "web.mesh.svc.cluster.local", 80)[0], 200)

    def test_certificates_renew_under_load(self):
        def serials():
            import json
            dump = json.loads(self.mesh.admin("node1", "/config_dump")[2])
            return {c["identity"]: c["certChain"][0]["serialNumber"] for c in dump["certificates"] if c.get("certChain")}
        identity = "spiffe://cluster.local/ns/mesh/sa/client"
        before = self.mesh.until("the client has a certificate", serials, lambda seen: identity in seen)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            futures = [self.load(pool, seconds=25), self.load(pool, "mesh/client2", "mesh/client", 25)]
            for future in futures:
                self.all_ok(future, "renewal cost a connection")
        self.mesh.until("it is renewed, or the test says nothing", serials,
                        lambda seen: identity in seen and seen[identity] != before[identity])

    def test_yaml_changes_live(self):
        """A broken file changes nothing and is reported; a mended one applies at once."""
        self.mesh.write("policy.yaml", ALLOW_CLIENT + "\n  - oops: [\n")
        def said():
            return (self.mesh.ctl("policies", "--name", self.mesh.name).stdout +
                    self.mesh.ctl("status", "--name", self.mesh.name, check=False).stdout)
        self.mesh.until("it is reported", said, lambda text: "policy.yaml" in text)
        self.assertNotEqual(self.to_far("mesh/near"), "ok", "last good state")
        self.mesh.write("policy.yaml", ALLOW_CLIENT.replace("sa/client", "sa/server"))
        self.mesh.until("applied", lambda: self.to_far("mesh/near"), "ok")
        self.mesh.write("policy.yaml", ALLOW_CLIENT)
        self.mesh.until("applied", lambda: self.to_far("mesh/near"), lambda seen: seen != "ok")


class Teardown(unittest.TestCase):
    def test_what_is_planted_is_found(self):
        mesh = Mesh(name=own_name("gone"))
        self.assertEqual(mesh.leftovers(), [])
        pins, elsewhere = f"/sys/fs/bpf/qanat/{mesh.name}-node1", f"/sys/fs/bpf/planted{mesh.name}"
        create = "type array key 4 value 4 entries 1 name qanat_planted"
        for plant, remove in (
                (f"ip netns add qanat-{mesh.name}-x", f"ip netns del qanat-{mesh.name}-x"),
                (f"mkdir -p {pins}", f"rmdir {pins}"),
                (f"mkdir {cgroup2()}/qanat-{mesh.name}", f"rmdir {cgroup2()}/qanat-{mesh.name}"),
                (f"mkdir -p {mesh.run}", f"rmdir {mesh.run}"),
                ("ip rule add fwmark 0x53a lookup 101", "ip rule del fwmark 0x53a"),
                ("ip -6 route add local default dev lo table 101", "ip -6 route flush table 101"),
                ("ip link add qanat-planted type bridge", "ip link del qanat-planted")):
            with self.subTest(plant):
                subprocess.run(plant, shell=True, check=True)
                try:
                    self.assertNotEqual(mesh.leftovers(), [])
                finally:
                    subprocess.run(remove, shell=True, check=True)
                self.assertEqual(mesh.leftovers(), [])
        # A map that somebody holds after its names are gone.
        subprocess.run(f"mkdir -p {pins}/maps && bpftool map create {pins}/maps/planted {create} && "
                       f"bpftool map pin pinned {pins}/maps/planted {elsewhere}", shell=True, check=True)
        try:
            self.assertEqual(len(mesh.leftovers()), 2, "its folder and it")
            shutil.rmtree(pins)
            self.assertRegex(" ".join(mesh.leftovers()), r"^map \d+$")
        finally:
            os.unlink(elsewhere)
        mesh.until("nothing is left", mesh.leftovers, [])

    def test_down_leaves_nothing(self):
        mesh = Mesh(name=own_name("gone"))
        mesh.write("base.yaml", NAMESPACES + "---\n" + APPS)
        mesh.up()
        self.assertTrue(mesh.leftovers(), "the check must be able to find something")
        mesh.down(in_order=False)
        mesh.until("nothing is left", mesh.leftovers, [])  # the kernel takes namespaces apart in its own time

    def test_down_after_everything_was_killed(self):
        mesh = Mesh(name=own_name("gone"))
        mesh.write("base.yaml", NAMESPACES + "---\n" + APPS)
        mesh.up()
        pids = [p["pid"] for p in mesh.state()["programs"]]
        with open(f"{mesh.run}/supervisor.pid") as f:
            supervisor = int(f.read())
        os.kill(supervisor, signal.SIGKILL)
        mesh.wait("the supervisor is gone", lambda: not mesh.is_alive(supervisor, "qanatctl"))
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        mesh.down()
        mesh.until("nothing is left", mesh.leftovers, [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
