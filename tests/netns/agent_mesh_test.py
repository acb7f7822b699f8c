#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The agent hears of the mesh what its node's proxy hears: the same workloads and policies, live; how old it may be
while the control plane is stopped, killed, and back. Capture does not hang on it."""
import json
import os
import signal
import unittest

from bed import MeshCase, outcome
from fixture import APPS, NAMESPACES, authorization

POLICY = authorization("no-greeting", """
  action: DENY
  selector: {matchLabels: {app: near}}
  rules:
  - to: [{operation: {ports: ["9001"]}}]
""")


class AgentMesh(MeshCase):
    files = {"base.yaml": NAMESPACES + "---\n" + APPS}

    def heard(self, node="node1"):
        status, _, body = self.mesh.admin(node, "/mesh", 15030)
        self.assertEqual(status, 200)
        return json.loads(body)

    def current(self, node="node1"):
        return self.mesh.until(f"{node}'s agent is current", lambda: self.heard(node), lambda m: m["ageSeconds"] is not None)

    def proxys(self):
        dump = json.loads(self.mesh.admin("node1", "/config_dump")[2])
        return {"workloads": len(dump["workloads"]), "services": len(dump["services"])}

    def test_it_knows_what_the_proxy_knows(self):
        for node in ("node1", "node2"):
            self.current(node)

        def same():
            told = self.heard()["snapshot"]
            return self.proxys() == {key: told[key] for key in ("workloads", "services")}
        self.mesh.until("both know the same", same, True)
        before = self.heard()["resources"]["policies"]
        self.mesh.write("policy.yaml", POLICY)
        self.mesh.until("a policy arrives", lambda: self.heard()["resources"]["policies"], before + 1)
        self.mesh.remove("policy.yaml")
        self.mesh.until("and goes", lambda: self.heard()["resources"]["policies"], before)
        metrics = self.mesh.admin("node1", "/metrics", 15030)[2].decode()
        self.assertIn("\nqanat_xds_current 1\n", metrics)
        self.assertIn("\nqanat_xds_age_seconds ", metrics)

    def test_a_silent_control_plane_is_noticed_and_what_is_known_stays(self):
        known = self.current()["snapshot"]
        pid = self.mesh.program_pid("controlplane")
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(os.kill, pid, signal.SIGCONT)
        # Nothing says that it is gone: only the age tells.
        self.mesh.until("its age grows", lambda: self.heard()["ageSeconds"], lambda age: age is not None and age > 3, 20)
        self.assertTrue(self.heard()["connected"])
        self.mesh.until("and then it is given up", lambda: self.heard()["ageSeconds"], None, 60)
        self.assertEqual(self.heard()["snapshot"]["workloads"], known["workloads"])
        self.assertEqual(self.mesh.admin("node1", "/healthz/ready", 15030)[0], 200)
        self.assertEqual(self.mesh.call("mesh/client", outcome, self.mesh.ip("mesh/far"), 9000, b"x", 30), "ok")
        os.kill(pid, signal.SIGCONT)
        self.current()

    def test_a_control_plane_that_is_killed_comes_back(self):
        self.current()
        self.mesh.kill("controlplane")
        self.mesh.until("it is missed", lambda: self.heard()["lastError"], lambda error: error != "")
        self.current()

    def test_an_agent_that_is_killed_hears_it_all_again(self):
        self.current()
        self.mesh.kill("agent-node1")
        self.mesh.until("the next agent answers", lambda: self.mesh.admin("node1", "/healthz/ready", 15030)[0], 200)
        self.assertGreater(self.current()["snapshot"]["workloads"], 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
