#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A node proxy restarted while the control plane is away: the last good state brings its pods back,
policies bind as saved, its age is shown; one that is too old, damaged or lost opens nothing."""
import os
import re
import signal
import unittest

from bed import MeshCase, outcome
from fixture import APPS, NAMESPACES, authorization

# Of near, 9001 is refused; client has no policy at all. Plain text, as nobody gets a certificate while
# the control plane is away.
DENY_GREETING = authorization("no-greeting", """
  action: DENY
  selector: {matchLabels: {app: near}}
  rules:
  - to: [{operation: {ports: ["9001"]}}]
""")
REFUSED = ("refused", "reset", "closed")


class StateCase(MeshCase):
    files = {"base.yaml": NAMESPACES + "---\n" + APPS, "policy.yaml": DENY_GREETING}

    def setUp(self):
        self.mesh.until("ztunnel is ready", lambda: self.mesh.admin("node1", "/healthz/ready", 15021)[0], 200)
        self.reaches("mesh/client", "mesh/far", 9000)
        self.reaches("plain/outsider", "mesh/near", 9000)
        self.refused("plain/outsider", "mesh/near", 9001)
        self.file = f"{self.mesh.run}/nodes/node1/ztunnel-state/mesh.state"
        self.mesh.wait("the state is saved", lambda: os.path.exists(self.file))

    def try_(self, source, target, port, timeout=10):
        return self.mesh.call(source, outcome, self.mesh.ip(target), port, b"x", timeout)

    def reaches(self, source, target, port, seconds=60):
        self.mesh.until(f"{source} reaches {target}:{port}", lambda: self.try_(source, target, port), "ok", seconds)

    def refused(self, source, target, port, seconds=60):
        self.mesh.until(f"{source} is refused at {target}:{port}", lambda: self.try_(source, target, port),
                        lambda seen: seen in REFUSED, seconds)

    def metric(self, name):
        text = self.mesh.admin("node1", "/metrics", 15020)[2].decode()
        return float(re.search(rf"^{name} (\S+)$", text, re.M)[1])

    def readiness(self):
        status, _, body = self.mesh.admin("node1", "/healthz/ready", 15021)
        return status, body.decode()

    def without_control_plane(self, prepare=lambda: None):
        """Restarts the proxy while the control plane does not answer: it is stopped, so that its
        supervisor does not start another one. It goes on when the test ends."""
        pid = self.mesh.program_pid("controlplane")
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(os.kill, pid, signal.SIGCONT)
        log = f"{self.mesh.run}/logs/ztunnel-node1.log"
        self.log_from = os.path.getsize(log)
        with self.mesh.supervisor_stopped():
            old = self.mesh.kill("ztunnel-node1")
            self.mesh.wait("it has ended", lambda: not self.mesh.is_alive(old, "qanat-"))
            prepare()  # now nobody writes the file
        self.mesh.wait("it runs again", lambda: self.mesh.program_pid("ztunnel-node1") not in (old, 0, None))
        return pid

    def said(self):
        with open(f"{self.mesh.run}/logs/ztunnel-node1.log", errors="replace") as log:
            log.seek(self.log_from)
            return log.read()


class SavedState(StateCase):
    def test_the_last_good_state_holds(self):
        pid = self.without_control_plane()
        self.reaches("plain/outsider", "mesh/near", 9000)
        self.refused("plain/outsider", "mesh/near", 9001)
        self.reaches("mesh/client", "plain/bystander", 9000)  # outwards too: all pods are back
        self.mesh.until("its age is shown", lambda: self.metric("qanat_saved_state_age_seconds"), lambda age: age > 0)
        status, text = self.readiness()
        self.assertEqual(status, 500)
        self.assertRegex(text, r"xds \(saved state of \d{4}-\d\d-\d\dT")
        self.assertIn("is in force until the control plane answers", self.said())
        # Nobody can be told who client is, so nothing of it goes in the clear instead.
        self.assertNotEqual(self.try_("mesh/client", "mesh/far", 9000, timeout=3), "ok")

        os.kill(pid, signal.SIGCONT)
        self.mesh.until("it is live again", lambda: self.readiness()[0], 200)
        self.mesh.until("it has no age", lambda: self.metric("qanat_saved_state_age_seconds"), 0)
        self.reaches("mesh/client", "mesh/far", 9000)
        self.refused("plain/outsider", "mesh/near", 9001)

    def nothing_is_served(self, complaint, pid):
        self.mesh.until("it says so", self.said, lambda text: complaint in text and "no pod is served before" in text)
        for port in (9000, 9001):
            # 9001 greets first: "corrupt" is what it gives to who is let in
            self.assertNotIn(self.try_("plain/outsider", "mesh/near", port, timeout=3), ("ok", "corrupt"))
        status, text = self.readiness()
        self.assertEqual((status, "saved state" in text), (500, False), text)
        self.mesh.until("it is counted", lambda: self.metric("qanat_saved_state_errors_total"), 1)
        os.kill(pid, signal.SIGCONT)
        self.reaches("plain/outsider", "mesh/near", 9000)
        self.refused("plain/outsider", "mesh/near", 9001)

    def test_a_damaged_file_serves_nothing(self):
        def damage():
            with open(self.file, "r+b") as file:
                file.seek(os.path.getsize(self.file) // 2)
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 0x40]))
        self.nothing_is_served("mesh.state", self.without_control_plane(damage))

    def test_a_file_that_others_can_write_serves_nothing(self):
        pid = self.without_control_plane(lambda: os.chmod(self.file, 0o666))
        self.nothing_is_served("is not believed", pid)


class OldState(StateCase):
    environment = {"QANAT_MAX_STALE": "1s"}

    def test_an_old_state_refuses_what_a_deny_could(self):
        """near has a DENY policy, which may have changed: nobody gets in. client has none: it stays open."""
        pid = self.without_control_plane()
        self.mesh.until("it says so", self.said, lambda text: "QANAT_MAX_STALE" in text)
        self.mesh.until("it is counted", lambda: self.metric("qanat_saved_state_expired"), 1)
        self.reaches("plain/outsider", "mesh/client", 9000)
        self.refused("plain/outsider", "mesh/near", 9000)
        self.refused("plain/outsider", "mesh/near", 9001)
        self.assertRegex(self.readiness()[1], r"xds \(expired state of ")
        os.kill(pid, signal.SIGCONT)
        self.reaches("plain/outsider", "mesh/near", 9000)
        self.mesh.until("it is live", lambda: self.metric("qanat_saved_state_expired"), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
