#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each part killed alone: the mesh recovers, and never opens. Renewal and live changes under load."""
import concurrent.futures
import os
import signal
import subprocess
import time
import unittest

from bed import BIN, Mesh, connect, http_get, outcome
from fixture import APPS, NAMESPACES, WEB, authorization

ALLOW_CLIENT = authorization("only-client", """
  action: ALLOW
  selector: {matchLabels: {app: far}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/client"]}}]
""")


def keep_trying(host, port, seconds, pause):
    """New connections all the time; the outcomes, counted, and the longest wait."""
    counts, longest = {}, 0.0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.monotonic()
        how = outcome(host, port, b"ping", 10)
        longest = max(longest, time.monotonic() - start)
        counts[how] = counts.get(how, 0) + 1
        time.sleep(pause)
    return counts, longest


class Resilience(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Certificates live for 20 s here, so that several renewals fall into the test.
        cls.mesh = Mesh(environment={"SECRET_TTL": "20s"})
        cls.mesh.write("base.yaml", NAMESPACES + "---\n" + APPS + "\n---\n" + WEB)
        cls.mesh.write("policy.yaml", ALLOW_CLIENT)
        cls.mesh.up()
        cls.mesh.wait("the policy holds", lambda: cls.mesh.call("mesh/near", outcome, cls.mesh.ip("mesh/far"), 9000) != "ok")

    @classmethod
    def tearDownClass(cls):
        cls.mesh.down()

    def kill(self, program):
        pid = self.mesh.program_pid(program)
        os.kill(pid, signal.SIGKILL)
        return pid

    def load(self, pool, source="mesh/client", target="mesh/far", seconds=8.0):
        return pool.submit(self.mesh.call, source, keep_trying, self.mesh.ip(target), 9000, seconds, 0.01, timeout=90)

    def recovered(self, program, old_pid):
        self.mesh.wait(f"{program} runs again", lambda: self.mesh.program_pid(program) != old_pid, 30)
        self.mesh.wait("client reaches far", lambda: self.mesh.call("mesh/client", outcome, self.mesh.ip("mesh/far"), 9000) == "ok", 30)
        self.assertNotEqual(self.mesh.call("mesh/near", outcome, self.mesh.ip("mesh/far"), 9000), "ok")

    def never_open(self, future):
        counts, _ = future.result()
        self.assertNotIn("ok", counts, "a refused identity got through")
        self.assertGreater(sum(counts.values()), 2)

    def test_agent_killed(self):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            good, bad = self.load(pool), self.load(pool, "mesh/near")
            time.sleep(1)
            old = self.kill("agent-node1")
            counts, _ = good.result()
            self.assertEqual(set(counts), {"ok"}, "the death of the agent cost a connection")
            self.never_open(bad)
        self.recovered("agent-node1", old)

    def test_ztunnel_killed(self):
        for program in ("ztunnel-node1", "ztunnel-node2"):
            with concurrent.futures.ThreadPoolExecutor() as pool:
                good, bad = self.load(pool), self.load(pool, "mesh/near")
                time.sleep(1)
                old = self.kill(program)
                self.never_open(bad)
                good.result()  # may fail while the proxy is away, must end
            self.recovered(program, old)

    def test_control_plane_killed(self):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            good, bad = self.load(pool), self.load(pool, "mesh/near")
            time.sleep(1)
            old = self.kill("controlplane")
            counts, _ = good.result()
            self.assertEqual(set(counts), {"ok"}, "the death of the control plane cost a connection")
            self.never_open(bad)
        self.recovered("controlplane", old)
        # and changes arrive again
        self.mesh.write("policy.yaml", "# nothing\n")
        self.mesh.wait("the change arrives", lambda: self.mesh.call("mesh/near", outcome, self.mesh.ip("mesh/far"), 9000) == "ok", 30)
        self.mesh.write("policy.yaml", ALLOW_CLIENT)
        self.mesh.wait("the change arrives", lambda: self.mesh.call("mesh/near", outcome, self.mesh.ip("mesh/far"), 9000) != "ok", 30)

    def test_waypoint_killed(self):
        old = self.kill("waypoint-mesh-waypoint")
        self.mesh.wait("the waypoint runs again", lambda: self.mesh.program_pid("waypoint-mesh-waypoint") != old, 30)
        self.mesh.wait("web answers", lambda: self.mesh.call("mesh/client", http_get, "web.mesh.svc.cluster.local", 80)[0] == 200, 30)

    def test_certificates_renew_under_load(self):
        def serials():
            import json
            dump = json.loads(self.mesh.admin("node1", "/config_dump")[2])
            return {c["identity"]: c["certChain"][0]["serialNumber"] for c in dump["certificates"] if c.get("certChain")}
        before = serials()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            futures = [self.load(pool, seconds=25), self.load(pool, "mesh/client2", "mesh/client", 25)]
            for future in futures:
                counts, _ = future.result()
                self.assertEqual(set(counts), {"ok"})
        after = serials()
        identity = "spiffe://cluster.local/ns/mesh/sa/client"
        self.assertNotEqual(before[identity], after[identity], "nothing was renewed, the test says nothing")

    def test_yaml_changes_live(self):
        """A broken file changes nothing and is reported; a mended one applies at once."""
        self.mesh.write("policy.yaml", ALLOW_CLIENT + "\n  - oops: [\n")
        time.sleep(1)
        self.assertNotEqual(self.mesh.call("mesh/near", outcome, self.mesh.ip("mesh/far"), 9000), "ok", "last good state")
        said = self.mesh.ctl("policies", "--name", self.mesh.name).stdout + self.mesh.ctl("status", "--name", self.mesh.name, check=False).stdout
        self.assertIn("policy.yaml", said)
        self.mesh.write("policy.yaml", ALLOW_CLIENT.replace("sa/client", "sa/server"))
        start = time.monotonic()
        self.mesh.wait("applied", lambda: self.mesh.call("mesh/near", outcome, self.mesh.ip("mesh/far"), 9000) == "ok", 10)
        self.assertLess(time.monotonic() - start, 3)
        self.mesh.write("policy.yaml", ALLOW_CLIENT)
        self.mesh.wait("applied", lambda: self.mesh.call("mesh/near", outcome, self.mesh.ip("mesh/far"), 9000) != "ok", 10)


def leftovers(name):
    """Everything on this machine that carries the mesh's name."""
    found = [n for n in os.listdir("/run/netns") if n.startswith(f"qanat-{name}-")] if os.path.isdir("/run/netns") else []
    from bed import cgroup2
    found += [g for g in os.listdir(cgroup2()) if g == f"qanat-{name}"]
    pins = "/sys/fs/bpf/qanat"
    found += [p for p in os.listdir(pins) if p.startswith(f"{name}-")] if os.path.isdir(pins) else []
    found += [f"/run/qanat/{name}"] if os.path.exists(f"/run/qanat/{name}") else []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = open(f"/proc/{pid}/cmdline").read().replace("\0", " ")
        except OSError:
            continue
        if f"/run/qanat/{name}" in command or (f"--name {name}" in command and "qanatctl" in command):
            found.append(f"process {pid}: {command}")
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True).stdout
    found += [line for line in links.splitlines() if "qanat" in line]
    return found


class Teardown(unittest.TestCase):
    def test_down_leaves_nothing(self):
        mesh = Mesh(name="gone")
        mesh.write("base.yaml", NAMESPACES + "---\n" + APPS)
        mesh.up()
        self.assertTrue(leftovers("gone"), "the check must be able to find something")
        mesh.down()
        self.assertEqual(leftovers("gone"), [])

    def test_down_after_everything_was_killed(self):
        mesh = Mesh(name="gone")
        mesh.write("base.yaml", NAMESPACES + "---\n" + APPS)
        mesh.up()
        pids = [p["pid"] for p in mesh.state()["programs"]]
        supervisor = int(open(f"{mesh.run}/supervisor.pid").read())
        os.kill(supervisor, signal.SIGKILL)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        mesh.down()
        self.assertEqual(leftovers("gone"), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
